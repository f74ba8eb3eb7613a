package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Identity is who is at the other end of a connection. The zero value is
// anonymous.
type Identity struct {
	kind     kind
	cn       string
	uris     []string
	uid, gid uint32
}

type kind int

const (
	anonymous kind = iota
	certificate
	unixUser
)

// Of returns who is at the other end of nc: of a TLS connection after its
// handshake the client's certificate, of a unix socket its peer's user.
func Of(nc net.Conn) Identity {
	switch c := nc.(type) {
	case *tls.Conn:
		state := c.ConnectionState()
		return OfTLS(&state)
	case *net.UnixConn:
		return ofSocket(c)
	}
	return Identity{}
}

// OfTLS returns who has the certificate that a handshake has verified (A4).
func OfTLS(state *tls.ConnectionState) Identity {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return Identity{}
	}
	return OfCertificate(state.PeerCertificates[0])
}

// OfCertificate returns the identity that a certificate states.
func OfCertificate(c *x509.Certificate) Identity {
	id := Identity{kind: certificate, cn: c.Subject.CommonName}
	for _, u := range c.URIs {
		id.uris = append(id.uris, u.String())
	}
	return id
}

// OfUser returns the identity of a user of a unix socket.
func OfUser(uid, gid uint32) Identity { return Identity{kind: unixUser, uid: uid, gid: gid} }

func ofSocket(c syscall.Conn) (id Identity) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Identity{}
	}
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil { //nolint:gosec // a file descriptor is an int
			id = OfUser(cred.Uid, cred.Gid)
		}
	})
	if err != nil {
		return Identity{}
	}
	return id
}

// String is fit for logs and errors.
func (id Identity) String() string {
	switch id.kind {
	case certificate:
		if len(id.uris) > 0 {
			return fmt.Sprintf("certificate cn=%q uri=%q", id.cn, strings.Join(id.uris, ","))
		}
		return fmt.Sprintf("certificate cn=%q", id.cn)
	case unixUser:
		return fmt.Sprintf("unix uid=%d gid=%d", id.uid, id.gid)
	}
	return "anonymous (no client certificate)"
}

// Anonymous reports whether nothing is known.
func (id Identity) Anonymous() bool { return id.kind == anonymous }

type contextKey struct{}

// With returns a context of a request by id.
func With(ctx context.Context, id Identity) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// From returns whose request a context is of; without one, anonymous.
func From(ctx context.Context) Identity {
	id, _ := ctx.Value(contextKey{}).(Identity)
	return id
}
