package boottrace

import (
	"encoding/binary"
	"path"
	"strings"

	"github.com/slackerd/slacker/block"
)

const (
	// MaxFilesBytes bounds an encoded trace of files.
	MaxFilesBytes = 48 << 10
	// MaxFiles bounds its files, MaxFileRuns the runs of each.
	MaxFiles    = 1024
	MaxFileRuns = 64
	// MaxFilePages bounds the pages of all files: 128 MiB.
	MaxFilePages = 32 << 10
	// PageBytes is what the runs of files count in.
	PageBytes = 4096

	maxPathBytes = 1024
	maxPage      = 1 << 32
)

// File is a file that a start has opened, and which of its pages were in memory then.
type File struct {
	Path string // relative to the root of the file system
	Runs []Run  // in order, apart
}

// EncodeFiles returns the encoded trace, of as many of the files from the first on as
// the limits allow. Those that cannot be in one are left out.
func EncodeFiles(files []File) []byte {
	p := []byte{version}
	last, pages, n := "", uint64(0), 0
	for _, f := range files {
		head, left, ok := len(p), MaxFilePages-pages, n < MaxFiles && checkPath(f.Path) == ""
		same := shared(last, f.Path)
		p = binary.AppendUvarint(p, uint64(same))
		p = binary.AppendUvarint(p, uint64(len(f.Path)-same))
		p = append(p, f.Path[same:]...)
		runs := f.Runs[:min(len(f.Runs), MaxFileRuns)]
		p = binary.AppendUvarint(p, uint64(len(runs)))
		end := uint64(0)
		for _, r := range runs {
			if ok = ok && r.Count > 0 && r.Count <= left && r.First >= end && r.First <= maxPage-r.Count; !ok {
				break
			}
			p = binary.AppendUvarint(p, r.First-end)
			p = binary.AppendUvarint(p, r.Count)
			left, end = left-r.Count, r.First+r.Count
		}
		if !ok || len(p) > MaxFilesBytes-sumBytes {
			p = p[:head]
			continue
		}
		last, pages, n = f.Path, MaxFilePages-left, n+1
	}
	return seal(p)
}

// DecodeFiles returns the files of an encoded trace.
func DecodeFiles(p []byte) ([]File, error) {
	bad := func(why string) ([]File, error) {
		return nil, block.Errorf(block.Invalid, "boot trace of files of %d bytes: %s", len(p), why)
	}
	body, why := unseal(p, MaxFilesBytes)
	if why != "" {
		return bad(why)
	}
	c := cursor{rest: body}
	var files []File
	for pages, last := uint64(MaxFilePages), ""; len(c.rest) > 0; {
		same := c.number(uint64(len(last)))
		f := File{Path: last[:same] + c.text(c.number(maxPathBytes))}
		for n, end := c.number(MaxFileRuns), uint64(0); n > 0 && !c.bad; n-- {
			r := Run{First: end + c.number(maxPage-end)}
			r.Count = c.number(min(pages, maxPage-r.First))
			c.bad = c.bad || r.Count == 0
			pages, end = pages-r.Count, r.First+r.Count
			f.Runs = append(f.Runs, r)
		}
		if c.bad || len(files) == MaxFiles {
			return bad("a file is cut off or out of range")
		}
		if why := checkPath(f.Path); why != "" {
			return bad(why)
		}
		files, last = append(files, f), f.Path
	}
	return files, nil
}

// checkPath says what is wrong with a path.
func checkPath(p string) string {
	if p == "" || p == "." || len(p) > maxPathBytes || p[0] == '/' || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return "a path is none below the root"
	}
	return ""
}

// shared returns how much of the beginning of a and b is the same.
func shared(a, b string) (n int) {
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// cursor reads what an encoded trace has.
type cursor struct {
	rest []byte
	bad  bool // something was not there, or too large
}

// number reads a number of at most limit.
func (c *cursor) number(limit uint64) uint64 {
	v, n := binary.Uvarint(c.rest)
	if c.bad = c.bad || n <= 0 || v > limit; c.bad {
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cursor) text(n uint64) string {
	if c.bad = c.bad || n > uint64(len(c.rest)); c.bad {
		return ""
	}
	s := string(c.rest[:n])
	c.rest = c.rest[n:]
	return s
}
