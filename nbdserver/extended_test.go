package nbdserver_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// TestExtendedNegotiation holds how EXTENDED_HEADERS and other options go
// together.
func TestExtendedNegotiation(t *testing.T) {
	r := start(t, newVol())
	t.Run("data", func(t *testing.T) {
		p := hello(t, r)
		p.option(oExtended, []byte("x"))
		p.wantReply(oExtended, rInvalid)
		p.option(oSetMeta, metaData("vol", "base:allocation"))
		p.wantReply(oSetMeta, rInvalid) // they are not set
	})
	t.Run("STRUCTURED_REPLY after it", func(t *testing.T) {
		p := hello(t, r)
		p.option(oExtended, nil)
		p.wantReply(oExtended, rAck)
		p.option(oStructured, nil)
		p.wantReply(oStructured, rExtended)
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rAck)
		(&modePeer{p, extended}).alive()
	})
	t.Run("STRUCTURED_REPLY before it", func(t *testing.T) {
		p := hello(t, r)
		p.option(oStructured, nil)
		p.wantReply(oStructured, rAck)
		p.option(oExtended, nil)
		p.wantReply(oExtended, rAck)
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rAck)
		(&modePeer{p, extended}).alive()
	})
	t.Run("EXPORT_NAME after it", func(t *testing.T) {
		p := hello(t, r)
		p.option(oExtended, nil)
		p.wantReply(oExtended, rAck)
		p.option(oExportName, []byte("vol"))
		p.wantClosed()
	})
	t.Run("compact request after it", func(t *testing.T) {
		p := enterMode(t, r, extended)
		p.write(cat(commandBytes(0, cRead, 1, 0, 4096, nil), make([]byte, 4)))
		p.wantClosed()
	})
	t.Run("extended request without it", func(t *testing.T) {
		p := enterMode(t, r, structured)
		p.write(extended.bytes(ask{cmd: cRead, length: 4096}))
		p.wantClosed()
	})
}

// TestStatusPayloadFlag: BLOCK_STATUS_PAYLOAD is told of an export whose
// contexts are set, with extended headers; INFO and GO tell the same.
func TestStatusPayloadFlag(t *testing.T) {
	m := newVol()
	m.Add("other", nbdtest.DefaultInfo(1<<20))
	r := start(t, m)
	for _, tc := range []struct {
		headers uint32
		export  string
		want    bool
	}{{oStructured, "vol", false}, {oExtended, "vol", true}, {oExtended, "other", false}} {
		p := hello(t, r)
		p.option(tc.headers, nil)
		p.wantReply(tc.headers, rAck)
		p.option(oSetMeta, metaData("vol", "base:allocation"))
		p.wantReply(oSetMeta, rMeta)
		p.wantReply(oSetMeta, rAck)
		var told [2][]byte
		for i, id := range []uint32{oInfo, oGo} {
			p.option(id, infoData(tc.export))
			told[i] = cat(p.wantReply(id, rInfo), p.wantReply(id, rInfo))
			p.wantReply(id, rAck)
		}
		if got := be.Uint16(told[0][10:])&(1<<12) != 0; got != tc.want || !bytes.Equal(told[0], told[1]) {
			t.Errorf("%+v: INFO tells %x and GO %x, want bit 12 %t", tc, told[0], told[1], tc.want)
		}
	}
}

// TestExtendedReplies: every reply has the long header and the offset of its
// request.
func TestExtendedReplies(t *testing.T) {
	for _, slow := range []bool{false, true} {
		m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(8<<20))
		m.Slow = func(uint64, int) bool { return slow }
		p := enterMode(t, start(t, m), extended)
		data := fill(1<<20, 5)
		for i, n := range []uint64{1, 4096, 64 << 10, 64<<10 + 1, 1 << 20} {
			off := uint64(100 * i)
			w := ask{cmd: cWrite, cookie: n, off: off, length: n, payload: data[:n]}
			p.send(w)
			p.wantResult(nbdserver.OK, w)
			w.flags, w.cookie = fFUA, n+1
			p.send(w)
			p.wantResult(nbdserver.OK, w)
			a := ask{cmd: cRead, cookie: n, off: off, length: n}
			p.send(a)
			if !bytes.Equal(p.readData(a), data[:n]) {
				t.Fatalf("read of %d bytes gives other data", n)
			}
			a.off, a.flags = 4<<20, fDF
			p.send(a)
			if b := p.want(2, a); !bytes.Equal(b, cat(u64(4<<20), u32(uint32(n)))) {
				t.Fatalf("read of a hole of %d bytes is %x", n, b)
			}
		}
		for _, cmd := range []uint16{cFlush, cTrim, cZero, cCache} {
			a := ask{flags: fFUA, cmd: cmd, cookie: 7, off: 4096, length: 4096}
			if cmd == cFlush {
				a.off, a.length = 0, 0
			}
			p.send(a)
			p.wantResult(nbdserver.OK, a)
		}
	}
}

// TestLongLengths: with extended headers a range may be longer than 4 GiB; in
// compact headers it may come close.
func TestLongLengths(t *testing.T) {
	const size = 3 << 40
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(size))
	m.Record()
	r := start(t, m)
	inModes(t, func(t *testing.T, mode mode) {
		p := enterMode(t, r, mode)
		lengths := []uint64{4294966784, 1<<32 - 1} // the first is the longest of Linux
		if mode == extended {
			lengths = append(lengths, 1<<32, size-512)
		}
		for _, n := range lengths {
			for _, cmd := range []uint16{cTrim, cZero} {
				a := ask{cmd: cmd, cookie: 1, off: 512, length: n}
				p.send(a)
				p.wantResult(nbdserver.OK, a)
				calls := m.Calls()
				if c := calls[len(calls)-1]; c.LengthBytes != n || c.OffBytes != 512 {
					t.Errorf("the device got %+v, want %d bytes", c, n)
				}
			}
		}
		p.alive()
	})
	p := enterMode(t, r, extended)
	for _, tc := range []struct {
		name string
		ask  ask
		want nbdserver.Errno
	}{
		{"TRIM that wraps", ask{cmd: cTrim, off: 4096, length: 1<<64 - 4096}, nbdserver.EINVAL},
		{"WRITE_ZEROES that wraps", ask{cmd: cZero, off: 4096, length: 1<<64 - 1}, nbdserver.ENOSPC},
		{"BLOCK_STATUS beyond the end", ask{cmd: cStatus, length: size + 1}, nbdserver.EINVAL},
		{"CACHE of more than one may be", ask{cmd: cCache, length: 1 << 32}, nbdserver.EOVERFLOW},
		{"READ of 4 GiB", ask{cmd: cRead, length: 1 << 32}, nbdserver.EINVAL},
		{"READ of 2^64-1", ask{cmd: cRead, length: 1<<64 - 1}, nbdserver.EINVAL},
	} {
		p.send(tc.ask)
		p.wantResult(tc.want, tc.ask)
		p.alive()
	}
}

// TestPayloads holds what carries a payload with extended headers, and what may
// not.
func TestPayloads(t *testing.T) {
	m := newVol()
	m.Record()
	r := start(t, m)
	data := fill(4096, 9)
	for _, tc := range []struct {
		name string
		ask  ask
	}{
		{"READ with a payload", ask{cmd: cRead, length: 4096, payload: data}},
		{"FLUSH with a payload", ask{cmd: cFlush, length: 4096, payload: data}},
		{"TRIM with a payload", ask{cmd: cTrim, length: 4096, payload: data}},
		{"unknown command with a payload", ask{cmd: 99, length: 4096, payload: data}},
		{"WRITE with a wrong flag", ask{cmd: cWrite, flags: fNoHole, length: 4096, payload: data}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := enterMode(t, r, extended)
			p.send(tc.ask)
			p.wantResult(nbdserver.EINVAL, tc.ask)
			p.alive()
		})
	}
	if calls := m.Calls(); len(calls) != 5 { // those of alive
		t.Errorf("refused commands reached the device: %+v", calls)
	}
	t.Run("WRITE without PAYLOAD_LEN", func(t *testing.T) { // as QEMU's client sends it
		p := enterMode(t, r, extended)
		a := ask{cmd: cWrite, cookie: 3, off: 8192, length: 4096}
		p.write(cat(extended.bytes(a), data))
		p.wantResult(nbdserver.OK, a)
		a.cmd = cRead
		p.send(a)
		if !bytes.Equal(p.readData(a), data) {
			t.Error("the data was not written")
		}
	})
	for _, mode := range []mode{simple, structured} {
		t.Run("PAYLOAD_LEN in "+mode.String()+" headers", func(t *testing.T) {
			p := enterMode(t, r, mode)
			a := ask{cmd: cWrite, flags: fPayload, cookie: 3, length: 4096, payload: data}
			p.send(a)
			p.wantResult(nbdserver.EINVAL, a)
			a = ask{cmd: cRead, flags: fPayload, cookie: 4, length: 4096} // no payload follows
			p.send(a)
			p.wantResult(nbdserver.EINVAL, a)
			p.alive()
		})
	}
	for name, a := range map[string]ask{
		"WRITE of more than 32 MiB":      {cmd: cWrite, flags: fPayload, length: 32<<20 + 1},
		"WRITE of 2^63 without the flag": {cmd: cWrite, length: 1 << 63},
		"TRIM with a payload of 1 TiB":   {cmd: cTrim, flags: fPayload, length: 1 << 40},
		"payload of 2^64-1":              {cmd: 77, flags: fPayload, length: 1<<64 - 1},
		"DISC with a payload":            {cmd: cDisc, flags: fPayload, length: 5},
		"payload of BLOCK_STATUS, huge":  {cmd: cStatus, flags: fPayload, length: 1 << 33},
	} {
		t.Run(name+" closes", func(t *testing.T) {
			p := enterMode(t, r, extended)
			p.send(a)
			p.wantClosed()
		})
	}
}

// stripes is a backend with contexts of its own: runs of 4 KiB that alternate.
type stripes struct{ *nbdtest.Memory }

const stripesContext, plainContext = "x-test:stripes", "x-test:plain"

func (b stripes) Contexts(_ context.Context, export, query string, _ nbdserver.Conn) ([]string, error) {
	switch {
	case export != "vol":
		return nil, block.Errorf(block.NotFound, "no export %q", export)
	case query == "" || query == "x-test:":
		return []string{stripesContext, plainContext}, nil
	case query == stripesContext || query == plainContext || query == "x-test:gone":
		return []string{query}, nil
	}
	return nil, nil
}

func (b stripes) Open(ctx context.Context, name string, c nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	d, err := b.Memory.Open(ctx, name, c, disconnect)
	return stripesDevice{d}, err
}

type stripesDevice struct{ nbdserver.Device }

func (d stripesDevice) Context(_ context.Context, name string) (nbdserver.MetaContext, error) {
	if name == "x-test:gone" {
		return nil, block.Errorf(block.NotFound, "the context has gone")
	}
	return stripesOf(name), nil
}

type stripesOf string

func (s stripesOf) Status(_ context.Context, dst []nbdserver.Status, off, length uint64, limit int) ([]nbdserver.Status, error) {
	if s == plainContext {
		return append(dst, nbdserver.Status{LengthBytes: length, Flags: 9}), nil
	}
	for end := off + length; off < end && len(dst) < limit; {
		n := min(4096-off%4096, end-off)
		dst = append(dst, nbdserver.Status{LengthBytes: n, Flags: uint32(off / 4096 % 2)})
		off += n
	}
	return dst, nil
}

// TestOwnContexts: contexts of a backend are listed, set, and answered beside
// base:allocation.
func TestOwnContexts(t *testing.T) {
	r := start(t, stripes{newVol()})
	p := hello(t, r)
	p.option(oStructured, nil)
	p.wantReply(oStructured, rAck)
	names := func(id uint32, export string, queries ...string) string {
		t.Helper()
		p.option(id, metaData(export, queries...))
		var got []string
		for {
			_, typ, data := p.reply()
			if typ == rAck {
				return strings.Join(got, " ")
			}
			if typ != rMeta || id == oListMeta && be.Uint32(data) != 0 {
				t.Fatalf("reply of type %#x, %q", typ, data)
			}
			got = append(got, string(data[4:]))
		}
	}
	for _, tc := range []struct {
		id      uint32
		export  string
		queries []string
		want    string
	}{
		{oListMeta, "vol", nil, "base:allocation x-test:stripes x-test:plain"},
		{oListMeta, "vol", []string{"x-test:"}, "x-test:stripes x-test:plain"},
		{oListMeta, "vol", []string{"x-test:plain", "x-test:"}, "x-test:plain x-test:stripes"},
		{oListMeta, "other", nil, "base:allocation"},
		{oSetMeta, "vol", []string{"x-test:"}, ""},
		{oSetMeta, "vol", []string{"x-other:plain"}, ""},
		{oSetMeta, "other", []string{"x-test:plain"}, ""},
		{oSetMeta, "vol", []string{"x-test:plain", "base:allocation", "x-test:plain", "x-test:stripes"}, "x-test:plain base:allocation x-test:stripes"},
	} {
		if got := names(tc.id, tc.export, tc.queries...); got != tc.want {
			t.Errorf("%+v gives %q", tc, got)
		}
	}
	t.Run("too many queries", func(t *testing.T) {
		many := make([]string, 257)
		for i := range many {
			many[i] = "x-a:"
		}
		p.option(oListMeta, metaData("vol", many...))
		p.wantReply(oListMeta, rBig)
	})
	t.Run("a context that cannot be opened", func(t *testing.T) {
		p.option(oSetMeta, metaData("vol", "x-test:gone"))
		p.wantReply(oSetMeta, rMeta)
		p.wantReply(oSetMeta, rAck)
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rUnknown)
	})
}

// TestStatusOfContexts: one chunk for each context, the last of them marked, and
// with extended headers those alone that the payload names.
func TestStatusOfContexts(t *testing.T) {
	r := start(t, stripes{newVol()})
	contexts := []string{plainContext, "base:allocation", stripesContext}
	want := func(m mode, id uint32, runs ...uint64) []byte {
		if m == structured {
			b := u32(id)
			for _, v := range runs {
				b = append(b, u32(uint32(v))...)
			}
			return b
		}
		b := cat(u32(id), u32(uint32(len(runs)/2)))
		for _, v := range runs {
			b = append(b, u64(v)...)
		}
		return b
	}
	for _, m := range []mode{structured, extended} {
		p := enterMode(t, r, m, contexts...)
		typ := map[mode]uint16{structured: 5, extended: 6}[m]
		all := [][]byte{want(m, 1, 8192, 9), want(m, 2, 8192, 3), want(m, 3, 4096, 0, 4096, 1)}
		status := func(a ask, chunks ...[]byte) {
			t.Helper()
			p.send(a)
			for i, w := range chunks {
				flags, gotType, got := p.chunk(a.cookie, a.off)
				if last := i == len(chunks)-1; gotType != typ || flags == 1 != last || !bytes.Equal(got, w) {
					t.Fatalf("%s: chunk %d is of type %d, flags %d: %x, want %x", m, i, gotType, flags, got, w)
				}
			}
		}
		status(ask{flags: fFUA, cmd: cStatus, cookie: 5, length: 8192}, all...)
		status(ask{flags: fReqOne, cmd: cStatus, cookie: 5, length: 8192}, all[0], all[1], want(m, 3, 4096, 0))
		if m == extended {
			one := cat(u64(8192), u32(3))
			status(ask{cmd: cStatus, cookie: 6, length: uint64(len(one)), payload: one}, all[2])
			two := cat(u64(8192), u32(3), u32(1))
			status(ask{cmd: cStatus, cookie: 6, length: uint64(len(two)), payload: two}, all[0], all[2])
		}
		p.alive()
	}
	t.Run("the payload is refused", func(t *testing.T) {
		p := enterMode(t, r, extended, contexts...)
		for name, payload := range map[string][]byte{
			"no context":         u64(8192),
			"short":              cat(u64(8192), []byte{0, 0, 1}),
			"not whole":          cat(u64(8192), u32(1), []byte{0, 0}),
			"context 0":          cat(u64(8192), u32(0)),
			"unknown context":    cat(u64(8192), u32(4)),
			"context of 2^32-1":  cat(u64(8192), u32(1<<32-1)),
			"a context twice":    cat(u64(8192), u32(2), u32(2)),
			"more than are set":  cat(u64(8192), u32(1), u32(2), u32(3), u32(4)),
			"long":               append(u64(8192), make([]byte, 1<<20)...),
			"range of 0 bytes":   cat(u64(0), u32(1)),
			"range of 2^64-1":    cat(u64(1<<64-1), u32(1)),
			"range past the end": cat(u64(1<<20+1), u32(1)),
		} {
			a := ask{cmd: cStatus, cookie: 8, length: uint64(len(payload)), payload: payload}
			p.send(a)
			if b := p.want(1<<15|1, a); nbdserver.Errno(be.Uint32(b)) != nbdserver.EINVAL {
				t.Errorf("%s: error chunk is %q", name, b)
			}
			p.alive()
		}
		a := ask{flags: fPayload, cmd: cStatus, cookie: 8} // a payload of no bytes
		p.send(a)
		p.wantResult(nbdserver.EINVAL, a)
		p.alive()
	})
}

// TestStatusIsBounded: a BLOCK_STATUS of a huge range looks at a part of it.
func TestStatusIsBounded(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(1<<40))
	m.Record()
	p := enterMode(t, start(t, m), extended)
	a := ask{cmd: cStatus, off: 4096, length: 1<<40 - 4096}
	p.send(a)
	if got := p.want(6, a); !bytes.Equal(got, cat(u32(1), u32(1), u64(64<<30), u64(3))) {
		t.Errorf("status is %x", got)
	}
	if c := m.Calls(); len(c) != 1 || c[0].LengthBytes != 64<<30 {
		t.Errorf("calls are %+v", c)
	}
}
