package segment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

func openLog(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustClose(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// buildWorld writes rounds of records, each synced, over two segments and
// returns the closed world and its records.
func buildWorld(t *testing.T, mem *vfs.MemFS, rounds int) *world {
	t.Helper()
	w, err := reopen(mem, newHistory(), rand.New(rand.NewPCG(7, 7)), false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rounds {
		for _, kind := range []Kind{Data, Zero, Move} {
			if err := w.append(kind, 2); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.sync(); err != nil {
			t.Fatal(err)
		}
		if i == rounds/2 {
			if err := w.l.Rotate(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustClose(t, w.l)
	return w
}

// blocksOf returns the blocks of a segment file that are in use.
func blocksOf(t *testing.T, fs *vfs.MemFS, id block.SegmentID) []byte {
	t.Helper()
	b, err := fs.UnsafeGetFileDataBuffer("/" + FileName(id))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// rewrite replaces the contents of a segment file.
func rewrite(t *testing.T, fs vfs.FS, id block.SegmentID, b []byte) {
	t.Helper()
	f, err := fs.Create("/"+FileName(id), writeCategory)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamage flips a bit in every block, and cuts the file at every block: a
// replay reports Corrupt, or ends at the last group commit, and never hands out
// a wrong record (S4).
func TestDamage(t *testing.T) {
	const rounds, perRound = 8, 3
	ref := vfs.NewCrashableMem()
	w := buildWorld(t, ref, rounds)
	corrupt, short, tries := 0, 0, 0
	// An end that is missing together with everything after it leaves no trace.
	endLost := false
	try := func(name string, id block.SegmentID, change func([]byte) []byte) {
		fs := vfs.NewCrashableMem()
		for s := block.SegmentID(1); s <= 2; s++ {
			b := slices.Clone(blocksOf(t, ref, s))
			if s == id {
				b = change(b)
			}
			rewrite(t, fs, s, b)
		}
		o := testOptions(fs, false)
		if tries++; tries%2 == 0 { // what a process that left it in good order would say (S11)
			o.EndsBefore = LSN(len(w.recs) + 1)
		}
		l := openLog(t, o)
		n := 0
		_, next, err := l.Replay(context.Background(), Pos{}, 1, func(r Record) error {
			if a, b := fmt.Sprint(r), fmt.Sprint(w.recs[n]); a != b {
				return fmt.Errorf("replay: record %s: want %s", a, b)
			}
			n++
			return nil
		})
		switch {
		case err != nil && block.Is(err, block.Corrupt):
			corrupt++
		case err != nil:
			t.Errorf("%s: %v: want corrupt", name, err)
		case int(next) <= (rounds-1)*perRound && !endLost:
			t.Errorf("%s: replay ends before record %d without an error", name, next)
		default:
			short++
		}
		_ = l.Close() // a log that was not replayed has nothing to sync
	}
	for id := block.SegmentID(1); id <= 2; id++ {
		size := len(blocksOf(t, ref, id))
		for off := 0; off < size; off += block.Size {
			for _, at := range []int{0, 9, 41, 57, 61, 65, 77, 97, 101, 2000, 4094} {
				try(fmt.Sprintf("segment %d, bit flip at %d", id, off+at), id, func(b []byte) []byte { b[off+at] ^= 4; return b })
			}
			endLost = id == 2
			try(fmt.Sprintf("segment %d cut at %d", id, off), id, func(b []byte) []byte { return b[:off] })
			try(fmt.Sprintf("segment %d cut at %d", id, off+100), id, func(b []byte) []byte { return b[:off+100] })
			endLost = false
		}
	}
	if corrupt == 0 || short == 0 {
		t.Errorf("%d corrupt, %d ended early: want both to happen", corrupt, short)
	}
	t.Logf("%d corrupt, %d ended in the last group commit or were whole", corrupt, short)
}

// TestScanDamage: a flipped bit in any header of a sealed segment is found by
// Scan, which does not read payload.
func TestScanDamage(t *testing.T) {
	ref := vfs.NewCrashableMem()
	buildWorld(t, ref, 8)
	b := blocksOf(t, ref, 1)
	headers := 0
	for off := 0; off < len(b); off += block.Size {
		_, _, err := decodeChunkHeader(b[off:off+block.Size], testStore, 1, uint32(off/block.Size))
		if err != nil && off > 0 {
			continue
		}
		headers++
		fs := vfs.NewCrashableMem()
		bad := slices.Clone(b)
		bad[off+60] ^= 1
		rewrite(t, fs, 1, bad)
		l := openLog(t, testOptions(fs, false))
		if err := l.Scan(context.Background(), 1, func(Record) error { return nil }); !block.Is(err, block.Corrupt) {
			t.Errorf("bit flip in the header at %d: scan: %v: want corrupt", off, err)
		}
		mustClose(t, l)
	}
	if headers != 7 { // block 0, five chunks, end marker
		t.Errorf("%d headers: want 7", headers)
	}
}

// TestStaleTail: what a recovery cut off stays away although it is whole again
// later and new records have been written since (S3).
func TestStaleTail(t *testing.T) {
	ctx := context.Background()
	mem := vfs.NewCrashableMem()
	l := openLog(t, testOptions(mem, false))
	if _, _, err := l.Replay(ctx, Pos{}, 1, nil); err != nil {
		t.Fatal(err)
	}
	put := func(l *Log, layer block.LayerID) {
		t.Helper()
		if _, err := l.Append(Record{Kind: Data, Layer: layer, Count: 1}, make([]byte, block.Size), nil); err != nil {
			t.Fatal(err)
		}
	}
	writeChunks := func(l *Log) {
		t.Helper()
		l.mu.Lock()
		l.closeChunk()
		seq := l.closedSeq
		l.mu.Unlock()
		if err := l.writeOut(seq); err != nil {
			t.Fatal(err)
		}
	}
	put(l, 1)
	if err := l.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 { // written, never synced
		put(l, 2)
		writeChunks(l)
	}
	whole := slices.Clone(blocksOf(t, mem, 1))
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	mustClose(t, l)
	torn := slices.Clone(whole)
	torn[4*block.Size] ^= 1 // the first of the three chunks: header at 3, data at 4
	rewrite(t, crashed, 1, torn)

	layers := func(fs vfs.FS) (got []block.LayerID, l *Log) {
		t.Helper()
		l = openLog(t, testOptions(fs, false))
		if _, _, err := l.Replay(ctx, Pos{}, 1, func(r Record) error { got = append(got, r.Layer); return nil }); err != nil {
			t.Fatal(err)
		}
		return got, l
	}
	got, l := layers(crashed)
	if !slices.Equal(got, []block.LayerID{1}) {
		t.Fatalf("after the crash: layers %v: want 1", got)
	}
	put(l, 3)
	mustClose(t, l)
	rewrite(t, crashed, 1, whole)
	got, l = layers(crashed)
	if !slices.Equal(got, []block.LayerID{1, 3}) {
		t.Errorf("with the stale tail whole again: layers %v: want 1, 3", got)
	}
	mustClose(t, l)
}

func FuzzDecodeChunk(f *testing.F) {
	mem := vfs.NewCrashableMem()
	l, err := Open(testOptions(mem, false))
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := l.Replay(context.Background(), Pos{}, 1, nil); err != nil {
		f.Fatal(err)
	}
	for _, r := range []Record{{Kind: Data, Layer: 1, Count: 3}, {Kind: Zero, Layer: 2, First: 9, Count: 1 << 30}, {Kind: Move, Layer: 3, Count: 2, Old: block.MakeAddr(1, 1)}} {
		n := int(r.Count) * block.Size
		if r.Kind == Zero {
			n = 0
		}
		if _, err := l.Append(r, make([]byte, n), nil); err != nil {
			f.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	b, err := mem.UnsafeGetFileDataBuffer("/" + FileName(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Clone(b[block.Size : 2*block.Size]))
	f.Add(slices.Clone(b[:block.Size]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(slices.Clone(b), make([]byte, block.Size)...)[:block.Size]
		// Make the checksum and the place right, so that the fields are reached.
		copy(b[16:32], testStore[:])
		h := chunkHeader{}
		if got, _, _, err := decodeChunk(b, testStore, 1, 1); err == nil {
			h = got
		}
		fixChecksum(b)
		got, _, recs, err := decodeChunk(b, testStore, 1, 1)
		if err != nil {
			return
		}
		if len(recs) != int(got.entries) || got.blocks > maxChunkBlocks || h.entries > got.entries {
			t.Fatalf("decoded %d records of %+v", len(recs), got)
		}
		// What decodes encodes to the same entries.
		again, off := make([]byte, block.Size), chunkFixedBytes
		for i := range recs {
			off = putEntry(again, off, &recs[i])
		}
		if off != int(got.bytes) || string(again[chunkFixedBytes:off]) != string(b[chunkFixedBytes:off]) {
			t.Fatal("entries do not encode to what they were decoded from")
		}
	})
}

func FuzzDecodeSegmentHeader(f *testing.F) {
	b := make([]byte, block.Size)
	(&segmentHeader{store: testStore, id: 5, first: 9, durable: 8, prev: Pos{4, 77}}).encode(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(slices.Clone(b), make([]byte, block.Size)...)[:block.Size]
		fixChecksum(b)
		h, err := decodeSegmentHeader(b, testStore, 5)
		if err == nil && (h.id != 5 || h.durable >= h.first || h.prev.Segment >= 5) {
			t.Fatalf("accepted %+v", h)
		}
	})
}

func fixChecksum(b []byte) {
	crc := block.MetaChecksum(b[:crcOffset])
	b[crcOffset], b[crcOffset+1], b[crcOffset+2], b[crcOffset+3] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
}

// TestCorpusThere keeps the committed corpus from getting lost.
func TestCorpusThere(t *testing.T) {
	for _, name := range []string{"FuzzDecodeChunk", "FuzzDecodeSegmentHeader"} {
		if e, err := os.ReadDir("testdata/fuzz/" + name); err != nil || len(e) == 0 {
			t.Errorf("%s: no committed corpus: %v", name, err)
		}
	}
}

// TestDamagedPayload flips a bit in each block of payload: all is replayed but what
// the damage may have been of a power cut, and reading the block finds it (S13).
func TestDamagedPayload(t *testing.T) {
	const rounds = 8
	ctx := context.Background()
	ref := vfs.NewCrashableMem()
	w := buildWorld(t, ref, rounds)
	vouched := LSN((rounds - 1) * 3) // the last header says so
	for i, rec := range w.recs {
		for b := range rec.Count {
			if rec.Kind == Zero {
				break
			}
			for _, left := range []bool{false, true} { // by a process, in good order (S11)
				fs := vfs.NewCrashableMem()
				for s := block.SegmentID(1); s <= 2; s++ {
					data := slices.Clone(blocksOf(t, ref, s))
					if s == rec.Addr.Segment() {
						data[(int(rec.Addr.Block())+int(b))*block.Size+1000] ^= 1
					}
					rewrite(t, fs, s, data)
				}
				o := testOptions(fs, false)
				if left {
					o.EndsBefore = LSN(len(w.recs) + 1)
				}
				l := openLog(t, o)
				n := 0
				_, next, err := l.Replay(ctx, Pos{}, 1, func(r Record) error {
					if got, want := fmt.Sprint(r), fmt.Sprint(w.recs[n]); got != want {
						return fmt.Errorf("replay: record %s: want %s", got, want)
					}
					n++
					return nil
				})
				want := len(w.recs)
				if rec.LSN > vouched && !left {
					want = int(vouched) // its chunk is the last one
				}
				if err != nil || n != want || int(next) != want+1 {
					t.Fatalf("record %d damaged: replay of %d records, next %d: %v; want %d", i+1, n, next, err, want)
				}
				if n == len(w.recs) {
					p := make([]byte, int(rec.Count)*block.Size)
					if err := l.ReadAt(rec.Addr, p); err != nil {
						t.Fatal(err)
					}
					if err := rec.verify(&p); !block.Is(err, block.Corrupt) {
						t.Errorf("record %d damaged: its payload verifies: %v", i+1, err)
					}
				}
				mustClose(t, l)
			}
		}
	}
}

// TestPastAll: behind the last chunk, and with a number that no record had (S2).
func TestPastAll(t *testing.T) {
	mem := vfs.NewCrashableMem()
	w := buildWorld(t, mem, 8)
	l := openLog(t, testOptions(mem, false))
	end, want, err := l.Replay(context.Background(), Pos{}, 1, func(Record) error { return nil })
	if err != nil || int(want) != len(w.recs)+1 {
		t.Fatalf("replay: next %d: %v; want %d", want, err, len(w.recs)+1)
	}
	at, next, err := l.PastAll()
	if err != nil || next != want || at.Segment != end.Segment || at.Block < end.Block {
		t.Errorf("past all is %s, record %d: %v; the log ends at %s, record %d", at, next, err, end, want)
	}
	mustClose(t, l)
}
