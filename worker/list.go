package worker

import (
	"context"
	"slices"
	"strings"
	"time"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/lazy"
)

// Conditions of a row of a listing.
const (
	ConditionOK      = "ok"
	ConditionBusy    = "changing" // being attached or detached just now
	ConditionStale   = "stale"    // left over: list --clean or detach removes it
	ConditionUnknown = "unverified"
)

// Row is one attached target, checked against the kernel and the server.
type Row struct {
	Target       string    `json:"target"`
	Device       string    `json:"device"`
	Driver       string    `json:"driver"`
	Mounts       []string  `json:"mounts"`
	ReadOnly     bool      `json:"read_only"`
	SizeBytes    uint64    `json:"size_bytes"`
	AttachmentID string    `json:"attachment_id"`
	Server       string    `json:"server"`
	Created      time.Time `json:"created"`
	// Cache is what the fuse driver's cache did for it so far.
	Cache     *lazy.Stats `json:"cache,omitempty"`
	Condition string      `json:"condition"`
	Why       string      `json:"why,omitempty"`
}

// List returns what is attached here, by target, each checked against the
// kernel and, if it answers, the server. An agent that is missing but can be
// started without touching I/O is started.
func (w *Worker) List(ctx context.Context) ([]Row, error) {
	rows, _, err := w.list(ctx)
	return rows, err
}

// list is List, and why the server could not be asked, or nil.
func (w *Worker) list(ctx context.Context) (rows []Row, serverErr, err error) {
	states, faults, err := w.store.all()
	if err != nil {
		return nil, nil, err
	}
	atServer, serverErr := w.askForList(ctx)
	byID := map[string]*slackerv1.Attachment{}
	for _, a := range atServer {
		byID[a.GetId()] = a
	}
	rows = []Row{}
	for _, s := range states {
		row, err := w.row(ctx, s, byID, serverErr)
		if err != nil {
			return nil, nil, err
		}
		rows = append(rows, row)
		delete(byID, s.AttachmentID)
	}
	for _, a := range byID {
		if !slices.ContainsFunc(states, func(s *state) bool { return s.Target == a.GetTarget() && s.AttachmentID == "" }) {
			rows = append(rows, Row{Target: a.GetTarget(), ReadOnly: a.GetReadOnly(), SizeBytes: a.GetSizeBytes(), AttachmentID: a.GetId(),
				Server: w.Server, Created: a.GetCreated().AsTime(), Condition: ConditionStale, Why: "only the server knows of it"})
		}
	}
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Target, b.Target) })
	return rows, serverErr, joinLine(faults...)
}

// askForList is atServer for a listing: a server that hangs is given up soon.
func (w *Worker) askForList(ctx context.Context) ([]*slackerv1.Attachment, error) {
	short, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	atServer, err := w.atServer(short, "")
	if err != nil && short.Err() != nil && ctx.Err() == nil {
		err = block.Errorf(block.Unavailable, "the server at %s has not answered for %v", w.Server, listTimeout)
	}
	return atServer, err
}

// row checks one state.
func (w *Worker) row(ctx context.Context, s *state, byID map[string]*slackerv1.Attachment, serverErr error) (Row, error) {
	d := w.driver(s.Driver)
	device, err := d.device(s)
	if err != nil {
		return Row{}, err
	}
	at, err := mountsOf(device)
	if err != nil {
		return Row{}, err
	}
	r := Row{Target: s.Target, Device: device, Driver: s.Driver, Mounts: append([]string{}, at...), ReadOnly: s.ReadOnly, SizeBytes: s.SizeBytes,
		AttachmentID: s.AttachmentID, Server: s.Server, Created: s.Created, Cache: w.store.figures(s.Target).cache(), Condition: ConditionOK}
	unlock, err := w.store.lock(s.Target)
	if block.Is(err, block.Busy) {
		r.Condition, r.Why = ConditionBusy, "being attached or detached just now"
		return r, nil
	}
	if err != nil {
		return Row{}, err
	}
	defer unlock()
	if w.earlierBoot(s) {
		r.Condition, r.Why = ConditionStale, "of an earlier boot of this host"
	} else if s.Phase != phaseAttached {
		r.Condition, r.Why = ConditionStale, s.Phase+" was interrupted"
	} else if err := d.healthy(ctx, s, w.Executable); err != nil {
		r.Condition, r.Why = ConditionStale, err.Error()
	}
	switch {
	case r.Condition != ConditionOK || s.Server != w.Server:
	case serverErr != nil:
		r.Condition, r.Why = ConditionUnknown, serverErr.Error()
	case byID[s.AttachmentID] == nil:
		r.Condition, r.Why = ConditionStale, "the server no longer has the attachment"
	}
	return r, nil
}

// Clean removes what List marks as stale and returns the targets. What only the
// server knows of takes its answer: without one that is the error, and Clean is to
// be called again.
func (w *Worker) Clean(ctx context.Context) ([]string, error) {
	rows, serverErr, err := w.list(ctx)
	if err != nil {
		return nil, err
	}
	var cleaned []string
	var errs []error
	for _, r := range rows {
		if r.Condition != ConditionStale {
			continue
		}
		var err error
		if r.Driver == "" {
			err = w.dropOrphan(ctx, r)
		} else {
			_, err = w.Detach(ctx, r.Target, true)
		}
		if err != nil && !block.Is(err, block.NotFound) {
			errs = append(errs, err)
			continue
		}
		cleaned = append(cleaned, r.Target)
	}
	return cleaned, joinLine(append(errs, serverErr)...)
}

// dropOrphan ends an attachment that only the server knows of, unless somebody
// has begun to use it since the listing.
func (w *Worker) dropOrphan(ctx context.Context, r Row) error {
	unlock, err := w.store.lock(r.Target)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := w.store.load(r.Target)
	if err != nil || (s != nil && s.AttachmentID == r.AttachmentID) {
		return err
	}
	return w.detachAtServer(ctx, r.AttachmentID)
}
