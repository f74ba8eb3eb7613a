package nbdserver

import (
	"encoding/binary"

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
)

// Chunks of structured replies.
const (
	magicChunk     = uint32(0x668e33ef)
	chunkFlagDone  = uint16(1)
	chunkNone      = uint16(0)
	chunkData      = uint16(1)
	chunkHole      = uint16(2)
	chunkStatus    = uint16(5)
	chunkError     = uint16(1<<15 | 1)
	metaContextID  = uint32(1) // of base:allocation, the only context there is
	stateHole      = uint32(1)
	stateZero      = uint32(2)
	baseAllocation = "base:allocation"
	baseNamespace  = "base:"
)

// Sizes of structures, in bytes.
const (
	clientFlagsBytes   = 4
	optionHeaderBytes  = 16
	exportZeroesBytes  = 124
	requestHeaderBytes = 28
	simpleReplyBytes   = 16
	chunkHeaderBytes   = 20
	maxStringBytes     = 4096 // of a name, a query or a text, by the protocol
)

var be = binary.BigEndian

// request is one command.
type request struct {
	flags  uint16
	cmd    Command
	cookie uint64
	// offBytes and lengthBytes are the client's until check has passed.
	offBytes, lengthBytes uint64

	payload []byte  // of a WRITE
	buf     *buffer // what holds payload, when it is not the read buffer
	// Times for the metrics, in nanoseconds since the server started; 0 without
	// metrics. began: its header was there; ready: its payload too, if that was
	// waited for; ran: a command that may wait was begun.
	began, ready, ran int64
	waits             *block.Waits // what the device spent on it, when measured
}

// parse takes the compact request header in b. It returns false when the magic
// is wrong.
func (r *request) parse(b []byte) bool {
	_ = b[requestHeaderBytes-1]
	r.flags = be.Uint16(b[4:])
	r.cmd = Command(be.Uint16(b[6:]))
	r.cookie = be.Uint64(b[8:])
	r.offBytes = be.Uint64(b[16:])
	r.lengthBytes = uint64(be.Uint32(b[24:]))
	return be.Uint32(b) == protocol.TRANSMISSION_MAGIC_REQUEST
}

func (r *request) fua() bool { return r.flags&cmdFlagFUA != 0 }

func appendSimple(b []byte, e Errno, cookie uint64) []byte {
	b = be.AppendUint32(b, protocol.TRANSMISSION_MAGIC_REPLY)
	b = be.AppendUint32(b, uint32(e))
	return be.AppendUint64(b, cookie)
}

// appendChunk appends the header of the last chunk of a reply; every reply of
// this server is one chunk.
func appendChunk(b []byte, typ uint16, cookie uint64, lengthBytes uint32) []byte {
	b = be.AppendUint32(b, magicChunk)
	b = be.AppendUint16(b, chunkFlagDone)
	b = be.AppendUint16(b, typ)
	b = be.AppendUint64(b, cookie)
	return be.AppendUint32(b, lengthBytes)
}

func appendError(b []byte, e Errno, cookie uint64, text string) []byte {
	text = clip(text)
	b = appendChunk(b, chunkError, cookie, uint32(6+len(text)))
	b = be.AppendUint32(b, uint32(e))
	b = be.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

func appendHole(b []byte, cookie, offBytes uint64, lengthBytes uint32) []byte {
	b = appendChunk(b, chunkHole, cookie, 12)
	b = be.AppendUint64(b, offBytes)
	return be.AppendUint32(b, lengthBytes)
}

func appendOptionReply(b []byte, opt, typ uint32, data []byte) []byte {
	b = be.AppendUint64(b, protocol.NEGOTIATION_MAGIC_REPLY)
	b = be.AppendUint32(b, opt)
	b = be.AppendUint32(b, typ)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// clip cuts a text to what the protocol allows.
func clip(s string) string {
	if len(s) > maxStringBytes {
		return s[:maxStringBytes]
	}
	return s
}
