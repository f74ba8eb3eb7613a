package nbdclient

import (
	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

// Limits on what a server may send.
const (
	// MaxOptionReplyBytes bounds the data of one reply to an option.
	MaxOptionReplyBytes = 64 << 10
	// MaxOptionReplies bounds the replies to one option other than LIST.
	MaxOptionReplies = 64
	// MaxExports bounds the rows of a listing.
	MaxExports = 1 << 20
	// MaxErrorTextBytes bounds the text of an error chunk.
	MaxErrorTextBytes = 4096
	// MaxStatusExtents bounds the extents of one block status reply.
	MaxStatusExtents = 1 << 20
	// MaxExportNameBytes bounds an export name.
	MaxExportNameBytes = 4096
	// MaxNoDataBytes bounds a request that carries no data (trim, write zeroes,
	// cache, block status): its length is 32 bits on the wire. Longer ones are
	// split at this multiple of every sensible block size.
	MaxNoDataBytes = 1 << 31
	// defaultMaxPayloadBytes is what a server takes that states no limit.
	defaultMaxPayloadBytes = block.MaxRequestBytes
)

// Constants of the protocol that go-nbd's package lacks.
const (
	handshakeNoZeroes = uint16(1 << 1)

	optStartTLS        = uint32(5)
	optStructuredReply = uint32(8)
	optSetMetaContext  = uint32(10)

	repMetaContext = uint32(4)
	repErrBit      = uint32(1 << 31)

	requestHeaderBytes     = 28
	simpleReplyBytes       = 16
	structuredReplyMagic   = uint32(0x668e33ef)
	chunkFlagDone          = uint16(1)
	chunkNone              = uint16(0)
	chunkOffsetData        = uint16(1)
	chunkOffsetHole        = uint16(2)
	chunkBlockStatus       = uint16(5)
	chunkErrorBit          = uint16(1 << 15)
	chunkErrorOffset       = uint16(1<<15 | 2)
	contextBaseAllocation  = "base:allocation"
	extentBytes            = 8
	extentFlagHole         = uint32(1)
	extentFlagZero         = uint32(2)
	cmdFlush               = uint16(3)
	cmdTrim                = uint16(4)
	cmdCache               = uint16(5)
	cmdWriteZeroes         = uint16(6)
	cmdBlockStatus         = uint16(7)
	cmdFlagFUA             = uint16(1)
	cmdFlagNoHole          = uint16(2)
	errnoIO                = uint32(5)
	errnoNoMem             = uint32(12)
	errnoNoSpace           = uint32(28)
	errnoOverflow          = uint32(75)
	errnoNotSupported      = uint32(95)
	errnoShutdown          = uint32(108)
	errReplyPolicy         = repErrBit | 2
	errReplyInvalid        = repErrBit | 3
	errReplyPlatform       = repErrBit | 4
	errReplyTLSRequired    = repErrBit | 5
	errReplyShutdown       = repErrBit | 7
	errReplyBlockSizeReqd  = repErrBit | 8
	errReplyTooBig         = repErrBit | 9
	errReplyUnknown        = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	errReplyUnsupported    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	maxMinimumBlockBytes   = 64 << 10
	maxExportSizeBytes     = 1<<63 - 1
	negotiationHeaderBytes = 18
	optionReplyHeaderBytes = 20
)

// Flags are the transmission flags of an export.
type Flags uint16

// The transmission flags.
const (
	FlagHasFlags        Flags = 1 << 0
	FlagReadOnly        Flags = 1 << 1
	FlagSendFlush       Flags = 1 << 2
	FlagSendFUA         Flags = 1 << 3
	FlagRotational      Flags = 1 << 4
	FlagSendTrim        Flags = 1 << 5
	FlagSendWriteZeroes Flags = 1 << 6
	FlagSendDF          Flags = 1 << 7
	FlagCanMultiConn    Flags = 1 << 8
	FlagSendCache       Flags = 1 << 10
	FlagSendFastZero    Flags = 1 << 11
)

// Has reports whether all flags of want are set.
func (f Flags) Has(want Flags) bool { return f&want == want }

// kindOfErrno maps an errno of a reply to the kind of the error.
func kindOfErrno(errno uint32) block.Kind {
	switch errno {
	case protocol.TRANSMISSION_ERROR_EPERM:
		return block.ReadOnly
	case protocol.TRANSMISSION_ERROR_EINVAL, errnoOverflow:
		return block.Invalid
	case errnoNoSpace:
		return block.NoSpace
	case errnoNotSupported:
		return block.Unsupported
	case errnoShutdown:
		return block.Unavailable
	case errnoIO, errnoNoMem:
		return block.IO
	}
	return block.IO
}

// kindOfOptionError maps an error reply to an option to the kind of the error.
func kindOfOptionError(reply uint32) block.Kind {
	switch reply {
	case errReplyUnknown:
		return block.NotFound
	case errReplyPolicy, errReplyTLSRequired:
		return block.Permission
	case errReplyInvalid, errReplyTooBig:
		return block.Invalid
	case errReplyUnsupported, errReplyPlatform, errReplyBlockSizeReqd:
		return block.Unsupported
	case errReplyShutdown:
		return block.Unavailable
	}
	return block.IO
}
