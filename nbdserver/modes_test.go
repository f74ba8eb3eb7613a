package nbdserver_test

import (
	"fmt"
	"testing"

	"github.com/slackerd/slacker/nbdserver"
)

// mode is which headers a peer has negotiated.
type mode int

const (
	simple mode = iota
	structured
	extended
)

var modes = []mode{simple, structured, extended}

func (m mode) String() string { return [...]string{"simple", "structured", "extended"}[m] }

const (
	extReqMagic   = uint32(0x21e41c71)
	extChunkMagic = uint32(0x6e8a278c)
	oExtended     = 11
	rExtended     = 1<<31 | 10
	fPayload      = 32
)

// enterMode connects, negotiates headers and metadata contexts and enters the
// transmission phase of export "vol".
func enterMode(t testing.TB, r *rig, m mode, contexts ...string) *modePeer {
	t.Helper()
	p := hello(t, r)
	switch m {
	case structured:
		p.option(oStructured, nil)
		p.wantReply(oStructured, rAck)
	case extended:
		p.option(oExtended, nil)
		p.wantReply(oExtended, rAck)
	}
	if m != simple {
		if contexts == nil {
			contexts = []string{"base:allocation"}
		}
		p.option(oSetMeta, metaData("vol", contexts...))
		for range contexts {
			p.wantReply(oSetMeta, rMeta)
		}
		p.wantReply(oSetMeta, rAck)
	}
	p.option(oGo, infoData("vol"))
	p.wantReply(oGo, rInfo)
	p.wantReply(oGo, rInfo)
	p.wantReply(oGo, rAck)
	return &modePeer{p, m}
}

// modePeer is a peer in the transmission phase.
type modePeer struct {
	*peer
	mode mode
}

// ask is a command of any headers. A payload sets PAYLOAD_LEN where there is
// such a flag.
type ask struct {
	flags, cmd          uint16
	cookie, off, length uint64
	payload             []byte
}

func (m mode) bytes(a ask) []byte {
	if m != extended {
		return commandBytes(a.flags, a.cmd, a.cookie, a.off, uint32(a.length), a.payload)
	}
	if a.payload != nil {
		a.flags |= fPayload
	}
	return cat(u32(extReqMagic), u16(a.flags), u16(a.cmd), u64(a.cookie), u64(a.off), u64(a.length), a.payload)
}

func (p *modePeer) send(a ask) { p.t.Helper(); p.write(p.mode.bytes(a)) }

// chunk reads a chunk, of a command at off, and returns its flags, type and payload.
func (p *modePeer) chunk(cookie, off uint64) (flags, typ uint16, payload []byte) {
	p.t.Helper()
	if p.mode == extended {
		b := p.read(32)
		if be.Uint32(b) != extChunkMagic || be.Uint64(b[8:]) != cookie || be.Uint64(b[16:]) != off || be.Uint64(b[24:]) > 64<<20 {
			p.t.Fatalf("chunk header is %x, want cookie %d and offset %d", b, cookie, off)
		}
		return be.Uint16(b[4:]), be.Uint16(b[6:]), p.read(int(be.Uint64(b[24:])))
	}
	b := p.read(20)
	if be.Uint32(b) != chunkMagic || be.Uint64(b[8:]) != cookie {
		p.t.Fatalf("chunk header is %x, want cookie %d", b, cookie)
	}
	return be.Uint16(b[4:]), be.Uint16(b[6:]), p.read(int(be.Uint32(b[16:])))
}

// want reads a chunk that is the last of its reply.
func (p *modePeer) want(typ uint16, a ask) []byte {
	p.t.Helper()
	flags, got, payload := p.chunk(a.cookie, a.off)
	if flags != 1 || got != typ {
		p.t.Fatalf("%+v: chunk of type %#x with flags %d (%q), want type %#x and the flag DONE", a, got, flags, payload, typ)
	}
	return payload
}

// wantResult reads a reply without data.
func (p *modePeer) wantResult(e nbdserver.Errno, a ask) {
	p.t.Helper()
	switch {
	case e == nbdserver.OK && p.mode == extended:
		p.want(0, a)
	case e == nbdserver.OK || p.mode == simple:
		p.wantSimple(e, a.cookie)
	default:
		b := p.want(1<<15|1, a)
		if nbdserver.Errno(be.Uint32(b)) != e || int(be.Uint16(b[4:])) != len(b)-6 || len(b) < 10 {
			p.t.Fatalf("%+v: error chunk is %q, want %s and a text", a, b, e)
		}
	}
}

// readData reads the reply to a READ.
func (p *modePeer) readData(a ask) []byte {
	p.t.Helper()
	if p.mode == simple {
		return p.wantRead(a.cookie, int(a.length))
	}
	_, typ, b := p.chunk(a.cookie, a.off)
	switch {
	case typ == 1 && len(b) == 8+int(a.length) && be.Uint64(b) == a.off:
		return b[8:]
	case typ == 2 && len(b) == 12 && be.Uint64(b) == a.off && uint64(be.Uint32(b[8:])) == a.length:
		return make([]byte, a.length)
	}
	p.t.Fatalf("%+v: chunk of type %#x and %d bytes: want the data", a, typ, len(b))
	return nil
}

// alive checks that the stream is in step: a READ is answered in full.
func (p *modePeer) alive() {
	p.t.Helper()
	a := ask{cmd: cRead, cookie: 0xa11fe, length: 4096}
	p.send(a)
	p.readData(a)
}

// inModes runs a test with each kind of headers.
func inModes(t *testing.T, f func(t *testing.T, m mode)) {
	for _, m := range modes {
		t.Run(fmt.Sprint(m), func(t *testing.T) { f(t, m) })
	}
}
