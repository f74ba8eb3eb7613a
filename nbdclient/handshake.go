package nbdclient

import (
	"encoding/binary"
	"io"
	"net"
	"unicode/utf8"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

// Info is what a server says of an export. Sizes are bytes.
type Info struct {
	SizeBytes   uint64
	Flags       Flags
	Name        string // the canonical name, if the server tells
	Description string
	// MinBlockBytes is a power of two; requests keep to multiples of it.
	MinBlockBytes, PreferredBlockBytes uint32
	// MaxPayloadBytes bounds the data of one read or write.
	MaxPayloadBytes uint32
	// Structured: the server sends structured replies on this connection.
	Structured bool
	// Allocation: BlockStatus works.
	Allocation bool
	contextID  uint32 // of base:allocation
}

// Export is one row of a server's listing.
type Export struct{ Name, Description string }

// negotiator is the option phase of one connection.
type negotiator struct {
	conn   net.Conn
	export string
}

// Handshake negotiates export on conn with simple replies only, so that the
// socket can then be handed to the kernel. It reads not a byte more than the
// handshake. The caller sets deadlines, and closes conn on an error.
func Handshake(conn net.Conn, export string) (Info, error) {
	n := negotiator{conn: conn, export: export}
	if err := n.hello(); err != nil {
		return Info{}, err
	}
	return n.info(protocol.NEGOTIATION_ID_OPTION_GO)
}

// handshakeStructured is Handshake with everything Conn can use.
func handshakeStructured(conn net.Conn, export string) (Info, error) {
	n := negotiator{conn: conn, export: export}
	if err := n.hello(); err != nil {
		return Info{}, err
	}
	structured, contextID, hasContext, err := n.structured()
	if err != nil {
		return Info{}, err
	}
	info, err := n.info(protocol.NEGOTIATION_ID_OPTION_GO)
	info.Structured, info.Allocation, info.contextID = structured, hasContext, contextID
	return info, err
}

// hello exchanges the greeting.
func (n *negotiator) hello() error {
	if _, greeted := n.conn.(secured); greeted {
		return nil
	}
	var h [negotiationHeaderBytes]byte
	if _, err := io.ReadFull(n.conn, h[:]); err != nil {
		return n.lost("read the greeting", err)
	}
	old, opt := binary.BigEndian.Uint64(h[0:]), binary.BigEndian.Uint64(h[8:])
	if old != protocol.NEGOTIATION_MAGIC_OLDSTYLE || opt != protocol.NEGOTIATION_MAGIC_OPTION {
		return block.Errorf(block.Unsupported, "NBD handshake with %s: greeting %#x %#x is no newstyle NBD server", n.conn.RemoteAddr(), old, opt)
	}
	flags := binary.BigEndian.Uint16(h[16:])
	if flags&protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE == 0 {
		return block.Errorf(block.Unsupported, "NBD handshake with %s: server offers flags %#x, want fixed newstyle", n.conn.RemoteAddr(), flags)
	}
	mine := uint32(flags & (protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE | handshakeNoZeroes))
	if _, err := n.conn.Write(binary.BigEndian.AppendUint32(nil, mine)); err != nil {
		return n.lost("write the client flags", err)
	}
	return nil
}

// structured asks for structured replies and, given them, base:allocation.
func (n *negotiator) structured() (ok bool, contextID uint32, hasContext bool, err error) {
	if err := n.send(optStructuredReply, nil); err != nil {
		return false, 0, false, err
	}
	typ, _, err := n.receive(optStructuredReply)
	if err != nil || typ != protocol.NEGOTIATION_TYPE_REPLY_ACK {
		return false, 0, false, err
	}
	query := binary.BigEndian.AppendUint32(nil, uint32(len(n.export)))
	query = append(query, n.export...)
	query = binary.BigEndian.AppendUint32(query, 1)
	query = binary.BigEndian.AppendUint32(query, uint32(len(contextBaseAllocation)))
	query = append(query, contextBaseAllocation...)
	if err := n.send(optSetMetaContext, query); err != nil {
		return false, 0, false, err
	}
	for range MaxOptionReplies {
		typ, data, err := n.receive(optSetMetaContext)
		switch {
		case err != nil:
			return false, 0, false, err
		case typ != repMetaContext:
			return true, contextID, hasContext && typ == protocol.NEGOTIATION_TYPE_REPLY_ACK, nil
		case hasContext || len(data) < 4 || string(data[4:]) != contextBaseAllocation:
			return false, 0, false, n.violation("meta context reply %q, want one of %q", data, contextBaseAllocation)
		}
		contextID, hasContext = binary.BigEndian.Uint32(data), true
	}
	return false, 0, false, n.violation("more than %d replies to one option", MaxOptionReplies)
}

// info asks for the export with GO or INFO.
func (n *negotiator) info(option uint32) (Info, error) {
	req := binary.BigEndian.AppendUint32(nil, uint32(len(n.export)))
	req = append(req, n.export...)
	asked := []uint16{protocol.NEGOTIATION_TYPE_INFO_NAME, protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION, protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE}
	req = binary.BigEndian.AppendUint16(req, uint16(len(asked)))
	for _, a := range asked {
		req = binary.BigEndian.AppendUint16(req, a)
	}
	if err := n.send(option, req); err != nil {
		return Info{}, err
	}
	info := Info{MinBlockBytes: 1, PreferredBlockBytes: block.Size, MaxPayloadBytes: defaultMaxPayloadBytes}
	seen := false
	for range MaxOptionReplies {
		typ, data, err := n.receive(option)
		switch {
		case err != nil:
			return Info{}, err
		case typ&repErrBit != 0:
			return Info{}, block.Errorf(kindOfOptionError(typ), "open export %q on %s: server answers %s%s", n.export, n.conn.RemoteAddr(), optionErrorName(typ), quoteText(data))
		case typ == protocol.NEGOTIATION_TYPE_REPLY_ACK:
			if !seen {
				return Info{}, n.violation("export acknowledged without its size")
			}
			return info, info.check(n)
		case typ != protocol.NEGOTIATION_TYPE_REPLY_INFO || len(data) < 2:
			return Info{}, n.violation("reply of type %#x and %d bytes to option %d", typ, len(data), option)
		}
		isExport, err := n.infoItem(&info, data)
		if err != nil {
			return Info{}, err
		}
		seen = seen || isExport
	}
	return Info{}, n.violation("more than %d replies to one option", MaxOptionReplies)
}

// infoItem takes one INFO reply into info; kinds it does not know are skipped.
func (n *negotiator) infoItem(info *Info, data []byte) (isExport bool, err error) {
	kind, body := binary.BigEndian.Uint16(data), data[2:]
	switch kind {
	case protocol.NEGOTIATION_TYPE_INFO_EXPORT:
		if len(body) != 10 {
			return false, n.violation("export info of %d bytes, want 10", len(body))
		}
		info.SizeBytes = binary.BigEndian.Uint64(body)
		info.Flags = Flags(binary.BigEndian.Uint16(body[8:]))
		return true, nil
	case protocol.NEGOTIATION_TYPE_INFO_NAME:
		info.Name = cleanText(body)
	case protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION:
		info.Description = cleanText(body)
	case protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE:
		if len(body) != 12 {
			return false, n.violation("block size info of %d bytes, want 12", len(body))
		}
		info.MinBlockBytes = binary.BigEndian.Uint32(body)
		info.PreferredBlockBytes = binary.BigEndian.Uint32(body[4:])
		info.MaxPayloadBytes = min(binary.BigEndian.Uint32(body[8:]), defaultMaxPayloadBytes)
	}
	return false, nil
}

// check refuses what no sane server says.
func (i *Info) check(n *negotiator) error {
	minimum := i.MinBlockBytes
	switch {
	case i.SizeBytes > maxExportSizeBytes:
		return n.violation("export size %d exceeds %d", i.SizeBytes, uint64(maxExportSizeBytes))
	case minimum == 0 || minimum&(minimum-1) != 0 || minimum > maxMinimumBlockBytes:
		return n.violation("minimum block size %d, want a power of two up to %d", minimum, maxMinimumBlockBytes)
	case i.PreferredBlockBytes < minimum || i.PreferredBlockBytes&(i.PreferredBlockBytes-1) != 0:
		return n.violation("preferred block size %d, want a power of two of at least %d", i.PreferredBlockBytes, minimum)
	case i.MaxPayloadBytes < minimum:
		return n.violation("maximum payload %d below the minimum block size %d", i.MaxPayloadBytes, minimum)
	}
	i.MaxPayloadBytes -= i.MaxPayloadBytes % minimum
	return nil
}

// send sends one option.
func (n *negotiator) send(option uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OPTION)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := n.conn.Write(append(b, data...)); err != nil {
		return n.lost("send an option", err)
	}
	return nil
}

// receive reads one reply to option.
func (n *negotiator) receive(option uint32) (typ uint32, data []byte, err error) {
	var h [optionReplyHeaderBytes]byte
	if _, err := io.ReadFull(n.conn, h[:]); err != nil {
		return 0, nil, n.lost("read the reply to an option", err)
	}
	magic, got := binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint32(h[8:])
	typ, length := binary.BigEndian.Uint32(h[12:]), binary.BigEndian.Uint32(h[16:])
	switch {
	case magic != protocol.NEGOTIATION_MAGIC_REPLY:
		return 0, nil, n.violation("option reply magic %#x, want %#x", magic, protocol.NEGOTIATION_MAGIC_REPLY)
	case got != option:
		return 0, nil, n.violation("reply to option %d, want %d", got, option)
	case length > MaxOptionReplyBytes:
		return 0, nil, n.violation("option reply of %d bytes, want at most %d", length, MaxOptionReplyBytes)
	}
	data = make([]byte, length)
	if _, err := io.ReadFull(n.conn, data); err != nil {
		return 0, nil, n.lost("read the reply to an option", err)
	}
	return typ, data, nil
}

// list asks for all exports.
func (n *negotiator) list() ([]Export, error) {
	if err := n.send(protocol.NEGOTIATION_ID_OPTION_LIST, nil); err != nil {
		return nil, err
	}
	var exports []Export
	for range MaxExports {
		typ, data, err := n.receive(protocol.NEGOTIATION_ID_OPTION_LIST)
		switch {
		case err != nil:
			return nil, err
		case typ == protocol.NEGOTIATION_TYPE_REPLY_ACK:
			return exports, nil
		case typ&repErrBit != 0:
			return nil, block.Errorf(kindOfOptionError(typ), "list exports of %s: server answers %s%s", n.conn.RemoteAddr(), optionErrorName(typ), quoteText(data))
		case typ != protocol.NEGOTIATION_TYPE_REPLY_SERVER || len(data) < 4:
			return nil, n.violation("listing reply of type %#x and %d bytes", typ, len(data))
		}
		nameBytes := binary.BigEndian.Uint32(data)
		if uint64(nameBytes) > uint64(len(data)-4) || nameBytes > MaxExportNameBytes {
			return nil, n.violation("export name of %d bytes in a reply of %d", nameBytes, len(data))
		}
		exports = append(exports, Export{cleanText(data[4 : 4+nameBytes]), cleanText(data[4+nameBytes:])})
	}
	return nil, n.violation("more than %d exports", MaxExports)
}

func (n *negotiator) lost(doing string, err error) error {
	return block.Errorf(block.Unavailable, "NBD handshake with %s for export %q: %s: %w", n.conn.RemoteAddr(), n.export, doing, err)
}

func (n *negotiator) violation(format string, args ...any) error {
	return block.Wrap(block.IO, block.Errorf(block.IO, format, args...), "NBD handshake with "+n.conn.RemoteAddr().String())
}

var optionErrorNames = map[uint32]string{errReplyUnsupported: "unsupported option", errReplyPolicy: "forbidden by policy",
	errReplyInvalid: "invalid option", errReplyPlatform: "unsupported on its platform", errReplyTLSRequired: "TLS required",
	errReplyUnknown: "no such export", errReplyShutdown: "shutting down", errReplyBlockSizeReqd: "block size required", errReplyTooBig: "too big"}

func optionErrorName(reply uint32) string {
	if s, ok := optionErrorNames[reply]; ok {
		return s
	}
	return "an unknown error"
}

// quoteText renders the text of a server after ": ", or nothing.
func quoteText(b []byte) string {
	if s := cleanText(b); s != "" {
		return ": " + s
	}
	return ""
}

// cleanText is text from a server made fit for one line of a log.
func cleanText(b []byte) string {
	if len(b) > MaxErrorTextBytes {
		b = b[:MaxErrorTextBytes]
	}
	out := make([]rune, 0, len(b))
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		out = append(out, r)
		b = b[size:]
	}
	return string(out)
}
