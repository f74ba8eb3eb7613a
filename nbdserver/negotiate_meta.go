package nbdserver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// metaQuery is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
type metaQuery struct {
	export  string
	queries []string
}

// metaContext is a metadata context that is set.
type metaContext struct {
	name string
	of   MetaContext // nil of base:allocation, and before an export is open
}

const (
	// maxContexts bounds the contexts of a connection.
	maxContexts = 16
	// maxQueries bounds the queries of one option.
	maxQueries = 256
)

// metaContexts answers LIST_META_CONTEXT and SET_META_CONTEXT. A SET replaces
// the former one even when it fails.
func (c *conn) metaContexts(ctx context.Context, o option) error {
	set := o.id == optSetMeta
	if set {
		c.metaFor, c.contexts = "", nil
	}
	if c.headers == compact {
		return c.refuse(o, repErrInvalid, "metadata contexts need structured replies or extended headers: negotiate those first")
	}
	q, ok := parseMeta(o.data)
	if !ok {
		return c.refuse(o, repErrInvalid, "want an export name and a list of queries that fill the option exactly")
	}
	if len(q.queries) > maxQueries {
		return c.refuse(o, repErrTooBig, fmt.Sprintf("%d queries: want at most %d", len(q.queries), maxQueries))
	}
	if !set && len(q.queries) == 0 {
		q.queries = []string{""}
	}
	var names []string
	for _, s := range q.queries {
		for _, name := range c.matching(ctx, q.export, s) {
			if validName(name) && !slices.Contains(names, name) && (!set || name == s) {
				names = append(names, name)
			}
		}
	}
	if set && len(names) > maxContexts {
		return c.refuse(o, repErrTooBig, fmt.Sprintf("%d contexts: want at most %d", len(names), maxContexts))
	}
	var b []byte
	for i, name := range names {
		id := uint32(i + 1)
		if set {
			c.metaFor = q.export
			c.contexts = append(c.contexts, metaContext{name: name})
		} else {
			id = 0
		}
		b = appendOptionReply(b, o.id, repMetaContext, append(be.AppendUint32(nil, id), name...))
	}
	return c.send(appendOptionReply(b, o.id, repAck, nil))
}

// matching returns the names of the contexts that match a query; of a query for
// a wildcard or for all, "", those to show.
func (c *conn) matching(ctx context.Context, export, query string) (names []string) {
	if query == "" || query == baseNamespace || query == baseAllocation {
		names = append(names, baseAllocation)
	}
	cb, ok := c.srv.backend.(ContextBackend)
	if !ok || strings.HasPrefix(query, baseNamespace) {
		return names
	}
	own, err := cb.Contexts(ctx, export, query, c.describe())
	if err != nil { // such as an export that is not there: it has none
		c.log.Debug("metadata contexts", zap.String("export", export), zap.String("query", query), zap.Error(err))
	}
	return append(names, own...)
}

// openContexts opens the contexts that are set for the export that is.
func (c *conn) openContexts(ctx context.Context, name string, dev Device) error {
	if c.metaFor != name {
		c.contexts = nil // they hold for the export that they were set for
	}
	for i, m := range c.contexts {
		if m.name == baseAllocation {
			continue
		}
		cd, ok := dev.(ContextDevice)
		if !ok {
			return block.Errorf(block.Internal, "the backend has the context %s and its device has not", m.name)
		}
		of, err := cd.Context(ctx, m.name)
		if err != nil {
			return err
		}
		c.contexts[i].of = of
	}
	return nil
}

// parseMeta takes apart: u32 length of name, name, u32 count, count times (u32
// length, query).
func parseMeta(data []byte) (q metaQuery, ok bool) {
	str := func() (string, bool) {
		if len(data) < 4 {
			return "", false
		}
		n := uint64(be.Uint32(data))
		if n > maxStringBytes || n > uint64(len(data)-4) {
			return "", false
		}
		s := string(data[4 : 4+n])
		data = data[4+n:]
		return s, validName(s)
	}
	if q.export, ok = str(); !ok || len(data) < 4 {
		return q, false
	}
	n := be.Uint32(data)
	data = data[4:]
	if uint64(n) > uint64(len(data)/4) {
		return q, false
	}
	for range n {
		s, ok := str()
		if !ok {
			return q, false
		}
		q.queries = append(q.queries, s)
	}
	return q, len(data) == 0
}
