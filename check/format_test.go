package check_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/check"
	"github.com/slackerd/slacker/volume"
)

// A store of each format that was ever released stays in testdata and must open
// for good: one file for each, written once by the program of its day with
//
//	go test ./check -run TestOldFormatsOpen -format.write testdata/NAME.tar.gz
//
// A new format gets a new file; the old ones are never written again.
var formatWrite = flag.String("format.write", "", "write a store of the present formats to this file, which must not exist")

// formatFiles are the stores, by what they are of: the version of the segments
// and that of the map.
var formatFiles = []string{"testdata/segment1-map1.tar.gz", "testdata/segment1-map2.tar.gz", "testdata/segment1-map3.tar.gz"}

// maxFormatBytes bounds such a file, and maxStoreBytes what it unpacks to.
const (
	maxFormatBytes = 300 << 10
	maxStoreBytes  = 64 << 20
)

// pack writes all files of the store. Those of the log end in zeros, which cost
// nothing here; what an export holds is small beside them (see fill).
func pack(t *testing.T, fs vfs.FS, to string) {
	t.Helper()
	var packed bytes.Buffer
	z := must[*gzip.Writer](t)(gzip.NewWriterLevel(&packed, gzip.BestCompression))
	w := tar.NewWriter(z)
	for _, dir := range []string{"store/map", "store/segments"} {
		for _, base := range must[[]string](t)(fs.List(dir)) {
			b := readFile(t, fs, fs.PathJoin(dir, base))
			mustDo(t, w.WriteHeader(&tar.Header{Name: path.Join(dir, base), Mode: 0o600, Size: int64(len(b)), ModTime: time.Unix(0, 0)}))
			_, err := w.Write(b)
			mustDo(t, err)
		}
	}
	mustDo(t, w.Close())
	mustDo(t, z.Close())
	if packed.Len() > maxFormatBytes {
		t.Fatalf("the store is %d bytes, packed: want at most %d", packed.Len(), maxFormatBytes)
	}
	f := must[*os.File](t)(os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644))
	_, err := f.Write(packed.Bytes())
	mustDo(t, err)
	mustDo(t, f.Close())
}

func unpack(t *testing.T, from string) *vfs.MemFS {
	t.Helper()
	z := must[*gzip.Reader](t)(gzip.NewReader(bytes.NewReader(must[[]byte](t)(os.ReadFile(from)))))
	fs := vfs.NewCrashableMem()
	for r := tar.NewReader(io.LimitReader(z, maxStoreBytes)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return fs
		}
		mustDo(t, err)
		mustDo(t, fs.MkdirAll(path.Dir(h.Name), 0o755))
		writeFile(t, fs, h.Name, must[[]byte](t)(io.ReadAll(r)))
	}
}

// formatStore makes the store that is kept: of each kind of thing one, and a log
// that was not all taken into the map.
func formatStore(t *testing.T) *fixture {
	t.Helper()
	ctx := context.Background()
	fs := vfs.NewCrashableMem()
	b := &builder{t: t, s: must[*volume.Store](t)(volume.Open(options(fs))), c: content{}, ever: map[int][]uint64{}}
	for _, name := range []string{"base", "own"} {
		must[volume.Info](t)(b.s.Create(ctx, name, volumeBlocks*block.Size))
		b.c[name] = make([]uint64, volumeBlocks)
	}
	b.write("base", 250, 10)
	b.write("own", 0, 4)
	b.snapshot("base", "s0")
	b.write("base", 255, 3)
	b.snapshot("base", "s1")
	b.clone("base", "s1", "left")
	b.write("left", 256, 2)
	b.write("base", 500, 1)
	mustDo(t, b.s.DeleteSnapshot(ctx, "base", "s0"))
	delete(b.c, "base@s0")
	b.collect() // merges a layer, moves blocks
	mustDo(t, b.s.Close())
	b.s = must[*volume.Store](t)(volume.Open(options(fs)))
	b.trim("own", 1, 2)
	b.write("left", 0, 2)
	killed := fs.CrashClone(vfs.CrashCloneCfg{})
	mustDo(t, b.s.Close())
	return &fixture{fs: killed, content: b.c}
}

// TestOldFormatsOpen opens every store that was kept, reads what was written and
// checks it. The contents come from the same script, not from the file.
func TestOldFormatsOpen(t *testing.T) {
	if *formatWrite != "" {
		pack(t, formatStore(t).fs, *formatWrite)
	}
	for _, name := range formatFiles {
		t.Run(strings.TrimSuffix(path.Base(name), ".tar.gz"), func(t *testing.T) {
			ctx := context.Background()
			kept := &fixture{fs: unpack(t, name), content: formatStore(t).content}
			s := must[*volume.Store](t)(volume.Open(options(kept.fs)))
			if lost := kept.verify(t, s); len(lost) > 0 {
				t.Errorf("cannot be read: %v", lost)
			}
			for _, d := range must[[]check.Damage](t)(s.Check(ctx, true, nil)) {
				t.Error(d)
			}
			// It goes on being a store: what it holds is added to and kept.
			(&builder{t: t, s: s, c: kept.content, next: 1 << 40, ever: map[int][]uint64{}}).write("own", 300, 2)
			mustDo(t, s.Close())
			s = must[*volume.Store](t)(volume.Open(options(kept.fs)))
			if lost := kept.verify(t, s); len(lost) > 0 {
				t.Errorf("cannot be read after a write: %v", lost)
			}
			mustDo(t, s.Close())
		})
	}
}
