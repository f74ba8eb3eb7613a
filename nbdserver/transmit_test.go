package nbdserver_test

import (
	"bytes"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// fill returns n bytes that are not zero and depend on seed.
func fill(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + seed | 1
	}
	return b
}

// TestMisuse holds what must be refused with an errno while the stream stays in
// step, with each kind of headers.
func TestMisuse(t *testing.T) {
	const size = 1 << 20
	m := nbdtest.NewMemory("vol", nbdserver.Info{SizeBytes: size, MinBlockBytes: 512, PreferredBlockBytes: 4096, MaxRequestBytes: 512 << 10})
	r := start(t, m)
	payload := fill(8192, 3)
	big := make([]byte, 600<<10)
	for _, tc := range []struct {
		name       string
		flags, cmd uint16
		off        uint64
		length     uint32
		payload    []byte
		want       nbdserver.Errno
	}{
		{"unknown command", 0, 8, 0, 4096, nil, nbdserver.EINVAL},
		{"unknown command 65535", 0, 65535, 0, 1 << 31, nil, nbdserver.EINVAL},
		{"unknown flag of READ", 1 << 9, cRead, 0, 4096, nil, nbdserver.EINVAL},
		{"unknown flag of WRITE", 1 << 15, cWrite, 0, 8192, payload, nbdserver.EINVAL},
		{"REQ_ONE on READ", fReqOne, cRead, 0, 4096, nil, nbdserver.EINVAL},
		{"NO_HOLE on TRIM", fNoHole, cTrim, 0, 4096, nil, nbdserver.EINVAL},
		{"DF on WRITE", fDF, cWrite, 0, 8192, payload, nbdserver.EINVAL},
		{"READ beyond the end", 0, cRead, size - 512, 1024, nil, nbdserver.EINVAL},
		{"READ at 2^63", 0, cRead, 1 << 63, 512, nil, nbdserver.EINVAL},
		{"READ that wraps", 0, cRead, 1<<64 - 512, 1024, nil, nbdserver.EINVAL},
		{"TRIM beyond the end", 0, cTrim, 0, size + 512, nil, nbdserver.EINVAL},
		{"TRIM that wraps", 0, cTrim, 1<<64 - 512, 1024, nil, nbdserver.EINVAL},
		{"WRITE_ZEROES that wraps", 0, cZero, 1<<64 - 512, 1024, nil, nbdserver.ENOSPC},
		{"BLOCK_STATUS that wraps", 0, cStatus, 1<<64 - 512, 1024, nil, nbdserver.EINVAL},
		{"BLOCK_STATUS of 0 bytes", 0, cStatus, 0, 0, nil, nbdserver.EINVAL},
		{"REQ_ONE on WRITE_ZEROES", fReqOne, cZero, 0, 4096, nil, nbdserver.EINVAL},
		{"FAST_ZERO on TRIM", fFast, cTrim, 0, 4096, nil, nbdserver.EINVAL},
		{"DF on BLOCK_STATUS", fDF, cStatus, 0, 4096, nil, nbdserver.EINVAL},
		{"unknown flag of CACHE", 1 << 6, cCache, 0, 4096, nil, nbdserver.EINVAL},
		{"unknown flag of FLUSH", 1 << 6, cFlush, 0, 0, nil, nbdserver.EINVAL},
		{"TRIM of 4 GiB", 0, cTrim, 0, 4294966784, nil, nbdserver.EINVAL},
		{"CACHE beyond the end", 0, cCache, size, 512, nil, nbdserver.EINVAL},
		{"BLOCK_STATUS beyond the end", 0, cStatus, size, 512, nil, nbdserver.EINVAL},
		{"WRITE beyond the end", 0, cWrite, size - 512, 8192, payload, nbdserver.ENOSPC},
		{"WRITE that wraps", 0, cWrite, 1<<64 - 512, 8192, payload, nbdserver.ENOSPC},
		{"WRITE_ZEROES beyond the end", 0, cZero, size - 512, 1024, nil, nbdserver.ENOSPC},
		{"unaligned offset of READ", 0, cRead, 100, 512, nil, nbdserver.EINVAL},
		{"unaligned length of READ", 0, cRead, 0, 100, nil, nbdserver.EINVAL},
		{"unaligned WRITE", 0, cWrite, 1, 8192, payload, nbdserver.EINVAL},
		{"unaligned TRIM", 0, cTrim, 0, 100, nil, nbdserver.EINVAL},
		{"READ above the maximum", 0, cRead, 0, 512<<10 + 512, nil, nbdserver.EINVAL},
		{"WRITE above the maximum", 0, cWrite, 0, 600 << 10, big, nbdserver.EINVAL},
		{"fast zero where there is none", fFast, cZero, 0, 4096, nil, nbdserver.ENOTSUP},
		{"fast zero beyond the end", fFast, cZero, 0, 1 << 31, nil, nbdserver.ENOSPC},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inModes(t, func(t *testing.T, m mode) {
				p := enterMode(t, r, m)
				a := ask{flags: tc.flags, cmd: tc.cmd, cookie: 42, off: tc.off, length: uint64(tc.length), payload: tc.payload}
				p.send(a)
				p.wantResult(tc.want, a)
				p.alive()
			})
		})
	}
	t.Run("nothing was written", func(t *testing.T) {
		p := enter(t, r, false)
		p.command(0, cRead, 1, 0, 512<<10, nil)
		if !bytes.Equal(p.wantRead(1, 512<<10), make([]byte, 512<<10)) {
			t.Error("a refused command changed the device")
		}
	})
}

func TestDFNeedsStructured(t *testing.T) {
	p := enter(t, start(t, newVol()), false)
	p.command(fDF, cRead, 1, 0, 4096, nil)
	p.wantSimple(nbdserver.EINVAL, 1)
	p.command(0, cStatus, 2, 0, 4096, nil)
	p.wantSimple(nbdserver.EINVAL, 2)
	p.wantAlive(false)
}

func TestReadOnly(t *testing.T) {
	info := nbdtest.DefaultInfo(1 << 20)
	info.ReadOnly = true
	p := enter(t, start(t, nbdtest.NewMemory("vol", info)), false)
	p.command(0, cWrite, 1, 0, 4096, fill(4096, 1))
	p.wantSimple(nbdserver.EPERM, 1)
	p.command(0, cTrim, 2, 0, 4096, nil)
	p.wantSimple(nbdserver.EPERM, 2)
	p.command(0, cZero, 3, 0, 4096, nil)
	p.wantSimple(nbdserver.EPERM, 3)
	p.command(0, cFlush, 4, 0, 0, nil)
	p.wantSimple(nbdserver.OK, 4)
	p.wantAlive(false)
}

// TestTransmissionClosed holds what must end the connection without a reply.
func TestTransmissionClosed(t *testing.T) {
	r := start(t, newVol())
	for name, send := range map[string][]byte{
		"wrong magic":        cat(u32(simpMagic), make([]byte, 24)),
		"WRITE of 4 GiB":     commandBytes(0, cWrite, 1, 0, 1<<32-1, nil),
		"WRITE of 65 MiB":    commandBytes(0, cWrite, 1, 0, 65<<20, nil),
		"DISC":               commandBytes(0, cDisc, 1, 0, 0, nil),
		"DISC with nonsense": commandBytes(0xffff, cDisc, 1, 1<<63, 1<<31, nil),
	} {
		t.Run(name, func(t *testing.T) {
			p := enter(t, r, false)
			p.write(send)
			p.wantClosed()
		})
	}
}

func TestZeroLength(t *testing.T) {
	m := newVol()
	m.Record()
	r := start(t, m)
	inModes(t, func(t *testing.T, mode mode) {
		p := enterMode(t, r, mode)
		for _, cmd := range []uint16{cWrite, cTrim, cZero, cCache} {
			a := ask{flags: fFUA, cmd: cmd, cookie: 5, off: 1 << 20}
			if cmd == cWrite {
				a.payload = []byte{}
			}
			p.send(a)
			p.wantResult(nbdserver.OK, a)
		}
		a := ask{cmd: cRead, cookie: 6}
		p.send(a)
		if mode == simple {
			p.wantRead(6, 0)
		} else {
			p.want(0, a)
		}
		if calls := m.Calls(); len(calls) != 0 {
			t.Errorf("the device was called: %+v", calls)
		}
		p.alive()
		m.Record()
	})
}

// TestEveryCommand runs every command, alone and in a row, quick and slow, and
// checks what reaches the device and what can be read back.
func TestEveryCommand(t *testing.T) {
	for _, slow := range []bool{false, true} {
		m := newVol()
		if slow {
			m.Slow = func(uint64, int) bool { return true }
		}
		m.Record()
		p := enter(t, start(t, m), false)
		data := fill(100<<10, 9)
		p.command(0, cWrite, 1, 1000, uint32(len(data)), data)
		p.wantSimple(nbdserver.OK, 1)
		p.command(0, cRead, 2, 1000, uint32(len(data)), nil)
		if !bytes.Equal(p.wantRead(2, len(data)), data) {
			t.Fatal("read of 100 KiB gives other data")
		}
		p.command(fFUA, cZero, 3, 2000, 3000, nil)
		p.wantSimple(nbdserver.OK, 3)
		p.command(fNoHole|fFast, cZero, 3, 2000, 3000, nil)
		p.wantSimple(nbdserver.OK, 3)
		p.command(fFUA, cTrim, 4, 9000, 1000, nil)
		p.wantSimple(nbdserver.OK, 4)
		clear(data[1000:4000])
		clear(data[8000:9000])
		p.command(fFUA, cWrite, 5, 1000, 10, data[:10])
		p.wantSimple(nbdserver.OK, 5)
		p.command(fFUA, cRead, 6, 1000, 50000, nil)
		if !bytes.Equal(p.wantRead(6, 50000), data[:50000]) {
			t.Fatal("read of 50000 bytes gives other data")
		}
		p.command(fFUA, cFlush, 7, 0, 0, nil)
		p.wantSimple(nbdserver.OK, 7)
		p.command(fFUA, cCache, 8, 0, 4096, nil)
		p.wantSimple(nbdserver.OK, 8)
		read := "ReadNow"
		if slow {
			read = "ReadAt"
		}
		want := []nbdtest.Call{{Op: "WriteAt", OffBytes: 1000, LengthBytes: 100 << 10}, {Op: read, OffBytes: 1000, LengthBytes: 100 << 10},
			{Op: "WriteZeroes", OffBytes: 2000, LengthBytes: 3000, FUA: true}, {Op: "WriteZeroes", OffBytes: 2000, LengthBytes: 3000, NoHole: true},
			{Op: "Trim", OffBytes: 9000, LengthBytes: 1000, FUA: true}, {Op: "WriteAt", OffBytes: 1000, LengthBytes: 10, FUA: true},
			{Op: read, OffBytes: 1000, LengthBytes: 50000}, {Op: "Flush"}, {Op: "Cache", LengthBytes: 4096}}
		got := m.Calls()
		if len(got) != len(want) {
			t.Fatalf("calls are %+v", got)
		}
		for i := range got {
			got[i].Conn = 0
			if got[i] != want[i] {
				t.Errorf("call %d is %+v, want %+v", i, got[i], want[i])
			}
		}
	}
}

// TestFastZeroOfDevice: ENOTSUP of a device goes to a client that asked for
// FAST_ZERO.
func TestFastZeroOfDevice(t *testing.T) {
	p := enterMode(t, start(t, failing(block.Errorf(block.Unsupported, "not fast"))), simple)
	for flags, want := range map[uint16]nbdserver.Errno{fFast: nbdserver.ENOTSUP, 0: nbdserver.EIO} {
		a := ask{flags: flags, cmd: cZero, length: 4096}
		p.send(a)
		p.wantResult(want, a)
	}
}

// TestFUAOnAll: FUA is valid on every command, and DF where it is of use.
func TestFUAOnAll(t *testing.T) {
	r := start(t, newVol())
	inModes(t, func(t *testing.T, m mode) {
		p := enterMode(t, r, m)
		for _, cmd := range []uint16{cWrite, cFlush, cTrim, cCache, cZero} {
			a := ask{flags: fFUA, cmd: cmd, cookie: uint64(cmd), length: 512}
			if cmd == cWrite {
				a.payload = fill(512, 1)
			}
			p.send(a)
			p.wantResult(nbdserver.OK, a)
		}
		a := ask{flags: fFUA, cmd: cRead, length: 512}
		if m != simple {
			a.flags |= fDF
		}
		p.send(a)
		p.readData(a)
		if m != simple {
			a = ask{flags: fFUA, cmd: cStatus, length: 512}
			p.send(a)
			p.want(map[mode]uint16{structured: 5, extended: 6}[m], a)
		}
		p.alive()
	})
}

func TestMaximumRequest(t *testing.T) {
	const n = 32 << 20
	p := enter(t, start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(n))), false)
	data := fill(n, 5)
	p.command(0, cWrite, 1, 0, n, data)
	p.wantSimple(nbdserver.OK, 1)
	p.command(0, cRead, 2, 0, n, nil)
	if !bytes.Equal(p.wantRead(2, n), data) {
		t.Fatal("read of 32 MiB gives other data")
	}
	p.command(fFUA, cWrite, 3, 0, n, data)
	p.wantSimple(nbdserver.OK, 3)
}

func TestStructuredReads(t *testing.T) {
	r := start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(8<<20)))
	p := enter(t, r, true)
	data := fill(1<<20, 5)
	p.command(0, cWrite, 1, 0, 1<<20, data)
	p.wantSimple(nbdserver.OK, 1)
	for _, n := range []uint32{1, 512, 4096, 64 << 10, 64<<10 + 1, 1 << 20} {
		p.command(fDF, cRead, 2, 0, n, nil)
		if got := p.wantChunk(1, 2); be.Uint64(got) != 0 || !bytes.Equal(got[8:], data[:n]) {
			t.Errorf("read of %d bytes gives other data", n)
		}
		p.command(0, cRead, 3, 2<<20, n, nil)
		if got := p.wantChunk(2, 3); !bytes.Equal(got, cat(u64(2<<20), u32(n))) {
			t.Errorf("read of a hole of %d bytes is %x", n, got)
		}
	}
	p.wantAlive(true)
}

func TestBlockStatus(t *testing.T) {
	r := start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(1<<30)), func(o *nbdserver.Options) { o.Limits.StatusExtents = 3 })
	p := enter(t, r, true)
	for _, off := range []uint64{0, 128 << 10} {
		p.command(0, cWrite, 1, off, 64<<10, fill(64<<10, 2))
		p.wantSimple(nbdserver.OK, 1)
	}
	status := func(flags uint16, off uint64, length uint32) []byte {
		t.Helper()
		p.command(flags, cStatus, 2, off, length, nil)
		b := p.wantChunk(5, 2)
		if be.Uint32(b) != 1 {
			t.Errorf("context is %d", be.Uint32(b))
		}
		return b[4:]
	}
	const k64 = 64 << 10
	if got := status(0, 0, 1<<30); !bytes.Equal(got, cat(u32(k64), u32(0), u32(k64), u32(3), u32(k64), u32(0))) {
		t.Errorf("status is %x", got)
	}
	if got := status(fReqOne, 1, 10); !bytes.Equal(got, cat(u32(10), u32(0))) {
		t.Errorf("status of one is %x", got)
	}
	if got := status(0, k64+5, 1<<29); !bytes.Equal(got[:16], cat(u32(k64-5), u32(3), u32(k64), u32(0))) {
		t.Errorf("status from within is %x", got)
	}
	p.wantAlive(true)
}

// TestErrorTable checks what a client sees of each kind of error, for each
// command. ENOTSUP is for FAST_ZERO alone.
func TestErrorTable(t *testing.T) {
	want := map[block.Kind]nbdserver.Errno{block.Internal: 5, block.NotFound: 5, block.Exists: 5, block.Busy: 5, block.Invalid: 22,
		block.NoSpace: 28, block.ReadOnly: 1, block.Corrupt: 5, block.IO: 5, block.Permission: 1, block.Unsupported: 5}
	for _, kind := range block.Kinds() {
		for _, cmd := range []uint16{cRead, cWrite, cFlush, cTrim, cCache, cZero} {
			p := enter(t, start(t, failing(block.Errorf(kind, "planted"))), false)
			var payload []byte
			if cmd == cWrite {
				payload = fill(4096, 1)
			}
			p.command(0, cmd, 9, 0, 4096, payload)
			errno, answered := want[kind]
			if !answered {
				p.wantClosed() // Fenced and Unavailable
				continue
			}
			p.wantSimple(errno, 9)
		}
	}
}
