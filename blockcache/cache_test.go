package blockcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
)

const (
	testBlocks = 64
	testBytes  = testBlocks * block.Size
)

// TestMain lets the test binary be a process that fills a cache until it is killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "fill-for-ever" {
		fillForEver(os.Args[2])
	}
	os.Exit(m.Run())
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// content is what block i of a base holds: each sixth is zero.
func content(id string, i int) []byte {
	p := make([]byte, block.Size)
	if i%6 != 5 {
		seed := sha256.Sum256(fmt.Appendf(nil, "%s %d", id, i))
		_, _ = rand.NewChaCha8(seed).Read(p)
	}
	return p
}

func contents(id string, first, end int) (p []byte) {
	for i := first; i < end; i++ {
		p = append(p, content(id, i)...)
	}
	return p
}

func open(t testing.TB, dir string, limitBytes int64) *Cache {
	t.Helper()
	return must[*Cache](t)(Open(dir, limitBytes))
}

func openBase(t testing.TB, c *Cache, id string) *Base {
	t.Helper()
	b := must[*Base](t)(c.Base("server", id, testBytes))
	t.Cleanup(func() { _ = b.Close() }) // a test may have closed it
	return b
}

// check reads blocks and returns how many were there; what was there must be right.
func check(t testing.TB, b *Base, id string, first, end int) (hits int) {
	t.Helper()
	p := make([]byte, (end-first)*block.Size)
	from, to, ok := b.Read(p, uint64(first)*block.Size, false)
	if !ok {
		t.Fatalf("blocks %d to %d are not readable", first, end)
	}
	for i := first; i < end; i++ {
		if at := i - first; at < from || at >= to {
			hits++
			if !bytes.Equal(p[at*block.Size:(at+1)*block.Size], content(id, i)) {
				t.Fatalf("block %d of base %s is wrong", i, id)
			}
		}
	}
	return hits
}

func TestFillAndRead(t *testing.T) {
	dir := t.TempDir()
	b := openBase(t, open(t, dir, 1<<30), "a")
	if n := check(t, b, "a", 0, testBlocks); n != 0 {
		t.Fatalf("%d blocks of an empty cache", n)
	}
	if n := b.Fill(contents("a", 3, 12), 3*block.Size); n != 9*block.Size {
		t.Fatalf("kept %d bytes", n)
	}
	other := openBase(t, open(t, dir, 1<<30), "a") // as another process
	for _, tc := range []struct{ first, end, want int }{{3, 12, 9}, {0, 12, 9}, {3, 20, 9}, {0, 3, 0}, {12, 64, 0}, {5, 6, 1}, {0, 64, 0}} {
		// Blocks between those that are missing at both ends count as missing.
		if n := check(t, other, "a", tc.first, tc.end); n != tc.want {
			t.Errorf("blocks %d to %d: %d were there, want %d", tc.first, tc.end, n, tc.want)
		}
	}
	for i := range testBlocks {
		if b.Has(uint64(i)*block.Size, false) != (i >= 3 && i < 12) {
			t.Errorf("Has of block %d", i)
		}
	}
	for _, bad := range []struct{ off, n int }{{1, block.Size}, {0, 100}, {0, 0}, {testBytes, block.Size}, {testBytes - block.Size, 2 * block.Size}} {
		p := make([]byte, bad.n)
		if b.Fill(p, uint64(bad.off)) != 0 {
			t.Errorf("%d bytes at %d were kept", bad.n, bad.off)
		}
		if first, end, ok := b.Read(p, uint64(bad.off), false); !ok || first != 0 || end != bad.n/block.Size {
			t.Errorf("%d bytes at %d: %d to %d are missing", bad.n, bad.off, first, end)
		}
	}
}

// TestNoWait: what was just filled is read without waiting, and the answer of a
// file that is on disk only is that it has to wait, not a wrong one.
func TestNoWait(t *testing.T) {
	b := openBase(t, open(t, t.TempDir(), 1<<30), "a")
	b.Fill(contents("a", 0, 8), 0)
	p := make([]byte, 8*block.Size)
	first, end, ok := b.Read(p, 0, true)
	if !ok {
		t.Skip("skipped: this file system does not tell whether a read has to wait")
	}
	if first != end || !bytes.Equal(p, contents("a", 0, 8)) {
		t.Errorf("%d to %d are missing", first, end)
	}
}

// TestBasesAreApart: neither another snapshot nor another server finds what was
// filled, also when files are mixed up.
func TestBasesAreApart(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 1<<30)
	a := openBase(t, c, "a")
	a.Fill(contents("a", 0, testBlocks), 0)
	others := map[string]*Base{"another snapshot": openBase(t, c, "b"), "another server": must[*Base](t)(c.Base("server2", "a", testBytes))}
	for what, b := range others {
		if n := check(t, b, "a", 0, testBlocks); n != 0 {
			t.Errorf("%s: %d blocks", what, n)
		}
		for _, suffix := range []string{dataSuffix, sumsSuffix} {
			p := must[[]byte](t)(os.ReadFile(c.path(hex.EncodeToString(a.name[:]), suffix)))
			if err := os.WriteFile(c.path(hex.EncodeToString(b.name[:]), suffix), p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if n := check(t, b, "a", 0, testBlocks); n != 0 {
			t.Errorf("%s with the files of the first: %d blocks", what, n)
		}
		_ = b.Close()
	}
}

// TestPlacesAreApart: a block with its sum, moved, is not the block of its new place.
func TestPlacesAreApart(t *testing.T) {
	b := openBase(t, open(t, t.TempDir(), 1<<30), "a")
	b.Fill(contents("a", 0, 10), 0)
	for f, n := range map[*os.File]int64{b.data: block.Size, b.sums: sumBytes} {
		p := make([]byte, n)
		_ = must[int](t)(f.ReadAt(p, 2*n))
		_ = must[int](t)(f.WriteAt(p, 7*n))
	}
	if n := check(t, b, "a", 7, 8); n != 0 {
		t.Error("a block is there that was not filled")
	}
}

// TestDamage: whatever happens to the files, a block is right or not there.
func TestDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	b := openBase(t, open(t, dir, 1<<30), "a")
	found := 0
	for range 300 {
		first := rng.IntN(testBlocks)
		end := first + 1 + rng.IntN(testBlocks-first)
		b.Fill(contents("a", first, end), uint64(first)*block.Size)
		f := []*os.File{b.data, b.sums}[rng.IntN(2)]
		info := must[os.FileInfo](t)(f.Stat())
		at := rng.Int64N(max(info.Size(), 1))
		switch rng.IntN(5) {
		case 0:
			_, _ = f.WriteAt([]byte{byte(rng.Uint32())}, at)
		case 1:
			_ = f.Truncate(at)
		case 2: // a page of it moves
			p := make([]byte, block.Size)
			n, _ := f.ReadAt(p, at/block.Size*block.Size)
			_, _ = f.WriteAt(p[:n], rng.Int64N(4)*block.Size)
		case 3:
			_, _ = f.WriteAt(make([]byte, 512), at/512*512)
		case 4:
			_ = empty(f)
		}
		found += check(t, b, "a", 0, testBlocks)
	}
	if found == 0 {
		t.Error("no block was ever there")
	}
}

// TestKilled: a process that is killed while it fills, again and again, leaves
// nothing wrong, and what it has left is of use.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	b := openBase(t, open(t, dir, 1<<30), "a")
	found := 0
	for range 20 {
		cmd := exec.Command(os.Args[0], "fill-for-ever", dir)
		out := must[io.ReadCloser](t)(cmd.StdoutPipe())
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1+rand.IntN(100))); err != nil { // a byte for each fill
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		found += check(t, b, "a", 0, testBlocks)
		_ = empty(b.sums)
	}
	if found == 0 {
		t.Error("no block was ever there")
	}
}

func fillForEver(dir string) {
	c, err := Open(dir, 1<<30)
	if err != nil {
		panic(err)
	}
	b, err := c.Base("server", "a", testBytes)
	if err != nil {
		panic(err)
	}
	for {
		first := rand.IntN(testBlocks)
		end := first + 1 + rand.IntN(testBlocks-first)
		b.Fill(contents("a", first, end), uint64(first)*block.Size)
		_, _ = os.Stdout.Write([]byte{'.'})
	}
}

// TestConcurrent fills and reads two bases from several places, while others
// make room all the time.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for k := range 4 {
		id := strconv.Itoa(k % 2)
		all.Go(func() {
			c := must[*Cache](t)(Open(dir, MinLimitBytes))
			rng := rand.New(rand.NewPCG(uint64(k), 0))
			for range 40 {
				b := must[*Base](t)(c.Base("server", id, testBytes))
				for range 10 {
					first := rng.IntN(testBlocks)
					end := first + 1 + rng.IntN(testBlocks-first)
					b.Fill(contents(id, first, end), uint64(first)*block.Size)
					check(t, b, id, 0, testBlocks)
				}
				_ = b.Close()
			}
		})
	}
	all.Wait()
}

// bytesOf is what the directory takes, and of which bases.
func bytesOf(t *testing.T, c *Cache) (total int64, names string) {
	t.Helper()
	bases, total, err := c.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range bases {
		if k.bytes > 0 {
			names += k.name + " "
		}
	}
	return total, names
}

// TestRoom: the limit holds, and what was attached longest ago goes first: all of
// an unused base, the blocks of one in use.
func TestRoom(t *testing.T) {
	dir := t.TempDir()
	const limit = 8 << 20
	c := open(t, dir, limit)
	fill := func(b *Base, id string) (kept int) {
		for i := range 512 {
			kept += b.Fill(content(id, i*6), uint64(i)*block.Size)
		}
		return kept
	}
	const size = 512 * block.Size // 2 MiB
	use := func(id string, at int) *Base {
		b := must[*Base](t)(c.Base("server", id, size))
		when := time.Now().Add(time.Duration(at-100) * time.Hour)
		if err := os.Chtimes(b.sums.Name(), when, when); err != nil {
			t.Fatal(err)
		}
		return b
	}
	held := use("held", 0)
	fill(held, "held")
	for k := 1; k <= 6; k++ {
		b := use(strconv.Itoa(k), k)
		if kept := fill(b, strconv.Itoa(k)); kept != size {
			t.Errorf("base %d: %d bytes kept, want %d", k, kept, size)
		}
		_ = b.Close()
		if total, _ := bytesOf(t, c); total > limit+c.stepBytes() {
			t.Errorf("after base %d the cache takes %d bytes, the limit is %d", k, total, limit)
		}
	}
	nameOfID := func(id string) string { n := nameOf("server", id); return hex.EncodeToString(n[:]) }
	_, names := bytesOf(t, c)
	for id, want := range map[string]bool{"held": true, "1": false, "2": false, "6": true} {
		if strings.Contains(names, nameOfID(id)) != want {
			t.Errorf("base %s is kept: %v", id, !want)
		}
	}
	// More than the limit in use: the one that was attached first is emptied.
	var inUse []*Base
	for k := 10; k < 15; k++ {
		inUse = append(inUse, use(strconv.Itoa(k), k))
		fill(inUse[len(inUse)-1], strconv.Itoa(k))
	}
	if total, _ := bytesOf(t, c); total > limit+c.stepBytes() {
		t.Errorf("the cache takes %d bytes, the limit is %d", total, limit)
	}
	if held.Has(0, false) {
		t.Error("what was attached first is still there")
	}
	if !inUse[4].Has(0, false) {
		t.Error("what was attached last is not there")
	}
	for _, b := range append(inUse, held) {
		_ = b.Close()
	}
}

// TestRoomOfOne: one base larger than the limit is kept in part.
func TestRoomOfOne(t *testing.T) {
	c := open(t, t.TempDir(), 4<<20)
	b := must[*Base](t)(c.Base("server", "a", 64<<20))
	defer func() { _ = b.Close() }()
	kept := 0
	for i := range 64 << 20 / block.Size {
		kept += b.Fill(content("a", 1), uint64(i)*block.Size)
	}
	if total, _ := bytesOf(t, c); total > 4<<20+c.stepBytes() || kept < 2<<20 {
		t.Errorf("%d bytes kept, %d taken", kept, total)
	}
}

// TestDirectoryVanishes: a cache whose files were removed goes on without them.
func TestDirectoryVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := open(t, dir, 4<<20)
	b := openBase(t, c, "a")
	b.Fill(contents("a", 0, 4), 0)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		b.Fill(contents("a", 0, 4), 0)
	}
	check(t, b, "a", 0, testBlocks)
	if _, err := Open("relative", 1<<30); !block.Is(err, block.Invalid) {
		t.Errorf("a relative directory: %v", err)
	}
	if _, err := Open(dir, 10); !block.Is(err, block.Invalid) {
		t.Errorf("a limit of 10 bytes: %v", err)
	}
}
