package nbdserver

import (
	"github.com/slackerd/slacker/block"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Errno is an error number of the NBD protocol.
type Errno uint32

// The error numbers that the protocol allows and this server sends. ESHUTDOWN
// (108) and ENOMEM (12) are not among them: see invariant 6.
const (
	OK        = Errno(0)
	EPERM     = Errno(protocol.TRANSMISSION_ERROR_EPERM)
	EIO       = Errno(5)
	EINVAL    = Errno(protocol.TRANSMISSION_ERROR_EINVAL)
	ENOSPC    = Errno(28)
	EOVERFLOW = Errno(75)
	ENOTSUP   = Errno(95)
)

func (e Errno) String() string {
	switch e {
	case OK:
		return "ok"
	case EPERM:
		return "EPERM"
	case EIO:
		return "EIO"
	case EINVAL:
		return "EINVAL"
	case ENOSPC:
		return "ENOSPC"
	case EOVERFLOW:
		return "EOVERFLOW"
	case ENOTSUP:
		return "ENOTSUP"
	}
	return "unknown"
}

// closes marks the kinds that end the connection instead of being answered: a
// client whose connection was replaced waits for no answer, and one whose
// server goes away sends its commands again on a new connection.
const closes = ^Errno(0)

// kinds is the one table from the kind of a device's error to what the client
// of a command sees.
var kinds = map[block.Kind]Errno{
	block.Internal:    EIO,
	block.NotFound:    EIO,
	block.Exists:      EIO,
	block.Busy:        EIO,
	block.Invalid:     EINVAL,
	block.NoSpace:     ENOSPC,
	block.ReadOnly:    EPERM,
	block.Corrupt:     EIO,
	block.IO:          EIO,
	block.Fenced:      closes,
	block.Permission:  EPERM,
	block.Unsupported: ENOTSUP,
	block.Unavailable: closes,
}

// errnoOf maps an error of a device; closes means no reply.
func errnoOf(err error) Errno {
	if err == nil {
		return OK
	}
	if e, ok := kinds[block.KindOf(err)]; ok {
		return e
	}
	return EIO
}

// optionError maps an error of Backend.Open to the reply of an option.
func optionError(err error) uint32 {
	switch block.KindOf(err) {
	case block.Permission, block.Busy, block.Fenced, block.ReadOnly:
		return repErrPolicy
	case block.Unavailable:
		return repErrShutdown
	}
	return repErrUnknown
}
