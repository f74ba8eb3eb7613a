package nbdserver

import (
	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// The batch belongs to the reading goroutine: c.batch, or nil when empty.

// room makes nBytes, at most batchBytes, fit in the batch.
func (c *conn) room(nBytes int) {
	if c.batch != nil && headBytes+batchBytes-c.batch.to < nBytes {
		c.flush()
	}
	if c.batch == nil {
		c.batch = newBuffer(batchBytes)
		c.batch.from, c.batch.to = headBytes, headBytes
	}
}

// batchTail returns the batch to append to; appended takes it back.
func (c *conn) batchTail() []byte { return c.batch.mem[:c.batch.to] }

func (c *conn) appended(b []byte) { c.batch.to = len(b) }

// flush sends the batch. Writes in it are settled first; when that fails
// nobody is told that they were done.
func (c *conn) flush() {
	if c.batch == nil || c.batch.to == c.batch.from {
		return
	}
	b := c.batch
	c.batch = nil
	if c.unsettled {
		c.unsettled = false
		if err := c.dev.Settle(); err != nil {
			c.log.Error("nbd writes cannot be answered", zap.Error(err))
			c.kill(err)
			b.release()
			return
		}
	}
	c.out.send(nil, b)
}

// maxReplyBytes bounds a reply without data.
const maxReplyBytes = chunkHeaderBytes + 6 + maxStringBytes

// appendReply puts a reply without data into the batch.
func (c *conn) appendReply(r *request, e Errno, text string) {
	c.room(maxReplyBytes)
	c.appended(c.appendResult(c.batchTail(), r, e, text))
}

// appendResult appends a reply without data.
func (c *conn) appendResult(b []byte, r *request, e Errno, text string) []byte {
	if e != OK && c.structured {
		return appendError(b, e, r.cookie, text)
	}
	return appendSimple(b, e, r.cookie)
}

// appendReadHead appends what goes before the data of a successful READ.
func (c *conn) appendReadHead(b []byte, r *request) []byte {
	if !c.structured {
		return appendSimple(b, OK, r.cookie)
	}
	b = appendChunk(b, chunkData, r.cookie, uint32(8+r.lengthBytes))
	return be.AppendUint64(b, r.offBytes)
}

// sendRead answers a READ whose data, when e is OK, is in b; it takes b over.
func (c *conn) sendRead(r *request, b *buffer, e Errno, text string) {
	n := int(r.lengthBytes)
	var head [headBytes]byte
	switch {
	case e != OK:
		c.out.send(c.appendResult(make([]byte, 0, maxReplyBytes), r, e, text), nil)
	case c.structured && isZero(b.data(n)):
		c.out.send(appendHole(head[:0], r.cookie, r.offBytes, uint32(n)), nil)
	default:
		b.setHead(c.appendReadHead(head[:0], r), n)
		c.out.send(nil, b)
		return
	}
	b.release()
}

// textOf returns the text of an error for the client.
func textOf(err error) string {
	if err == nil {
		return ""
	}
	return block.KindOf(err).String() + ": " + err.Error()
}
