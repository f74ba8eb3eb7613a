package nbdserver

import (
	"context"
	"time"

	"github.com/slackerd/slacker/block"
)

// Metrics is told of connections. Its methods may be called concurrently and
// must not block.
type Metrics interface {
	// ConnectionOpened and ConnectionClosed bracket every accepted connection.
	ConnectionOpened()
	ConnectionClosed()
	// ConnectionRefused counts a connection over the limit.
	ConnectionRefused()
	// ExportOpened returns what is told of the commands of a connection whose
	// client has opened the export of that name.
	ExportOpened(conn Conn, export string, dev Device) Recorder
}

// Recorder is told of the commands of one connection. Its methods must cost
// next to nothing: they are called for every command.
type Recorder interface {
	// Arrived tells that the header of a command is there. One goroutine calls
	// it.
	Arrived()
	// Done tells how a command ended that has arrived. Any goroutine calls it.
	// A connection that breaks off leaves commands that are never done.
	Done(Done)
	// Closed tells that nothing more comes. It is called once.
	Closed()
}

// Done describes one executed or refused command.
type Done struct {
	Command Command
	// Result is EIO also for a command that closed the connection.
	Result                Errno
	OffBytes, LengthBytes uint64 // as asked for, also when refused
	// Took is the time from the arrival of the header to the result. Payload of
	// it went by until the client had sent the data of a WRITE, if that was
	// waited for; Queued until the command ran, if another goroutine ran it.
	Took, Payload, Queued time.Duration
	// Waits says what the device spent where. It is nil for a command that was
	// not expected to wait, and valid only during the call.
	Waits *block.Waits
}

// done tells the recorder of a command.
func (c *conn) done(r *request, e Errno) {
	if c.rec == nil {
		return
	}
	if e == closes {
		e = EIO
	}
	d := Done{Command: r.cmd, Result: e, OffBytes: r.offBytes, LengthBytes: r.lengthBytes, Took: c.srv.since(r.began), Waits: r.waits}
	if r.ready != 0 {
		d.Payload = time.Duration(r.ready - r.began)
	}
	if r.ran != 0 {
		d.Queued = time.Duration(r.ran-r.began) - d.Payload
	}
	c.rec.Done(d)
}

// arrived notes that the header of a command is there.
func (c *conn) arrived(r *request) {
	*r = request{flags: r.flags, cmd: r.cmd, cookie: r.cookie, offBytes: r.offBytes, lengthBytes: r.lengthBytes, payloadBytes: r.payloadBytes}
	if c.rec != nil {
		r.began = c.srv.now()
		c.rec.Arrived()
	}
}

// record makes the recorder of the connection, now that its export is open.
func (c *conn) record(export string) {
	if c.srv.metrics != nil {
		c.rec = c.srv.metrics.ExportOpened(c.describe(), export, c.dev)
	}
	c.own = c.measured()
}

// measuredContext is the context of a connection's calls, with the place where
// one goroutine's are measured.
type measuredContext struct {
	context.Context
	waits *block.Waits // nil when nobody measures
}

func (c *conn) measured() measuredContext {
	if c.rec == nil {
		return measuredContext{c.ctx, nil}
	}
	w := new(block.Waits)
	return measuredContext{block.WithWaits(c.ctx, w), w}
}
