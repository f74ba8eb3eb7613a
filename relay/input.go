package relay

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/slackerd/slacker/block"
)

// inputBytes is the read buffer of a link.
const inputBytes = 128 << 10

// errPaused ends the reader between two requests.
var errPaused = errors.New("paused")

// input is the read buffer: buf[r:w] has arrived and is not used.
type input struct {
	link *Link
	buf  []byte
	r, w int
}

// take returns the next n bytes, at most a header, valid until the next call. It ends
// with errPaused before the first of them when the link is to pause.
func (in *input) take(n int) ([]byte, error) {
	for in.w-in.r < n {
		pausing := in.link.pausing.Load()
		switch {
		case in.r == in.w && pausing:
			return nil, errPaused
		case in.r == in.w:
			in.r, in.w = 0, 0
		case len(in.buf)-in.r < n:
			in.w = copy(in.buf, in.buf[in.r:in.w])
			in.r = 0
		}
		to := len(in.buf)
		if pausing {
			to = in.r + n // nothing of the next request
		}
		got, err := in.receive(in.buf[in.w:to])
		if err != nil {
			return nil, err
		}
		in.w += got
	}
	p := in.buf[in.r : in.r+n]
	in.r += n
	return p, nil
}

// fill fills p.
func (in *input) fill(p []byte) error {
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	for n < len(p) {
		got, err := in.receive(p[n:])
		if err != nil {
			return err
		}
		n += got
	}
	return nil
}

// receive reads what is there, or waits for it; what is held back is sent before. It
// returns 0 when the link is to pause, once.
func (in *input) receive(p []byte) (int, error) {
	in.link.batch.Send()
	n, err := in.link.socket.Read(p)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, in.link.socket.SetReadDeadline(time.Time{}) // what has begun to arrive is awaited
	case err == nil || err == io.EOF:
		return n, err
	}
	return n, block.Errorf(block.IO, "read from the kernel: %w", err)
}
