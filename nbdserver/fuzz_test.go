package nbdserver_test

import (
	"bytes"
	"io"
	"net"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver"
)

// allocated returns the bytes this process has allocated so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// exchange sends bytes, says that no more follow, and returns everything that
// the server says until it closes. A server that does not close fails the test.
func exchange(t *testing.T, p *peer, send []byte) []byte {
	t.Helper()
	if err := p.nc.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = p.nc.Write(send) // the server may close before it has it all
		_ = p.nc.(*net.UnixConn).CloseWrite()
	}()
	var got bytes.Buffer
	_, err := io.Copy(&got, p.nc)
	<-sent
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("the server hangs after %d bytes", got.Len())
	}
	return got.Bytes()
}

// FuzzNegotiation sends arbitrary bytes as a negotiation: no panic, no hang, no
// large allocation, and nothing but option replies until an export is open.
func FuzzNegotiation(f *testing.F) {
	for _, options := range [][]byte{
		optionBytes(oList, nil),
		cat(optionBytes(oStructured, nil), optionBytes(oSetMeta, metaData("vol", "base:allocation")), optionBytes(oGo, infoData("vol"))),
		cat(optionBytes(oInfo, infoData("vol", 0, 1, 2, 3)), optionBytes(oAbort, nil)),
		cat(optionBytes(oStartTLS, nil), optionBytes(oListMeta, metaData("vol", "base:")), optionBytes(oExportName, []byte("vol"))),
		cat(u64(optMagic), u32(oGo), u32(1<<31)),
		cat(optionBytes(oExtended, nil), optionBytes(oStructured, nil), optionBytes(oListMeta, metaData("vol")),
			optionBytes(oSetMeta, metaData("vol", stripesContext, "base:allocation")), optionBytes(oGo, infoData("vol", 3)),
			extended.bytes(ask{cmd: cStatus, length: 20, payload: cat(u64(4096), u32(2), u32(1), u32(9))})),
	} {
		f.Add(cat(u32(3), options))
	}
	r := start(f, stripes{newVol()})
	f.Fuzz(func(t *testing.T, send []byte) {
		p := dial(t, r)
		before := allocated()
		got := exchange(t, p, send)
		if n := allocated() - before; n > 32<<20+16*uint64(len(send)) {
			t.Errorf("%d bytes sent made the process allocate %d", len(send), n)
		}
		for len(got) >= 8 && be.Uint64(got) == repMagic {
			if len(got) < 20 || uint64(len(got)-20) < uint64(be.Uint32(got[16:])) {
				t.Fatalf("a reply is cut off: %x", got)
			}
			got = got[20+be.Uint32(got[16:]):]
		}
	})
}

// script turns fuzz data into commands with cookies of their own. sent tells
// what each full command before the end of the stream is.
func script(data []byte) (stream []byte, sent []sentCommand) {
	const record = 16
	for len(data) >= record && len(sent) < 256 {
		c := sentCommand{flags: be.Uint16(data), cmd: be.Uint16(data[2:]) % 10, length: be.Uint32(data[4:])}
		off := be.Uint64(data[8:])
		data = data[record:]
		if off>>60 != 15 {
			off %= 1 << 21 // mostly near the device
		}
		var payload []byte
		if c.cmd == cWrite {
			if c.length > 1<<20 {
				stream = append(stream, commandBytes(c.flags, c.cmd, uint64(len(sent)), off, c.length, data)...)
				return stream, sent
			}
			payload = make([]byte, c.length)
			copy(payload, data)
		}
		if c.cmd == cRead || c.cmd == cStatus {
			c.length %= 33 << 20
		}
		stream = append(stream, commandBytes(c.flags, c.cmd, uint64(len(sent)), off, c.length, payload)...)
		if c.cmd == cDisc {
			return stream, sent
		}
		sent = append(sent, c)
	}
	return append(stream, data[:min(len(data), 27)]...), sent
}

type sentCommand struct {
	flags, cmd uint16
	length     uint32
	answered   bool
}

// FuzzTransmission sends arbitrary commands: each is answered once and well
// formed; no panic, no hang, no large allocation.
func FuzzTransmission(f *testing.F) {
	add := func(structured, slow bool, commands ...[]byte) { f.Add(structured, slow, cat(commands...)) }
	one := func(flags, cmd uint16, off uint64, length uint32) []byte {
		return cat(u16(flags), u16(cmd), u32(length), u64(off))
	}
	for _, structured := range []bool{false, true} {
		for _, slow := range []bool{false, true} {
			add(structured, slow, one(0, cWrite, 0, 5000), one(0, cRead, 0, 5000), one(fFUA, cFlush, 0, 0), one(fFUA, cWrite, 4096, 512), one(0, cDisc, 0, 0))
			add(structured, slow, one(fFUA, cTrim, 0, 1<<20), one(fNoHole, cZero, 5, 6), one(0, cStatus, 0, 1<<20), one(fReqOne, cStatus, 7, 1), one(0, cCache, 0, 1))
			add(structured, slow, one(0, cRead, 1<<64-1, 4096), one(0, cWrite, 1<<64-1, 4096), one(0, 8, 0, 1<<31), one(0, cRead, 0, 32<<20))
			add(structured, slow, one(0, cWrite, 0, 1<<31), []byte("rest"))
		}
	}
	quick, slow := newVol(), newVol()
	slow.Slow = func(off uint64, _ int) bool { return off%3 != 0 }
	rigs := map[bool]*rig{false: start(f, quick), true: start(f, slow)}
	f.Fuzz(func(t *testing.T, structured, slow bool, data []byte) {
		stream, sent := script(data)
		p := enter(t, rigs[slow], structured)
		before := allocated()
		got := exchange(t, p, stream)
		if n := allocated() - before; n > 512<<20+uint64(16*len(stream)) {
			t.Errorf("%d bytes sent made the process allocate %d", len(stream), n)
		}
		for len(got) > 0 {
			got = checkReply(t, got, sent, structured)
		}
		for i, c := range sent {
			if !c.answered {
				t.Fatalf("command %d (%+v) is not answered", i, c)
			}
		}
	})
}

// checkReply takes one reply off the stream.
func checkReply(t *testing.T, b []byte, sent []sentCommand, structured bool) []byte {
	t.Helper()
	need := func(n uint64) {
		t.Helper()
		if uint64(len(b)) < n {
			t.Fatalf("a reply is cut off: %d bytes, want %d", len(b), n)
		}
	}
	need(16)
	cookie := be.Uint64(b[8:])
	if cookie >= uint64(len(sent)) || sent[cookie].answered {
		t.Fatalf("reply to cookie %d, which waits for none", cookie)
	}
	c := &sent[cookie]
	c.answered = true
	switch magic := be.Uint32(b); {
	case magic == simpMagic:
		e, n := be.Uint32(b[4:]), uint64(16)
		if c.cmd == cRead && e == 0 {
			n += uint64(c.length)
		}
		if structured && (e != 0 || c.cmd == cRead || c.cmd == cStatus) {
			t.Fatalf("%+v has a simple reply", *c)
		}
		if known := nbdserver.Errno(e).String(); known == "unknown" {
			t.Fatalf("%+v is answered with errno %d", *c, e)
		}
		need(n)
		return b[n:]
	case magic == chunkMagic && structured:
		need(20)
		n := 20 + uint64(be.Uint32(b[16:]))
		need(n)
		if typ := be.Uint16(b[6:]); typ == 1 && n != 28+uint64(c.length) || typ == 2 && (n != 32 || be.Uint32(b[28:]) != c.length) {
			t.Fatalf("%+v: chunk of type %d has %d bytes", *c, typ, n)
		}
		return b[n:]
	}
	t.Fatalf("the reply stream is out of step: %x", b[:16])
	return nil
}
