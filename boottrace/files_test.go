package boottrace

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/slackerd/slacker/block"
)

func TestFilesRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var files []File
		for i := range rng.IntN(300) {
			f := File{Path: strings.Repeat("usr/lib/", rng.IntN(4)) + fmt.Sprint(i)}
			for first := rng.Uint64N(100); len(f.Runs) < rng.IntN(8); first += 20 + rng.Uint64N(100) {
				f.Runs = append(f.Runs, Run{first, 1 + rng.Uint64N(20)})
			}
			files = append(files, f)
		}
		got, err := DecodeFiles(EncodeFiles(files))
		if err != nil || len(got) != len(files) || len(files) > 0 && !reflect.DeepEqual(got, files) {
			t.Fatalf("%d files became %d, %v", len(files), len(got), err)
		}
	}
}

// TestFilesLimits: what is too much is cut, what cannot be is left out, and neither
// makes a trace that is refused.
func TestFilesLimits(t *testing.T) {
	page := []Run{{0, 1}}
	var many, long []File
	for i := range MaxFiles + 1 {
		many = append(many, File{fmt.Sprint(i), page})
		long = append(long, File{fmt.Sprintf("%d%s", i, strings.Repeat("x", 200)), page})
	}
	for _, c := range []struct {
		what  string
		files []File
		want  int
	}{
		{"too many", many, MaxFiles},
		{"too long", long, (MaxFilesBytes - 1 - sumBytes) / 210},
		{"too many pages", []File{{"a", []Run{{0, MaxFilePages}}}, {"b", page}}, 1},
		{"runs out of order, of nothing, and beyond the end", []File{{"a", []Run{{5, 1}, {4, 1}}}, {"b", []Run{{1, 0}}}, {"c", []Run{{maxPage, 1}}}, {"d", page}}, 1},
		{"paths elsewhere", []File{{"", page}, {".", page}, {"..", page}, {"/etc/shadow", page}, {"../a", page}, {"a/../b", page}, {"a//b", page}, {"a/", page}, {"a\x00b", page}, {strings.Repeat("x", maxPathBytes+1), page}, {"..a", page}}, 1},
	} {
		p := EncodeFiles(c.files)
		got, err := DecodeFiles(p)
		if err != nil || len(p) > MaxFilesBytes || len(got) < c.want || len(got) > c.want+20 {
			t.Errorf("%s: %d of %d files in %d bytes, %v: want %d", c.what, len(got), len(c.files), len(p), err, c.want)
		}
	}
	if got, err := DecodeFiles(EncodeFiles([]File{{"a", slices.Repeat([]Run{{0, 1}}, MaxFileRuns+1)}})); err != nil || len(got) != 0 {
		t.Errorf("a file with a run twice: %v, %v", got, err)
	}
	for _, p := range [][]byte{nil, {1}, {1, 0, 0, 0, 0}, make([]byte, MaxFilesBytes+1), EncodeFiles(many)[1:], Encode([]Run{{0, 1}})} {
		if _, err := DecodeFiles(p); !block.Is(err, block.Invalid) {
			t.Errorf("%d bytes are a trace of files: %v", len(p), err)
		}
	}
}

func FuzzDecodeFiles(f *testing.F) {
	f.Add(EncodeFiles(nil))
	f.Add(EncodeFiles([]File{{"usr/bin/sh", []Run{{0, 3}, {1 << 20, 64}}}, {"usr/bin/shh", nil}, {"etc/passwd", []Run{{0, 1}}}}))
	f.Add([]byte("\x01\x00\x05../ab\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) <= MaxFilesBytes-sumBytes { // a sum that is right lets the rest be tried
			p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
		}
		files, err := DecodeFiles(p)
		if err != nil {
			return
		}
		pages := uint64(0)
		for _, f := range files {
			end := uint64(0)
			for _, r := range f.Runs {
				if r.Count == 0 || r.First < end || r.First+r.Count > maxPage {
					t.Fatalf("runs %v", f.Runs)
				}
				pages, end = pages+r.Count, r.First+r.Count
			}
			if checkPath(f.Path) != "" || len(f.Runs) > MaxFileRuns {
				t.Fatalf("file %+v", f)
			}
		}
		if pages > MaxFilePages || len(files) > MaxFiles {
			t.Fatalf("%d files of %d pages", len(files), pages)
		}
		if again, err := DecodeFiles(EncodeFiles(files)); err != nil || !reflect.DeepEqual(again, files) {
			t.Fatalf("%d files became %d, %v", len(files), len(again), err)
		}
	})
}
