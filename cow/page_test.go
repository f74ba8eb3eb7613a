package cow

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/slackerd/slacker/block"
)

// randomRuns returns operands of a page, oldest first.
func randomOperands(r *rand.Rand, key []byte, n int) (vs [][]byte) {
	for range n {
		first := r.IntN(PageBlocks)
		count := 1 + r.IntN(min(40, PageBlocks-first))
		if r.IntN(3) == 0 {
			vs = append(vs, finishPage(appendRun([]byte{pageVersion}, first, count, runZero, 0, nil), key))
			continue
		}
		sums := make([]uint32, count)
		for i := range sums {
			sums[i] = r.Uint32()
		}
		addr := block.MakeAddr(block.SegmentID(1+r.IntN(3)), uint32(1+r.IntN(1000)))
		vs = append(vs, finishPage(appendRun([]byte{pageVersion}, first, count, runData, addr, sums), key))
	}
	return vs
}

func decoded(t testing.TB, key, v []byte) page {
	t.Helper()
	var p page
	if err := overlayPage(&p, key, v); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPageRoundTrip: what is encoded decodes to the same, and under no other key.
func TestPageRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	key, other := pageKey(7, 9), pageKey(7, 10)
	for range 200 {
		var p page
		for _, v := range randomOperands(r, key, 1+r.IntN(30)) {
			if err := overlayPage(&p, key, v); err != nil {
				t.Fatal(err)
			}
		}
		v := encodePage(&p, key)
		if len(v) > maxPageValue {
			t.Fatalf("%d bytes, want at most %d", len(v), maxPageValue)
		}
		if decoded(t, key, v) != p {
			t.Fatal("decodes to something else")
		}
		var q page
		if err := overlayPage(&q, other, v); !block.Is(err, block.Corrupt) {
			t.Fatalf("under another key: %v", err)
		}
		v[r.IntN(len(v))] ^= byte(1 << r.IntN(8))
		if err := overlayPage(&q, key, v); !block.Is(err, block.Corrupt) {
			t.Fatalf("with a bit flipped: %v", err)
		}
	}
}

// foldAny merges operands in a random grouping, as Pebble may.
func foldAny(t testing.TB, r *rand.Rand, key []byte, vs [][]byte) []byte {
	t.Helper()
	if len(vs) == 1 {
		return vs[0]
	}
	var parts [][]byte
	for len(vs) > 0 {
		n := 1 + r.IntN(len(vs))
		if n == len(vs) && len(parts) == 0 {
			n--
		}
		parts = append(parts, foldAny(t, r, key, vs[:n]))
		vs = vs[n:]
	}
	at := r.IntN(len(parts)) // begin in the middle, then newer or older
	m, err := newMerger().Merge(key, parts[at])
	if err != nil {
		t.Fatal(err)
	}
	for lo, hi := at-1, at+1; lo >= 0 || hi < len(parts); {
		if hi < len(parts) && (lo < 0 || r.IntN(2) == 0) {
			err = m.MergeNewer(parts[hi])
			hi++
		} else {
			err = m.MergeOlder(parts[lo])
			lo--
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	v, _, err := m.Finish(r.IntN(2) == 0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestMergeIsAssociative: any grouping of operands gives the same page.
func TestMergeIsAssociative(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	key := pageKey(3, 4)
	for range 100 {
		vs := randomOperands(r, key, 2+r.IntN(12))
		var want page
		for _, v := range vs {
			if err := overlayPage(&want, key, v); err != nil {
				t.Fatal(err)
			}
		}
		for range 5 {
			if decoded(t, key, foldAny(t, r, key, vs)) != want {
				t.Fatal("another grouping gives another page")
			}
		}
	}
}

func TestCountMerge(t *testing.T) {
	m, err := newMerger().Merge(segmentKey(1), encodeCount(5))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{-7, 1 << 40} {
		if err := m.MergeNewer(encodeCount(n)); err != nil {
			t.Fatal(err)
		}
	}
	v, _, err := m.Finish(true)
	if err != nil || !slices.Equal(v, encodeCount(1<<40-2)) {
		t.Fatalf("got %x, %v", v, err)
	}
	if err := m.MergeOlder([]byte{1}); !block.Is(err, block.Corrupt) {
		t.Errorf("a counter of one byte: %v", err)
	}
}

// FuzzPage: no bytes do harm, and what decodes encodes to the same page.
func FuzzPage(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 1))
	key := pageKey(1, 2)
	for range 5 {
		v := randomOperands(r, key, 1)[0]
		f.Add(v[1 : len(v)-4])
	}
	f.Fuzz(func(t *testing.T, runs []byte) {
		var p page
		if err := overlayPage(&p, key, runs); err == nil && len(runs) < 5 {
			t.Fatal("a page without a checksum")
		}
		p = page{}
		v := finishPage(append([]byte{pageVersion}, runs...), key) // make the checksum right
		if err := overlayPage(&p, key, v); err != nil {
			if !block.Is(err, block.Corrupt) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again := encodePage(&p, key)
		if again == nil {
			if p.own != (page{}).own {
				t.Fatal("own entries encode to nothing")
			}
			return
		}
		if decoded(t, key, again) != p {
			t.Fatal("decodes to something else")
		}
	})
}

// TestCorpusThere keeps the committed corpus from getting lost.
func TestCorpusThere(t *testing.T) {
	for _, name := range []string{"FuzzPage", "FuzzJournal"} {
		if e, err := os.ReadDir("testdata/fuzz/" + name); err != nil || len(e) == 0 {
			t.Errorf("%s: no committed corpus: %v", name, err)
		}
	}
}
