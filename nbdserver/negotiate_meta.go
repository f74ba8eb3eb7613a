package nbdserver

// metaQuery is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
type metaQuery struct {
	export  string
	queries []string
}

// metaContexts answers LIST_META_CONTEXT and SET_META_CONTEXT. A SET replaces
// the former one even when it fails.
func (c *conn) metaContexts(o option) error {
	set := o.id == optSetMeta
	if set {
		c.metaFor, c.metaSet = "", false
	}
	if !c.structured {
		return c.refuse(o, repErrInvalid, "metadata contexts need structured replies: negotiate those first")
	}
	q, ok := parseMeta(o.data)
	if !ok {
		return c.refuse(o, repErrInvalid, "want an export name and a list of queries that fill the option exactly")
	}
	selected := !set && len(q.queries) == 0
	for _, s := range q.queries {
		selected = selected || s == baseAllocation || !set && s == baseNamespace
	}
	var b []byte
	if selected {
		id := metaContextID
		if !set {
			id = 0
		}
		b = appendOptionReply(b, o.id, repMetaContext, append(be.AppendUint32(nil, id), baseAllocation...))
	}
	if set {
		c.metaFor, c.metaSet = q.export, selected
	}
	return c.send(appendOptionReply(b, o.id, repAck, nil))
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
