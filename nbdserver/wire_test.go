package nbdserver_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver"
)

// The numbers of the protocol, written out again: the tests speak bytes and
// share no code with the server.
const (
	optMagic   = uint64(0x49484156454F5054)
	oldMagic   = uint64(0x4e42444d41474943)
	repMagic   = uint64(0x3e889045565a9)
	reqMagic   = uint32(0x25609513)
	simpMagic  = uint32(0x67446698)
	chunkMagic = uint32(0x668e33ef)

	oExportName, oAbort, oList, oStartTLS, oInfo, oGo, oStructured, oListMeta, oSetMeta = 1, 2, 3, 5, 6, 7, 8, 9, 10

	rAck, rServer, rInfo, rMeta                                 = 1, 2, 3, 4
	rUnsup, rPolicy, rInvalid, rUnknown, rShutdown, rBig        = 1<<31 | 1, 1<<31 | 2, 1<<31 | 3, 1<<31 | 6, 1<<31 | 7, 1<<31 | 9
	cRead, cWrite, cDisc, cFlush, cTrim, cCache, cZero, cStatus = 0, 1, 2, 3, 4, 5, 6, 7
	fFUA, fNoHole, fDF, fReqOne, fFast                          = 1, 2, 4, 8, 16
)

var be = binary.BigEndian

// peer is a client that speaks bytes.
type peer struct {
	t  testing.TB
	nc net.Conn
}

// dial connects and reads the greeting.
func dial(t testing.TB, r *rig) *peer {
	t.Helper()
	nc, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	p := &peer{t, nc}
	if err := nc.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	b := p.read(18)
	if be.Uint64(b) != oldMagic || be.Uint64(b[8:]) != optMagic || be.Uint16(b[16:]) != 3 {
		t.Fatalf("greeting is %x", b)
	}
	return p
}

// hello connects and sends the client flags FIXED_NEWSTYLE and NO_ZEROES.
func hello(t testing.TB, r *rig) *peer {
	t.Helper()
	p := dial(t, r)
	p.write(u32(3))
	return p
}

// enter connects and enters the transmission phase of export "vol".
func enter(t testing.TB, r *rig, structured bool) *peer {
	t.Helper()
	p := hello(t, r)
	if structured {
		p.option(oStructured, nil)
		p.wantReply(oStructured, rAck)
		p.option(oSetMeta, metaData("vol", "base:allocation"))
		p.wantReply(oSetMeta, rMeta)
		p.wantReply(oSetMeta, rAck)
	}
	p.option(oGo, infoData("vol"))
	p.wantReply(oGo, rInfo)
	p.wantReply(oGo, rInfo)
	p.wantReply(oGo, rAck)
	return p
}

func u16(v uint16) []byte { return be.AppendUint16(nil, v) }
func u32(v uint32) []byte { return be.AppendUint32(nil, v) }
func u64(v uint64) []byte { return be.AppendUint64(nil, v) }

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func str(s string) []byte { return append(u32(uint32(len(s))), s...) }

func infoData(name string, infos ...uint16) []byte {
	b := cat(str(name), u16(uint16(len(infos))))
	for _, i := range infos {
		b = append(b, u16(i)...)
	}
	return b
}

func metaData(name string, queries ...string) []byte {
	b := cat(str(name), u32(uint32(len(queries))))
	for _, q := range queries {
		b = append(b, str(q)...)
	}
	return b
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.nc.Write(b); err != nil {
		p.t.Fatalf("write to the server: %v", err)
	}
}

func (p *peer) read(n int) []byte {
	p.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(p.nc, b); err != nil {
		p.t.Fatalf("read %d bytes from the server: %v", n, err)
	}
	return b
}

// wantClosed checks that the server closes without a further byte.
func (p *peer) wantClosed() {
	p.t.Helper()
	n, err := p.nc.Read(make([]byte, 1))
	if n != 0 || err == nil {
		p.t.Fatalf("the server answered; want it to close the connection")
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		p.t.Fatalf("the server neither answered nor closed the connection")
	}
}

func optionBytes(id uint32, data []byte) []byte {
	return cat(u64(optMagic), u32(id), u32(uint32(len(data))), data)
}

func (p *peer) option(id uint32, data []byte) { p.t.Helper(); p.write(optionBytes(id, data)) }

// reply reads one reply to an option.
func (p *peer) reply() (id, typ uint32, data []byte) {
	p.t.Helper()
	b := p.read(20)
	if be.Uint64(b) != repMagic {
		p.t.Fatalf("reply magic is %x", b[:8])
	}
	return be.Uint32(b[8:]), be.Uint32(b[12:]), p.read(int(be.Uint32(b[16:])))
}

func (p *peer) wantReply(id, typ uint32) []byte {
	p.t.Helper()
	gotID, gotType, data := p.reply()
	if gotID != id || gotType != typ {
		p.t.Fatalf("reply to option %d is of type %#x (%q), want option %d type %#x", gotID, gotType, data, id, typ)
	}
	return data
}

func commandBytes(flags, cmd uint16, cookie, off uint64, length uint32, payload []byte) []byte {
	return cat(u32(reqMagic), u16(flags), u16(cmd), u64(cookie), u64(off), u32(length), payload)
}

func (p *peer) command(flags, cmd uint16, cookie, off uint64, length uint32, payload []byte) {
	p.t.Helper()
	p.write(commandBytes(flags, cmd, cookie, off, length, payload))
}

// simple reads a simple reply's header.
func (p *peer) simple() (nbdserver.Errno, uint64) {
	p.t.Helper()
	b := p.read(16)
	if be.Uint32(b) != simpMagic {
		p.t.Fatalf("simple reply magic is %x", b)
	}
	return nbdserver.Errno(be.Uint32(b[4:])), be.Uint64(b[8:])
}

func (p *peer) wantSimple(e nbdserver.Errno, cookie uint64) {
	p.t.Helper()
	if got, c := p.simple(); got != e || c != cookie {
		p.t.Fatalf("reply is %s to cookie %d, want %s to %d", got, c, e, cookie)
	}
}

// wantRead reads a simple READ reply and its data.
func (p *peer) wantRead(cookie uint64, n int) []byte {
	p.t.Helper()
	p.wantSimple(nbdserver.OK, cookie)
	return p.read(n)
}

// wantChunk reads a last chunk of that type and returns its payload.
func (p *peer) wantChunk(typ uint16, cookie uint64) []byte {
	p.t.Helper()
	b := p.read(20)
	if be.Uint32(b) != chunkMagic || be.Uint16(b[4:]) != 1 || be.Uint16(b[6:]) != typ || be.Uint64(b[8:]) != cookie {
		p.t.Fatalf("chunk header is %x, want the last chunk, type %d, cookie %d", b, typ, cookie)
	}
	return p.read(int(be.Uint32(b[16:])))
}

// wantAlive checks that the stream is in step: a READ is answered in full.
func (p *peer) wantAlive(structured bool) {
	p.t.Helper()
	p.command(0, cRead, 0xa11fe, 0, 4096, nil)
	if structured {
		b := p.read(20)
		if be.Uint32(b) != chunkMagic || be.Uint64(b[8:]) != 0xa11fe {
			p.t.Fatalf("the stream is out of step: %x", b)
		}
		p.read(int(be.Uint32(b[16:])))
		return
	}
	p.wantRead(0xa11fe, 4096)
}
