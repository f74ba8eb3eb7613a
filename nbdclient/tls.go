package nbdclient

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

// secured is a connection that has greeted in plaintext and now speaks TLS: the
// server greets once.
type secured struct{ *tls.Conn }

// startTLS upgrades a new connection. A server that has no TLS is an error:
// nothing is sent to it in plaintext but the question.
func startTLS(ctx context.Context, socket net.Conn, a Addr, secure func() (*tls.Config, error)) (net.Conn, error) {
	config, err := secure()
	if err != nil {
		return nil, err
	}
	if config.ServerName == "" {
		if config.ServerName, _, err = net.SplitHostPort(a.Address); err != nil {
			return nil, block.Errorf(block.Invalid, "NBD address %s: %w", a, err)
		}
	}
	n := negotiator{conn: socket}
	if err := n.hello(); err != nil {
		return nil, err
	}
	if err := n.send(optStartTLS, nil); err != nil {
		return nil, err
	}
	typ, data, err := n.receive(optStartTLS)
	if err != nil {
		return nil, err
	}
	if typ != protocol.NEGOTIATION_TYPE_REPLY_ACK || len(data) != 0 && typ&repErrBit == 0 {
		return nil, block.Errorf(block.Permission, "NBD server %s does not do TLS, and plaintext is not wanted: it answers %s%s", a, optionErrorName(typ), quoteText(data))
	}
	t := tls.Client(socket, config)
	if err := t.HandshakeContext(ctx); err != nil {
		kind := block.Permission
		if interrupted(ctx, err) {
			kind = block.Unavailable
		}
		return nil, block.Errorf(kind, "TLS handshake with NBD server %s: %w", a, err)
	}
	return secured{t}, nil
}

// interrupted says that a handshake ended with its connection, or in its time: that
// is no answer of the other side.
func interrupted(ctx context.Context, err error) bool {
	var errno syscall.Errno
	return ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &errno)
}
