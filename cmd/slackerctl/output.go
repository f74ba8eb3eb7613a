package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slackerd/slacker/block"
)

// answer writes v as JSON or what people writes, in columns.
func (a *app) answer(v any, people func(w io.Writer)) error {
	if a.json {
		enc := json.NewEncoder(a.stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return block.Wrap(block.IO, enc.Encode(v), "write the answer")
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	people(w)
	return block.Wrap(block.IO, w.Flush(), "write the answer") // Flush returns earlier errors too
}

// done is answer for a confirmation.
func (a *app) done(v any, format string, args ...any) error {
	if a.quiet && !a.json {
		return nil
	}
	return a.answer(v, func(w io.Writer) { line(w, fmt.Sprintf(format, args...)) })
}

// line writes cells as one line of columns. Errors stay in w.
func line(w io.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = oneLine(c)
	}
	_, _ = fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// orDash shows that a cell is empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// when writes a time for people.
func (a *app) when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().In(a.location).Format("2006-01-02 15:04:05")
}

// stamp is a time in JSON, RFC 3339 in UTC, or empty when it is not known.
func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339Nano)
}

// list makes an array that is never null.
func list[M, J any](messages []M, convert func(M) J) []J {
	out := make([]J, 0, len(messages))
	for _, m := range messages {
		out = append(out, convert(m))
	}
	return out
}

func same[T any](v T) T { return v }
