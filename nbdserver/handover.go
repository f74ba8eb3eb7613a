package nbdserver

import (
	"context"
	"net"
	"os"
	"time"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// Handed is a connection between two commands, for another server to go on
// with. The client notices nothing but a pause.
type Handed struct {
	// File is the socket; it belongs to whoever has the Handed.
	File *os.File
	// Export is the name the client asked for, SizeBytes and Flags are what it
	// was told of it.
	Export    string
	SizeBytes uint64
	Flags     uint16
	// Headers and Contexts say what was negotiated.
	Headers  uint8
	Contexts []string
	// Input has arrived and is not used: less than a command.
	Input []byte
}

// Handover stops the server as Shutdown does, but keeps open the connections
// that another server can go on with: those in plaintext that have been
// negotiated. Each has answered every command that it has taken from its
// socket. What is not done when ctx ends is cut off.
func (s *Server) Handover(ctx context.Context) []Handed {
	s.stop()
	s.each((*conn).move)
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
	case <-ctx.Done():
		s.Close()
		<-done
	}
	return s.handed
}

// move makes the connection stop between two commands, or end if it cannot be
// handed over.
func (c *conn) move() {
	c.mu.Lock()
	transmits := c.transmits || c.adopted
	if transmits {
		c.draining, c.moving = true, c.raw == c.nc
		if !c.moving || !c.inPayload {
			if err := c.raw.SetReadDeadline(time.Unix(1, 0)); err != nil {
				c.log.Debug("set read deadline", zap.Error(err))
			}
		}
	}
	c.mu.Unlock()
	if !transmits { // nothing of it would be lost, but time
		c.kill(errStopped)
	}
}

// payloadBegins sets the deadline for the payload of a command, which is read
// to its end also when the connection is about to be handed over.
func (c *conn) payloadBegins() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining && !c.moving {
		return
	}
	c.inPayload = true
	if err := c.raw.SetReadDeadline(time.Now().Add(c.srv.limits.Stall)); err != nil {
		c.log.Debug("set read deadline", zap.Error(err))
	}
}

func (c *conn) payloadEnds() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inPayload = false
	until := time.Time{}
	if c.draining {
		until = time.Unix(1, 0)
	}
	if err := c.raw.SetReadDeadline(until); err != nil {
		c.log.Debug("set read deadline", zap.Error(err))
	}
}

// mayEnd reports whether a read whose deadline has passed ends the connection
// in good order.
func (c *conn) mayEnd() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining && !(c.moving && c.inPayload)
}

// handOver notes the connection for another server, if it stands between two
// commands. Its goroutines have ended.
func (c *conn) handOver() bool {
	c.mu.Lock()
	moving := c.moving
	c.mu.Unlock()
	socket, ok := c.raw.(interface{ File() (*os.File, error) })
	if !moving || !c.paused || c.dead.Load() || !ok {
		return false
	}
	f, err := socket.File()
	if err != nil {
		c.log.Warn("hand over a connection", zap.Error(err))
		return false
	}
	h := Handed{File: f, Export: c.export, SizeBytes: c.info.SizeBytes, Flags: c.exportFlags(c.export, c.info), Headers: uint8(c.headers),
		Input: append([]byte(nil), c.in.buf[c.in.r:c.in.w]...)}
	for _, m := range c.contexts {
		h.Contexts = append(h.Contexts, m.name)
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	c.srv.handed = append(c.srv.handed, h)
	return true
}

// Adopt goes on with a connection of another server. It takes over h.File.
func (s *Server) Adopt(h Handed) error {
	nc, err := net.FileConn(h.File)
	_ = h.File.Close() // nc has a descriptor of its own
	if err != nil {
		return block.Errorf(block.Invalid, "adopt an nbd connection: %w", err)
	}
	if h.Headers > uint8(extended) || len(h.Input) >= headers(h.Headers).requestBytes() || len(h.Contexts) > maxContexts || !validName(h.Export) {
		_ = nc.Close()
		return block.Errorf(block.Invalid, "adopt an nbd connection of export %.64q: headers %d, %d contexts, %d bytes of input, want less than a command", h.Export, h.Headers, len(h.Contexts), len(h.Input))
	}
	s.take(nc, &h)
	return nil
}

// resume opens the export of an adopted connection.
func (c *conn) resume(h *Handed) (name string, err error) {
	c.headers, c.input, c.metaFor = headers(h.Headers), h.Input, h.Export
	for _, name := range h.Contexts {
		c.contexts = append(c.contexts, metaContext{name: name})
	}
	if err := c.enter(c.ctx, h.Export); err != nil {
		return "", err
	}
	if flags := c.exportFlags(h.Export, c.info); c.info.SizeBytes < h.SizeBytes || flags != h.Flags {
		return "", block.Errorf(block.Invalid, "export %q has now %d bytes and flags %#x, its client was told %d and %#x", h.Export, c.info.SizeBytes, flags, h.SizeBytes, h.Flags)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.transmits = true
	switch {
	case c.draining && !c.moving:
		return "", errStopped
	case !c.draining: // else it moves on before its next command
		err = c.raw.SetDeadline(time.Time{})
	}
	return h.Export, err
}
