package nbdserver

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"github.com/slackerd/slacker/block"
)

// errAborted ends a negotiation that the client ended in order.
var errAborted = errors.New("client ended the negotiation")

// option is one option of a client.
type option struct {
	id   uint32
	data []byte
}

// negotiate runs the handshake. When it returns nil the export c.dev is open
// and the transmission phase begins. It reads exactly what the client must
// have sent: the upgrade to TLS finds nothing buffered (invariant 8).
func (c *conn) negotiate() (name string, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.srv.limits.Handshake)
	defer cancel()
	deadline := time.Now().Add(c.srv.limits.Handshake)
	if err := c.raw.SetWriteDeadline(deadline); err != nil {
		return "", block.Wrap(block.IO, err, "set write deadline")
	}
	c.readDeadline(deadline)
	if err := c.greet(); err != nil {
		return "", err
	}
	for range c.srv.limits.Options {
		o, err := c.readOption()
		if err != nil {
			return "", err
		}
		name, done, err := c.handleOption(ctx, o)
		if err != nil {
			return "", err
		}
		if done {
			return name, nil
		}
	}
	return "", block.Errorf(block.Invalid, "client sent more than %d options", c.srv.limits.Options)
}

func (c *conn) greet() error {
	b := be.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OLDSTYLE)
	b = be.AppendUint64(b, protocol.NEGOTIATION_MAGIC_OPTION)
	b = be.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)
	if _, err := c.nc.Write(b); err != nil {
		return block.Wrap(block.IO, err, "send greeting")
	}
	var raw [clientFlagsBytes]byte
	if _, err := io.ReadFull(c.nc, raw[:]); err != nil {
		return block.Wrap(block.IO, err, "read client flags")
	}
	flags := be.Uint32(raw[:])
	if flags&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return block.Errorf(block.Invalid, "client flags %#x: want no bit but 0 and 1", flags)
	}
	c.noZeroes = flags&uint32(flagNoZeroes) != 0
	c.fixed = flags&uint32(flagFixedNewstyle) != 0
	if c.needsTLS() && !c.fixed {
		// The protocol wants no word of TLS to such a client.
		return block.Errorf(block.Permission, "client flags %#x: TLS is required, which needs fixed newstyle", flags)
	}
	return nil
}

// readOption reads the next option that is short enough; those that are not are
// answered, or end the negotiation.
func (c *conn) readOption() (option, error) {
	for range c.srv.limits.Options {
		var head [optionHeaderBytes]byte
		if _, err := io.ReadFull(c.nc, head[:]); err != nil {
			return option{}, block.Wrap(block.IO, err, "read option")
		}
		if m := be.Uint64(head[:]); m != protocol.NEGOTIATION_MAGIC_OPTION {
			return option{}, block.Errorf(block.Invalid, "option magic %#x: want %#x", m, protocol.NEGOTIATION_MAGIC_OPTION)
		}
		o, nBytes := option{id: be.Uint32(head[8:])}, int64(be.Uint32(head[12:]))
		limit := int64(c.srv.limits.OptionBytes)
		if nBytes <= limit {
			o.data = make([]byte, nBytes)
			_, err := io.ReadFull(c.nc, o.data)
			return o, block.Wrap(block.IO, err, "read option data")
		}
		if nBytes > 4*limit || o.id == optExportName {
			return option{}, block.Errorf(block.Invalid, "option %d has %d bytes: want at most %d", o.id, nBytes, limit)
		}
		if _, err := io.CopyN(io.Discard, c.nc, nBytes); err != nil {
			return option{}, block.Wrap(block.IO, err, "read option data")
		}
		if err := c.refuse(o, repErrTooBig, "the option is too long"); err != nil {
			return option{}, err
		}
	}
	return option{}, block.Errorf(block.Invalid, "client sent more than %d options", c.srv.limits.Options)
}

// handleOption answers one option. done means that the transmission begins.
func (c *conn) handleOption(ctx context.Context, o option) (name string, done bool, err error) {
	if c.isDraining() && o.id != optAbort {
		if o.id == optExportName {
			return "", false, errStopped
		}
		return "", false, c.refuse(o, repErrShutdown, "the server is shutting down")
	}
	if c.needsTLS() && o.id != optAbort && o.id != optStartTLS {
		if o.id == optExportName {
			return "", false, block.Errorf(block.Permission, "EXPORT_NAME without TLS: TLS is required")
		}
		return "", false, c.refuse(o, repErrTLSReqd, "this server requires TLS: want STARTTLS first")
	}
	switch o.id {
	case optExportName:
		name, err = string(o.data), c.exportName(ctx, string(o.data))
		return name, err == nil, err
	case optAbort:
		return "", false, errors.Join(errAborted, c.reply(o, repAck, nil))
	case optInfo, optGo:
		return c.infoOrGo(ctx, o)
	case optListMeta, optSetMeta:
		return "", false, c.metaContexts(ctx, o)
	case optList, optStructuredReply, optExtendedHeaders, optStartTLS:
		if len(o.data) != 0 {
			return "", false, c.refuse(o, repErrInvalid, "this option takes no data")
		}
	}
	switch o.id {
	case optList:
		return "", false, c.list(ctx, o)
	case optStructuredReply:
		if c.headers == extended {
			return "", false, c.refuse(o, repErrExtended, "extended headers are set, which go before structured replies")
		}
		c.headers = structured
		return "", false, c.reply(o, repAck, nil)
	case optExtendedHeaders:
		c.headers = extended
		return "", false, c.reply(o, repAck, nil)
	case optStartTLS:
		return "", false, c.startTLS(ctx, o)
	}
	return "", false, c.refuse(o, repErrUnsup, "this server does not know the option")
}

func (c *conn) reply(o option, typ uint32, data []byte) error {
	return c.send(appendOptionReply(nil, o.id, typ, data))
}

// refuse answers an option with an error and a text for people.
func (c *conn) refuse(o option, typ uint32, text string) error {
	return c.reply(o, typ, []byte(clip(text)))
}

func (c *conn) send(b []byte) error {
	_, err := c.nc.Write(b)
	return block.Wrap(block.IO, err, "send option reply")
}
