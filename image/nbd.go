package image

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// device is what an import writes to and an export reads from: an open export.
// Methods may be called by many goroutines.
type device interface {
	SizeBytes() uint64
	ReadAt(ctx context.Context, p []byte, offBytes uint64) error
	WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error
	Flush(ctx context.Context) error
	// BlockStatus describes a prefix of the range, at least one run.
	BlockStatus(ctx context.Context, offBytes, lengthBytes uint64) ([]nbdclient.Extent, error)
	Close() error
}

// session is a device on several connections that reconnect.
type session struct{ *nbdclient.Session }

func (s session) SizeBytes() uint64 { return s.Info().SizeBytes }

// serverTimeout is how long an import or export waits for a server that has
// gone away, as it does when it restarts.
const serverTimeout = time.Minute

// dialer returns what opens an export: one of an attachment to write it, or by
// its plain name to read it.
func dialer(attachment bool, secure func() (*tls.Config, error)) func(ctx context.Context, addr, export string) (device, error) {
	return func(ctx context.Context, addr, export string) (device, error) {
		opts := nbdclient.DefaultSessionOptions()
		opts.Attachment, opts.DeadTimeout, opts.Conn.TLS = attachment, serverTimeout, secure
		s, err := nbdclient.OpenSession(ctx, []string{addr}, export, opts)
		if err != nil {
			return nil, err
		}
		return session{s}, nil
	}
}

// nbdAddress picks the address asked for, or the first that the server states.
func nbdAddress(asked string, stated []string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	if len(stated) == 0 {
		return "", block.Errorf(block.Unavailable, "the server states no NBD address: want one given, as in tcp://HOST:10809")
	}
	return stated[0], nil
}
