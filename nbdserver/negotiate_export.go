package nbdserver

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// exportFlags returns the transmission flags of an export.
func (c *conn) exportFlags(name string, i Info) uint16 {
	f := canFlags | canFlush | canFUA | canMultiConn | canCache
	if i.ReadOnly {
		f |= canOnlyRead
	} else {
		f |= canTrim | canWriteZeroes | canFastZero
	}
	if c.headers != compact {
		f |= canDF
	}
	if c.headers == extended && len(c.contexts) > 0 && c.metaFor == name {
		f |= canStatusOf
	}
	return f
}

// validName reports whether a name is one that the protocol allows.
func validName(s string) bool {
	return len(s) <= maxStringBytes && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// exportName opens an export by the old option, whose only error reply is to
// close the connection.
func (c *conn) exportName(ctx context.Context, name string) error {
	if c.headers == extended {
		return block.Errorf(block.Invalid, "EXPORT_NAME after EXTENDED_HEADERS: want GO")
	}
	if !validName(name) {
		return block.Errorf(block.Invalid, "export name of %d bytes: want UTF-8 of at most %d bytes without NUL", len(name), maxStringBytes)
	}
	if err := c.enter(ctx, name); err != nil {
		return err
	}
	b := be.AppendUint64(nil, c.info.SizeBytes)
	b = be.AppendUint16(b, c.exportFlags(name, c.info))
	if !c.noZeroes {
		b = append(b, make([]byte, exportZeroesBytes)...)
	}
	return c.enterTransmission(b)
}

// enter opens an export to be served.
func (c *conn) enter(ctx context.Context, name string) error {
	dev, info, err := c.openDevice(ctx, name, false)
	if err != nil {
		return err
	}
	if err := c.openContexts(ctx, name, dev); err != nil {
		return errors.Join(err, dev.Close())
	}
	c.dev, c.info = dev, info
	return nil
}

// infoOrGo answers NBD_OPT_INFO and NBD_OPT_GO.
func (c *conn) infoOrGo(ctx context.Context, o option) (name string, done bool, err error) {
	name, wanted, ok := parseInfo(o.data)
	if !ok {
		return "", false, c.refuse(o, repErrInvalid, "want a name length, a name and a list of information types that fill the option exactly")
	}
	info, err := c.open(ctx, name, o.id == optGo)
	if err != nil {
		c.log.Debug("nbd export refused", zap.String("export", name), zap.Error(err))
		return "", false, c.refuse(o, c.openError(err), err.Error())
	}
	send := c.send
	if o.id == optGo {
		send = c.enterTransmission
	}
	return name, o.id == optGo, send(c.appendInfo(o, name, info, wanted))
}

// open opens an export to be served, or only to say what it is.
func (c *conn) open(ctx context.Context, name string, serve bool) (Info, error) {
	if serve {
		err := c.enter(ctx, name)
		return c.info, err
	}
	dev, info, err := c.openDevice(ctx, name, true)
	if err != nil {
		return Info{}, err
	}
	if err := dev.Close(); err != nil {
		c.log.Warn("close of a device", zap.String("export", name), zap.Error(err))
	}
	return info, nil
}

// parseInfo takes apart the data of INFO and GO: u32 length of name, name, u16
// count, count times u16.
func parseInfo(data []byte) (name string, wanted []uint16, ok bool) {
	if len(data) < 6 {
		return "", nil, false
	}
	nName := uint64(be.Uint32(data))
	if nName > uint64(len(data)-6) {
		return "", nil, false
	}
	name, data = string(data[4:4+nName]), data[4+nName:]
	n := int(be.Uint16(data))
	if len(data) != 2+2*n || !validName(name) {
		return "", nil, false
	}
	for i := range n {
		wanted = append(wanted, be.Uint16(data[2+2*i:]))
	}
	return name, wanted, true
}

// appendInfo returns the replies to INFO and GO: what must be told, what was
// asked for and is known, and the ACK.
func (c *conn) appendInfo(o option, name string, info Info, wanted []uint16) []byte {
	d := be.AppendUint16(nil, infoExport)
	d = be.AppendUint64(d, info.SizeBytes)
	b := appendOptionReply(nil, o.id, repInfo, be.AppendUint16(d, c.exportFlags(name, info)))
	d = be.AppendUint16(nil, infoBlockSize)
	d = be.AppendUint32(d, info.MinBlockBytes)
	d = be.AppendUint32(d, info.PreferredBlockBytes)
	b = appendOptionReply(b, o.id, repInfo, be.AppendUint32(d, info.MaxRequestBytes))
	var named, described bool
	for _, w := range wanted {
		switch {
		case w == infoName && !named:
			named = true
			b = appendOptionReply(b, o.id, repInfo, append(be.AppendUint16(nil, infoName), name...))
		case w == infoDescription && !described && info.Description != "":
			described = true
			b = appendOptionReply(b, o.id, repInfo, append(be.AppendUint16(nil, infoDescription), clip(info.Description)...))
		}
	}
	return appendOptionReply(b, o.id, repAck, nil)
}

const (
	// listBatchBytes is how much of a listing is sent at once.
	listBatchBytes = 64 << 10
	// listsAtOnce bounds the listings under way in the server, each of which may
	// hold the names of all exports for as long as a client takes to read them.
	listsAtOnce = 16
)

// list answers NBD_OPT_LIST: one reply for each export.
func (c *conn) list(ctx context.Context, o option) error {
	if err := c.srv.lists.Acquire(ctx, 1); err != nil {
		return block.Wrap(block.Unavailable, err, "wait for other listings")
	}
	defer c.srv.lists.Release(1)
	exports, err := c.srv.backend.List(ctx, c.describe())
	if err != nil {
		c.log.Warn("list of exports", zap.Error(err))
		typ := optionError(err)
		if typ == repErrUnknown {
			typ = repErrPolicy
		}
		return c.refuse(o, typ, err.Error())
	}
	var b []byte
	for _, e := range exports {
		if !validName(e.Name) {
			continue
		}
		d := be.AppendUint32(nil, uint32(len(e.Name)))
		d = append(d, e.Name...)
		b = appendOptionReply(b, o.id, repServer, append(d, clip(e.Description)...))
		if len(b) >= listBatchBytes {
			if err := c.send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	return c.send(appendOptionReply(b, o.id, repAck, nil))
}
