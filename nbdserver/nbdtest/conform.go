package nbdtest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
)

// Opener opens one more device of the same export. The suite closes what it
// opens.
type Opener func() nbdserver.Device

// minConformBytes is the least size of the export that Conform is given.
const minConformBytes = 1 << 20

// Conform checks an implementation of Device against the contract in its doc
// comment. newExport makes a fresh writable export that reads as zeroes, of at
// least 1 MiB and with a minimum block of at most 4 KiB, for each test; the Opener may be called from several goroutines.
// What only a crash shows, that is durability, is for the tests of the
// implementation.
func Conform(t *testing.T, newExport func(t *testing.T) Opener) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"Info", conformInfo},
		{"FreshIsZero", conformFresh},
		{"WriteVisible", conformVisible},
		{"Unaligned", conformUnaligned},
		{"Ends", conformEnds},
		{"TrimReadsZero", func(t *testing.T, o Opener) { conformZero(t, o, trim) }},
		{"ZeroesReadZero", func(t *testing.T, o Opener) { conformZero(t, o, zeroes) }},
		{"ExtentsSum", conformExtentsSum},
		{"ExtentsAgree", conformExtentsAgree},
		{"ReadNow", conformReadNow},
		{"LendNow", conformLendNow},
		{"MaximumRequest", conformMaximum},
		{"BufferNotKept", conformNotKept},
		{"Model", conformModel},
		{"Concurrent", conformConcurrent},
		{"ConcurrentSameBlock", conformSameBlock},
		{"Cancel", conformCancel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newExport(t)) })
	}
}

// dev is a device under test, whose failures end the test.
type dev struct {
	nbdserver.Device
	t *testing.T
}

func open(t *testing.T, o Opener) dev {
	t.Helper()
	d := o()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	if i := d.Info(); i.SizeBytes < minConformBytes || i.ReadOnly || i.MinBlockBytes > block.Size {
		t.Fatalf("the suite needs a writable export of at least 1 MiB and a minimum block of at most 4 KiB, got %+v", i)
	}
	return dev{d, t}
}

func (d dev) write(off uint64, p []byte) {
	d.t.Helper()
	if err := d.WriteAt(context.Background(), p, off, false); err != nil {
		d.t.Fatalf("WriteAt(%d bytes at %d): %v", len(p), off, err)
	}
}

func (d dev) read(off uint64, n int) []byte {
	d.t.Helper()
	p := bytes.Repeat([]byte{0xdb}, n) // what is not filled shows
	if err := d.ReadAt(context.Background(), p, off); err != nil {
		d.t.Fatalf("ReadAt(%d bytes at %d): %v", n, off, err)
	}
	return p
}

func (d dev) want(off uint64, want []byte) {
	d.t.Helper()
	if got := d.read(off, len(want)); !bytes.Equal(got, want) {
		i := 0
		for got[i] == want[i] {
			i++
		}
		d.t.Fatalf("read of %d bytes at %d: byte %d is %#x, want %#x", len(want), off, i, got[i], want[i])
	}
}

func (d dev) extents(off, n uint64, limit int) []nbdserver.Extent {
	d.t.Helper()
	es, err := d.Extents(context.Background(), nil, off, n, limit)
	if err != nil {
		d.t.Fatalf("Extents(%d bytes at %d): %v", n, off, err)
	}
	return es
}

func (d dev) flush() {
	d.t.Helper()
	if err := d.Flush(context.Background()); err != nil {
		d.t.Fatalf("Flush: %v", err)
	}
}

// zeroing is Trim or WriteZeroes.
type zeroing func(d dev, off, n uint64, fua bool) error

func trim(d dev, off, n uint64, fua bool) error { return d.Trim(context.Background(), off, n, fua) }
func zeroes(d dev, off, n uint64, fua bool) error {
	return d.WriteZeroes(context.Background(), off, n, off&1 == 0, fua)
}

// pattern returns n bytes that are never zero.
func pattern(n int, seed uint64) []byte {
	p := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(rng.Uint32()) | 1
	}
	return p
}

// unit returns the least alignment that the suite may use.
func (d dev) unit() uint64 { return uint64(d.Info().MinBlockBytes) }

func conformInfo(t *testing.T, o Opener) {
	d := open(t, o)
	i := d.Info()
	pow2 := func(n uint32) bool { return n > 0 && n&(n-1) == 0 }
	if !pow2(i.MinBlockBytes) || i.MinBlockBytes > 64<<10 || !pow2(i.PreferredBlockBytes) ||
		i.PreferredBlockBytes < max(i.MinBlockBytes, 512) || i.MaxRequestBytes%i.MinBlockBytes != 0 ||
		i.MaxRequestBytes < i.PreferredBlockBytes || i.SizeBytes%uint64(i.MinBlockBytes) != 0 {
		t.Errorf("sizes break the contract of Info: %+v", i)
	}
	if again := d.Info(); again != i {
		t.Errorf("Info changed from %+v to %+v", i, again)
	}
}

func conformFresh(t *testing.T, o Opener) {
	d := open(t, o)
	d.want(0, make([]byte, minConformBytes))
	d.want(d.Info().SizeBytes-64<<10, make([]byte, 64<<10))
}

func conformVisible(t *testing.T, o Opener) {
	a, b := open(t, o), open(t, o)
	p := pattern(256<<10, 1)
	a.write(128<<10, p)
	b.want(128<<10, p)
	q := pattern(64<<10, 2)
	if err := b.WriteAt(context.Background(), q, 192<<10, true); err != nil {
		t.Fatalf("WriteAt with fua: %v", err)
	}
	copy(p[64<<10:], q)
	a.want(128<<10, p)
	a.flush()
	b.want(128<<10, p)
	a.want(0, make([]byte, 128<<10))
	b.want(384<<10, make([]byte, 64<<10))
	c := open(t, o)
	c.want(128<<10, p)
}

func conformUnaligned(t *testing.T, o Opener) {
	d := open(t, o)
	u := d.unit()
	model := make([]byte, 64<<10)
	for i, r := range [][2]uint64{{0, u}, {u, 2 * u}, {4096 - u, 2 * u}, {3 * u, 8192}, {8192 - u, u}, {12288, 4096 + u}, {20480 - u, 4096}} {
		p := pattern(int(r[1]), uint64(i)+10)
		d.write(r[0], p)
		copy(model[r[0]:], p)
		d.want(0, model)
		d.want(r[0], p)
	}
	if err := trim(d, u, 4096+u, true); err != nil {
		t.Fatal(err)
	}
	clear(model[u : 4096+2*u])
	d.want(0, model)
}

func conformEnds(t *testing.T, o Opener) {
	d := open(t, o)
	size, u := d.Info().SizeBytes, d.unit()
	p := pattern(int(u), 3)
	d.write(size-u, p)
	d.want(size-u, p)
	d.write(0, p)
	d.want(0, p)
	if err := d.Cache(context.Background(), 0, size); err != nil {
		t.Errorf("Cache of all: %v", err)
	}
	if err := zeroes(d, size-u, u, false); err != nil {
		t.Fatal(err)
	}
	d.want(size-u, make([]byte, u))
	if err := trim(d, 0, size, false); err != nil {
		t.Fatalf("Trim of all: %v", err)
	}
	d.want(0, make([]byte, u))
}

func conformZero(t *testing.T, o Opener, zero zeroing) {
	d, other := open(t, o), open(t, o)
	u := d.unit()
	model := pattern(512<<10, 4)
	d.write(0, model)
	for i, r := range [][2]uint64{{0, 4096}, {64 << 10, 128 << 10}, {8192 + u, 4096}, {256<<10 - u, 2 * u}, {300 << 10, 4096 + u}} {
		if err := zero(d, r[0], r[1], i%2 == 0); err != nil {
			t.Fatalf("zeroing %d bytes at %d: %v", r[1], r[0], err)
		}
		clear(model[r[0] : r[0]+r[1]])
		other.want(0, model)
	}
	d.write(64<<10, pattern(64<<10, 5)) // over what was discarded
	copy(model[64<<10:], pattern(64<<10, 5))
	other.want(0, model)
	if err := zero(d, 0, d.Info().SizeBytes, false); err != nil {
		t.Fatalf("zeroing all: %v", err)
	}
	d.want(0, make([]byte, minConformBytes))
}

// checkSum checks that extents lie in n bytes; all of them when complete.
func checkSum(t *testing.T, es []nbdserver.Extent, n uint64, limit int) {
	t.Helper()
	var sum uint64
	for _, e := range es {
		if e.LengthBytes == 0 {
			t.Fatalf("an extent is empty: %+v", es)
		}
		sum += e.LengthBytes
	}
	if len(es) == 0 || len(es) > limit || sum > n || sum == 0 {
		t.Fatalf("%d extents of %d bytes in all: want 1 to %d extents and at most %d bytes", len(es), sum, limit, n)
	}
}

func conformExtentsSum(t *testing.T, o Opener) {
	d := open(t, o)
	size, u := d.Info().SizeBytes, d.unit()
	for i := range uint64(8) {
		d.write(i*128<<10, pattern(64<<10, i))
	}
	for _, limit := range []int{1, 2, 3, 8192} {
		for _, r := range [][2]uint64{{0, size}, {0, u}, {64<<10 - u, 2 * u}, {size - u, u}, {u, 1<<20 - u}} {
			checkSum(t, d.extents(r[0], r[1], limit), r[1], limit)
		}
	}
	kept := []nbdserver.Extent{{LengthBytes: 77}}
	es, err := d.Extents(context.Background(), kept, 0, size, 4)
	if err != nil || len(es) < 2 || es[0] != kept[0] {
		t.Errorf("Extents does not append to dst: %+v, %v", es, err)
	}
}

func conformExtentsAgree(t *testing.T, o Opener) {
	d := open(t, o)
	d.write(0, pattern(256<<10, 6))
	d.write(512<<10, pattern(4096, 7))
	if err := trim(d, 64<<10, 64<<10, false); err != nil {
		t.Fatal(err)
	}
	for off, end := uint64(0), uint64(minConformBytes); off < end; {
		es := d.extents(off, end-off, 3)
		checkSum(t, es, end-off, 3)
		for _, e := range es {
			zero := bytes.Equal(d.read(off, int(e.LengthBytes)), make([]byte, e.LengthBytes))
			if (e.Zero || e.Hole) && !zero {
				t.Errorf("extent %+v at %d has data", e, off)
			}
			off += e.LengthBytes
		}
	}
}

func conformReadNow(t *testing.T, o Opener) {
	d := open(t, o)
	want := pattern(128<<10, 8)
	d.write(4096, want)
	for range 3 {
		p := bytes.Repeat([]byte{0xdb}, len(want))
		ok, err := d.ReadNow(p, 4096)
		switch {
		case err != nil:
			t.Fatalf("ReadNow: %v", err)
		case ok && !bytes.Equal(p, want):
			t.Fatal("ReadNow returned true and gave other data")
		}
		d.want(4096, want) // may bring it at hand
	}
}

func conformLendNow(t *testing.T, o Opener) {
	d := open(t, o)
	lender, ok := d.Device.(nbdserver.Lender)
	if !ok {
		return // a device need not lend
	}
	want := pattern(64<<10, 9)
	d.write(4096, want)
	if err := d.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	if !lender.LendNow(int(w.Fd()), 4096, uint64(len(want))) {
		t.Log("nothing was lent")
		return
	}
	d.write(4096, pattern(len(want), 10))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("what was lent is other data after it was overwritten: %v", err)
	}
}

func conformMaximum(t *testing.T, o Opener) {
	d := open(t, o)
	n := min(uint64(d.Info().MaxRequestBytes), d.Info().SizeBytes)
	p := pattern(int(n), 9)
	d.write(0, p)
	d.want(0, p)
}

// conformNotKept: the caller changes the buffer of a write at once.
func conformNotKept(t *testing.T, o Opener) {
	d := open(t, o)
	p := pattern(64<<10, 10)
	q := bytes.Clone(p)
	d.write(0, p)
	clear(p)
	d.want(0, q)
	d.flush()
	d.want(0, q)
	clear(d.read(0, 64<<10))
	d.want(0, q)
}
