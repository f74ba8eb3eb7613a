package nbdserver

import (
	"encoding/binary"
	"strings"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"github.com/slackerd/slacker/block"
)

// Handshake flags. Client and server use the same two bits.
const (
	flagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	flagNoZeroes      = uint16(1 << 1)
)

// Options.
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS        = uint32(5)
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMeta        = uint32(9)
	optSetMeta         = uint32(10)
	optExtendedHeaders = uint32(11)
)

// Replies to options.
const (
	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext = uint32(4)
	repErrUnsup    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrPolicy   = uint32(1<<31 | 2)
	repErrInvalid  = uint32(1<<31 | 3)
	repErrTLSReqd  = uint32(1<<31 | 5)
	repErrUnknown  = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown = uint32(1<<31 | 7)
	repErrTooBig   = uint32(1<<31 | 9)
	repErrExtended = uint32(1<<31 | 10) // ERR_EXT_HEADER_REQD
)

// Information about an export.
const (
	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Transmission flags: what an export can do.
const (
	canFlags       = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	canOnlyRead    = uint16(1 << 1)
	canFlush       = uint16(1 << 2)
	canFUA         = uint16(1 << 3)
	canTrim        = uint16(1 << 5)
	canWriteZeroes = uint16(1 << 6)
	canDF          = uint16(1 << 7)
	canMultiConn   = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	canCache       = uint16(1 << 10)
	canFastZero    = uint16(1 << 11)
	canStatusOf    = uint16(1 << 12) // BLOCK_STATUS_PAYLOAD
)

// Command is the type of a request of the transmission phase.
type Command uint16

// The commands of the protocol.
const (
	CmdRead        = Command(protocol.TRANSMISSION_TYPE_REQUEST_READ)
	CmdWrite       = Command(protocol.TRANSMISSION_TYPE_REQUEST_WRITE)
	CmdDisc        = Command(protocol.TRANSMISSION_TYPE_REQUEST_DISC)
	CmdFlush       = Command(3)
	CmdTrim        = Command(4)
	CmdCache       = Command(5)
	CmdWriteZeroes = Command(6)
	CmdBlockStatus = Command(7)
)

// String returns the name of the command, "unknown" for one not in the
// protocol: it is meant as a label of metrics.
func (c Command) String() string {
	if int(c) < len(commands) {
		return commands[c].name
	}
	return "unknown"
}

// Command flags.
const (
	cmdFlagFUA      = uint16(1 << 0)
	cmdFlagNoHole   = uint16(1 << 1)
	cmdFlagDF       = uint16(1 << 2)
	cmdFlagReqOne   = uint16(1 << 3)
	cmdFlagFastZero = uint16(1 << 4)
	cmdFlagPayload  = uint16(1 << 5) // PAYLOAD_LEN
)

// headers says which headers the transmission has, as negotiated.
type headers uint8

const (
	compact    headers = iota // short requests, simple replies
	structured                // short requests, chunks where there is more to say than an errno
	extended                  // long requests, chunks with long headers for everything
)

func (h headers) String() string { return [...]string{"compact", "structured", "extended"}[h] }

// requestBytes is the length of a request's header.
func (h headers) requestBytes() int {
	if h == extended {
		return extendedRequestBytes
	}
	return requestHeaderBytes
}

// dataBytes is the length of what goes before the data of a READ reply.
func (h headers) dataBytes() int {
	switch h {
	case compact:
		return simpleReplyBytes
	case structured:
		return chunkHeaderBytes + 8
	}
	return extendedChunkBytes + 8
}

// Chunks of structured replies.
const (
	magicChunk     = uint32(0x668e33ef)
	magicExtChunk  = uint32(0x6e8a278c)
	magicExtended  = uint32(0x21e41c71) // of a request
	chunkFlagDone  = uint16(1)
	chunkNone      = uint16(0)
	chunkData      = uint16(1)
	chunkHole      = uint16(2)
	chunkStatus    = uint16(5)
	chunkStatusExt = uint16(6)
	chunkError     = uint16(1<<15 | 1)
	stateHole      = uint32(1)
	stateZero      = uint32(2)
	baseAllocation = "base:allocation"
	baseNamespace  = "base:"
)

// Sizes of structures, in bytes.
const (
	clientFlagsBytes     = 4
	optionHeaderBytes    = 16
	exportZeroesBytes    = 124
	requestHeaderBytes   = 28
	extendedRequestBytes = 32
	simpleReplyBytes     = 16
	chunkHeaderBytes     = 20
	extendedChunkBytes   = 32
	maxStringBytes       = 4096 // of a name, a query or a text, by the protocol
)

var be = binary.BigEndian

// request is one command.
type request struct {
	flags  uint16
	cmd    Command
	cookie uint64
	// offBytes and lengthBytes are the client's until check has passed.
	offBytes, lengthBytes uint64
	// payloadBytes follow the header and are not read yet.
	payloadBytes uint64
	// contexts of a BLOCK_STATUS, one bit for each of the connection's.
	contexts uint32

	payload []byte  // of a WRITE
	buf     *buffer // what holds payload, when it is not the read buffer
	// Times for the metrics, in nanoseconds since the server started; 0 without
	// metrics. began: its header was there; ready: its payload too, if that was
	// waited for; ran: a command that may wait was begun.
	began, ready, ran int64
	waits             *block.Waits // what the device spent on it, when measured
}

// parse takes the request header in b. It returns false when the magic is wrong.
func (r *request) parse(h headers, b []byte) bool {
	_ = b[requestHeaderBytes-1]
	r.flags = be.Uint16(b[4:])
	r.cmd = Command(be.Uint16(b[6:]))
	r.cookie = be.Uint64(b[8:])
	r.offBytes = be.Uint64(b[16:])
	r.payloadBytes = 0
	if h == extended {
		return r.parseLength(b)
	}
	r.lengthBytes = uint64(be.Uint32(b[24:]))
	if r.cmd == CmdWrite {
		r.payloadBytes = r.lengthBytes
	}
	return be.Uint32(b) == protocol.TRANSMISSION_MAGIC_REQUEST
}

// parseLength takes the length of an extended request: of its payload with
// PAYLOAD_LEN, else of its range. A WRITE's are one, and it has a payload also
// without the flag, which QEMU's client leaves out.
func (r *request) parseLength(b []byte) bool {
	n := be.Uint64(b[24:])
	r.lengthBytes = n
	switch {
	case r.cmd == CmdWrite:
		r.payloadBytes = n
	case r.flags&cmdFlagPayload != 0:
		r.payloadBytes, r.lengthBytes = n, 0
	}
	return be.Uint32(b) == magicExtended
}

func (r *request) fua() bool { return r.flags&cmdFlagFUA != 0 }

func appendSimple(b []byte, e Errno, cookie uint64) []byte {
	b = be.AppendUint32(b, protocol.TRANSMISSION_MAGIC_REPLY)
	b = be.AppendUint32(b, uint32(e))
	return be.AppendUint64(b, cookie)
}

// appendChunk appends the header of a chunk that answers r.
func (h headers) appendChunk(b []byte, flags, typ uint16, r *request, lengthBytes int) []byte {
	magic := magicChunk
	if h == extended {
		magic = magicExtChunk
	}
	b = be.AppendUint32(b, magic)
	b = be.AppendUint16(b, flags)
	b = be.AppendUint16(b, typ)
	b = be.AppendUint64(b, r.cookie)
	if h == extended {
		b = be.AppendUint64(b, r.offBytes)
		return be.AppendUint64(b, uint64(lengthBytes))
	}
	return be.AppendUint32(b, uint32(lengthBytes))
}

// appendResult appends a reply without data.
func (h headers) appendResult(b []byte, r *request, e Errno, text string) []byte {
	switch {
	case e != OK && h != compact:
		return h.appendError(b, e, r, text)
	case h == extended:
		return h.appendChunk(b, chunkFlagDone, chunkNone, r, 0)
	}
	return appendSimple(b, e, r.cookie)
}

func (h headers) appendError(b []byte, e Errno, r *request, text string) []byte {
	text = clip(text)
	b = h.appendChunk(b, chunkFlagDone, chunkError, r, 6+len(text))
	b = be.AppendUint32(b, uint32(e))
	b = be.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

// appendHole appends the reply to a READ of zeroes.
func (h headers) appendHole(b []byte, r *request) []byte {
	b = h.appendChunk(b, chunkFlagDone, chunkHole, r, 12)
	b = be.AppendUint64(b, r.offBytes)
	return be.AppendUint32(b, uint32(r.lengthBytes))
}

// appendDataHead appends what goes before the data of a successful READ.
func (h headers) appendDataHead(b []byte, r *request) []byte {
	if h == compact {
		return appendSimple(b, OK, r.cookie)
	}
	b = h.appendChunk(b, chunkFlagDone, chunkData, r, int(8+r.lengthBytes))
	return be.AppendUint64(b, r.offBytes)
}

func appendOptionReply(b []byte, opt, typ uint32, data []byte) []byte {
	b = be.AppendUint64(b, protocol.NEGOTIATION_MAGIC_REPLY)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, typ)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// clip makes a text one that the protocol allows.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxStringBytes {
		s = strings.ToValidUTF8(s[:maxStringBytes], "") // what the cut left of a rune
	}
	return s
}
