package nbdserver

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

func (c *conn) secured() bool { return c.nc != c.raw }

// needsTLS reports whether nothing but STARTTLS and ABORT is served yet.
func (c *conn) needsTLS() bool {
	_, local := c.raw.(*net.UnixConn)
	return c.srv.tlsMode == TLSForced && !c.secured() && !local
}

// startTLS upgrades the connection. What was negotiated in plaintext, where
// anybody may have written it, is forgotten.
func (c *conn) startTLS(ctx context.Context, o option) error {
	switch {
	case c.srv.tlsMode == TLSOff:
		return c.refuse(o, repErrPolicy, "this server has no TLS configured")
	case !c.fixed:
		return c.refuse(o, repErrPolicy, "TLS needs the client flag FIXED_NEWSTYLE")
	case c.secured():
		return c.refuse(o, repErrInvalid, "this connection has TLS already")
	}
	if err := c.reply(o, repAck, nil); err != nil {
		return err
	}
	t := tls.Server(c.raw, c.srv.tls)
	// The deadline of the negotiation holds for the handshake too.
	if err := t.HandshakeContext(ctx); err != nil {
		c.srv.handshakes.log(c.log, zap.InfoLevel, "nbd TLS handshake", zap.Error(err))
		return block.Errorf(block.Permission, "TLS handshake: %w", err)
	}
	c.nc, c.identity = t, access.Of(t)
	c.headers, c.metaFor, c.contexts = compact, "", nil
	return nil
}

// openError maps an error of Backend.Open to the reply of an option. Somebody
// who may get in with TLS is asked for it.
func (c *conn) openError(err error) uint32 {
	if block.Is(err, block.Permission) && c.srv.tlsMode == TLSSelective && c.fixed && !c.secured() {
		return repErrTLSReqd
	}
	return optionError(err)
}
