package nbdserver_test

import (
	"testing"

	"github.com/slackerd/slacker/nbdserver"
)

// longScript is script with extended headers.
func longScript(data []byte) (stream []byte, sent []longCommand) {
	const record = 20
	for len(data) >= record && len(sent) < 256 {
		c := longCommand{ask: ask{flags: be.Uint16(data), cmd: be.Uint16(data[2:]) % 10, cookie: uint64(len(sent)),
			length: be.Uint64(data[4:]), off: be.Uint64(data[12:])}}
		data = data[record:]
		if c.off>>60 != 15 {
			c.off %= 1 << 21 // mostly near the device
		}
		if c.cmd == cRead {
			c.length %= 33 << 20
		}
		if c.flags&fPayload != 0 || c.cmd == cWrite {
			if c.length > 1<<40 { // as it is: the server closes
				return append(stream, extended.bytes(c.ask)...), sent
			}
			c.length %= 1 << 18
			c.payload = make([]byte, c.length)
			copy(c.payload, data)
		}
		header := c.ask
		header.payload = nil // so that a WRITE may be without PAYLOAD_LEN
		stream = append(append(stream, extended.bytes(header)...), c.payload...)
		if c.cmd == cDisc {
			return stream, sent
		}
		sent = append(sent, c)
	}
	return append(stream, data[:min(len(data), 31)]...), sent
}

type longCommand struct {
	ask
	chunks int
	done   bool
}

// FuzzExtended is FuzzTransmission with extended headers and several metadata
// contexts.
func FuzzExtended(f *testing.F) {
	one := func(flags, cmd uint16, off, length uint64, payload ...byte) []byte {
		return cat(u16(flags), u16(cmd), u64(length), u64(off), payload)
	}
	for _, slow := range []bool{false, true} {
		f.Add(slow, cat(one(fPayload, cWrite, 0, 5000), one(0, cRead, 0, 5000), one(fFUA, cFlush, 0, 0), one(fFUA|fPayload, cWrite, 4096, 512), one(0, cDisc, 0, 0)))
		f.Add(slow, cat(one(fFUA, cTrim, 0, 1<<20), one(fNoHole, cZero, 5, 6), one(0, cStatus, 0, 1<<20), one(fReqOne, cStatus, 7, 1), one(0, cCache, 0, 1)))
		f.Add(slow, cat(one(0, cTrim, 1<<64-1, 1<<40), one(0, cWrite, 0, 1<<40), one(0, 8, 0, 1<<63), one(0, cRead, 0, 32<<20)))
		f.Add(slow, cat(one(fPayload, cStatus, 0, 12), one(0, 0, 1<<32, 4096), one(fPayload, cTrim, 0, 100), one(fPayload, 9, 0, 5)))
		f.Add(slow, cat(one(fPayload, cWrite, 0, 1<<63), []byte("rest")))
	}
	quick, slow := newVol(), newVol()
	slow.Slow = func(off uint64, _ int) bool { return off%3 != 0 }
	rigs := map[bool]*rig{false: start(f, stripes{quick}), true: start(f, stripes{slow})}
	f.Fuzz(func(t *testing.T, slow bool, data []byte) {
		stream, sent := longScript(data)
		p := enterMode(t, rigs[slow], extended, plainContext, "base:allocation", stripesContext)
		before := allocated()
		got := exchange(t, p.peer, stream)
		if n := allocated() - before; n > 512<<20+uint64(16*len(stream)) {
			t.Errorf("%d bytes sent made the process allocate %d", len(stream), n)
		}
		for len(got) > 0 {
			got = checkChunk(t, got, sent)
		}
		for i, c := range sent {
			if !c.done {
				t.Fatalf("command %d (%+v) is not answered", i, c.ask)
			}
		}
	})
}

// checkChunk takes one chunk off the stream.
func checkChunk(t *testing.T, b []byte, sent []longCommand) []byte {
	t.Helper()
	if len(b) < 32 || be.Uint32(b) != extChunkMagic || be.Uint64(b[24:]) > uint64(len(b)-32) {
		t.Fatalf("the reply stream is out of step: %d bytes, %x", len(b), b[:min(len(b), 32)])
	}
	flags, typ, cookie, off := be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint64(b[8:]), be.Uint64(b[16:])
	payload, rest := b[32:32+be.Uint64(b[24:])], b[32+be.Uint64(b[24:]):]
	if cookie >= uint64(len(sent)) || sent[cookie].done {
		t.Fatalf("reply to cookie %d, which waits for none", cookie)
	}
	c := &sent[cookie]
	c.done = flags&1 != 0
	c.chunks++
	ok := off == c.off && flags <= 1
	switch typ {
	case 0:
		ok = ok && c.done && len(payload) == 0 && (c.cmd != cRead || c.length == 0) && c.cmd != cStatus
	case 1:
		ok = ok && c.done && c.cmd == cRead && uint64(len(payload)) == 8+c.length && be.Uint64(payload) == c.off
	case 2:
		ok = ok && c.done && c.cmd == cRead && len(payload) == 12 && be.Uint64(payload) == c.off && uint64(be.Uint32(payload[8:])) == c.length
	case 6:
		ok = ok && c.cmd == cStatus && c.chunks <= 3 && checkStatus(payload, c)
	case 1<<15 | 1:
		ok = ok && c.done && len(payload) >= 6 && int(be.Uint16(payload[4:])) == len(payload)-6 && nbdserver.Errno(be.Uint32(payload)).String() != "unknown"
	default:
		ok = false
	}
	if !ok {
		t.Fatalf("%+v: chunk %d of type %#x, flags %d, offset %d, %d bytes", c.ask, c.chunks, typ, flags, off, len(payload))
	}
	return rest
}

func checkStatus(payload []byte, c *longCommand) bool {
	if len(payload) < 24 || len(payload) != 8+16*int(be.Uint32(payload[4:])) {
		return false
	}
	length := c.length
	if c.flags&fPayload != 0 {
		length = be.Uint64(c.payload)
	}
	if c.flags&fReqOne != 0 && len(payload) != 24 {
		return false
	}
	for p := payload[8:]; len(p) > 0; p = p[16:] {
		n := be.Uint64(p)
		if n == 0 || n > length {
			return false
		}
		length -= n
	}
	return true
}
