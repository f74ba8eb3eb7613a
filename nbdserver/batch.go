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
		c.batch = c.newBatch()
		c.batch.from, c.batch.to = headBytes, headBytes
	}
}

// newBatch returns a buffer for replies. One of a connection is its own; while
// replies are on their way it takes another one from its budget, or waits for
// them. It never waits for what others hold.
func (c *conn) newBatch() *buffer {
	if c.out.busy() {
		if b := c.mem.tryBuffer(batchBytes); b != nil {
			return b
		}
		c.out.idle()
	}
	return newBuffer(batchBytes)
}

// batchTail returns the batch to append to; appended takes it back.
func (c *conn) batchTail() []byte { return c.batch.mem[:c.batch.to] }

func (c *conn) appended(b []byte) { c.batch.to = len(b) }

// flush sends the batch. Writes in it are settled first; when that fails
// nobody is told that they were done.
func (c *conn) flush() {
	b := c.batch
	c.batch, c.holds = nil, false
	if b == nil {
		return
	}
	if b.to == b.from {
		b.release() // nobody holds what is empty while it waits
		return
	}
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
const maxReplyBytes = extendedChunkBytes + 6 + maxStringBytes

// appendReply puts a reply without data into the batch.
func (c *conn) appendReply(r *request, e Errno, text string) {
	c.room(maxReplyBytes)
	c.appended(c.headers.appendResult(c.batchTail(), r, e, text))
}

// sendRead answers a READ whose data, when e is OK, is in b; it takes b over.
func (c *conn) sendRead(r *request, b *buffer, e Errno, text string) {
	n := int(r.lengthBytes)
	var head [headBytes]byte
	switch {
	case e != OK:
		c.out.send(c.headers.appendResult(make([]byte, 0, maxReplyBytes), r, e, text), nil)
	case c.headers != compact && block.IsZero(b.data(n)):
		c.out.send(c.headers.appendHole(head[:0], r), nil)
	default:
		b.setHead(c.headers.appendDataHead(head[:0], r), n)
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
