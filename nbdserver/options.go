package nbdserver

import (
	"crypto/tls"
	"errors"
	"time"

	"github.com/slackerd/slacker/block"
	"go.uber.org/zap"
)

// Options configure a server.
type Options struct {
	// Logger is where the server logs; nil logs nothing.
	Logger *zap.Logger
	// Limits bound what clients can use up; start from [DefaultLimits].
	Limits Limits
	// Metrics is told of connections and commands; nil measures nothing.
	Metrics Metrics
	// TLS is used where TLSMode is not TLSOff. Whom it lets in it decides.
	TLS     *tls.Config
	TLSMode TLSMode
}

// TLSMode says what STARTTLS means, in the words of the protocol document.
type TLSMode int

// The modes. A unix socket is never forced to TLS: its peer's user is known.
const (
	// TLSOff: there is no TLS (NOTLS).
	TLSOff TLSMode = iota
	// TLSSelective: TLS is there for who wants it, and an export that the backend
	// refuses to somebody without TLS asks for it (SELECTIVETLS).
	TLSSelective
	// TLSForced: without TLS a client gets nothing (FORCEDTLS).
	TLSForced
)

// Limits bound what clients can use up.
type Limits struct {
	// Connections bounds the connections open at once; more are closed at once.
	// Each holds about 135 KiB when idle, and at most half a MiB beside the
	// buffers that TotalBytes bounds, when nobody takes its replies.
	Connections int
	// Negotiations bounds those of them that have not opened an export yet, so
	// that who only connects cannot keep out who works.
	Negotiations int
	// RemoteConnections bounds the connections from one IP address. Those of unix
	// sockets have none and are not counted.
	RemoteConnections int
	// Handshake bounds the time from accept to the end of the negotiation.
	Handshake time.Duration
	// Stall bounds the time to take over the replies that are ready, and to
	// send the payload of a command whose header has arrived. Waiting for the
	// next command is not bounded.
	Stall time.Duration
	// Options bounds the options of one negotiation.
	Options int
	// OptionBytes bounds the data of one option; longer is answered with
	// ERR_TOO_BIG up to four times as much, and closes the connection beyond.
	OptionBytes int
	// RequestBytes bounds the data of one READ or WRITE.
	RequestBytes int
	// InFlightRequests bounds the commands of one connection that wait.
	InFlightRequests int
	// InFlightBytes bounds the buffers of one connection's commands, and of replies
	// that nobody takes.
	InFlightBytes int
	// TotalBytes bounds those of all connections together.
	TotalBytes int
	// StatusExtents bounds the extents of one BLOCK_STATUS reply.
	StatusExtents int
}

// DefaultLimits returns limits for a server of a few hundred workers.
func DefaultLimits() Limits {
	return Limits{
		Connections:       4096,
		Negotiations:      512,
		RemoteConnections: 1024,
		Handshake:         10 * time.Second,
		Stall:             30 * time.Second,
		Options:           64,
		OptionBytes:       64 << 10,
		RequestBytes:      block.MaxRequestBytes,
		InFlightRequests:  64,
		InFlightBytes:     128 << 20,
		TotalBytes:        1 << 30,
		StatusExtents:     8192,
	}
}

// maxStatusExtents is the protocol's bound on the extents of one reply.
const maxStatusExtents = 1 << 20

// Check returns every fault of the limits at once.
func (l Limits) Check() error {
	var errs []error
	bound := func(ok bool, name string, got any, want string) {
		if !ok {
			errs = append(errs, block.Errorf(block.Invalid, "limit %s is %v: want %s", name, got, want))
		}
	}
	bound(l.Connections >= 1, "Connections", l.Connections, "at least 1")
	bound(l.Negotiations >= 1, "Negotiations", l.Negotiations, "at least 1")
	bound(l.RemoteConnections >= 1, "RemoteConnections", l.RemoteConnections, "at least 1")
	bound(l.Handshake > 0, "Handshake", l.Handshake, "more than 0")
	bound(l.Stall > 0, "Stall", l.Stall, "more than 0")
	bound(l.Options >= 8, "Options", l.Options, "at least 8")
	bound(l.OptionBytes >= 2*maxStringBytes && l.OptionBytes <= 1<<24, "OptionBytes", l.OptionBytes, "8 KiB to 16 MiB")
	bound(l.RequestBytes >= 64<<10 && l.RequestBytes <= block.MaxRequestBytes && l.RequestBytes%(64<<10) == 0,
		"RequestBytes", l.RequestBytes, "a multiple of 64 KiB to 32 MiB")
	bound(l.InFlightRequests >= 1, "InFlightRequests", l.InFlightRequests, "at least 1")
	bound(l.InFlightBytes >= 2*l.RequestBytes, "InFlightBytes", l.InFlightBytes, "at least twice RequestBytes")
	bound(l.TotalBytes >= l.InFlightBytes, "TotalBytes", l.TotalBytes, "at least InFlightBytes")
	bound(l.StatusExtents >= 1 && l.StatusExtents <= maxStatusExtents, "StatusExtents", l.StatusExtents, "1 to 2^20")
	return errors.Join(errs...)
}
