package segment

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/slackerd/slacker/block"
)

// Identify returns the id of the store that the segments in a directory are of,
// from their headers. Segments of several stores are an error.
func Identify(fs vfs.FS, dir string) (id [16]byte, segments int, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return id, 0, block.Errorf(block.IO, "list segments in %s: %w", dir, err)
	}
	for _, name := range names {
		if _, ok := parseSegmentName(name); !ok {
			continue
		}
		b, err := readBlock0(fs, fs.PathJoin(dir, name))
		if err != nil {
			return id, 0, err
		}
		if binary.LittleEndian.Uint64(b) != segmentMagic || binary.LittleEndian.Uint32(b[crcOffset:]) != block.MetaChecksum(b[:crcOffset]) {
			continue
		}
		var got [16]byte
		copy(got[:], b[16:32])
		if segments > 0 && got != id {
			return id, 0, block.Errorf(block.Corrupt, "%s: segment %s is of store %x, others are of %x", dir, name, got, id)
		}
		id = got
		segments++
	}
	return id, segments, nil
}

func readBlock0(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, block.Errorf(block.IO, "open %s: %w", path, err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, block.Size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, block.Errorf(block.IO, "read %s: %w", path, err)
	}
	return b, nil
}

// PastAll returns a position behind every chunk of the log, also behind damage,
// and a number greater than any record's: what a log of which no replay finds the
// end can go on from.
func (l *Log) PastAll() (at Pos, next LSN, err error) {
	buf := make([]byte, maxChunkBlocks*block.Size)
	next = 1
	l.segs.Range(func(_, v any) bool {
		s := v.(*segFile)
		if s.valid {
			next = max(next, s.header.first, s.header.durable+1)
			if s.id > at.Segment {
				at = Pos{s.id, 1}
			}
		}
		err = l.eachHeader(s, 1, buf, func(pos uint32, h chunkHeader) {
			next = max(next, h.first+LSN(h.entries), h.durable+1)
			if s.id == at.Segment {
				at.Block = max(at.Block, pos+1+h.blocks)
			}
		})
		return err == nil
	})
	return at, next, err
}

// LastPart returns where the last part of the log begins, which a power cut may
// have torn, and the number of its first record: everything before it is durable.
// It is a place to replay from. A segment whose predecessor was deleted begins
// behind what was durable, since only such are deleted.
func (l *Log) LastPart() (from Pos, next LSN) {
	var durable LSN
	var at *segFile
	l.segs.Range(func(_, v any) bool {
		if s := v.(*segFile); s.valid {
			durable = max(durable, s.header.durable)
			if at == nil || s.id > at.id {
				at = s
			}
		}
		return true
	})
	if at == nil {
		return Pos{}, 0
	}
	for at.header.first > durable+1 {
		prev := l.segment(at.header.prev.Segment)
		if prev == nil || !prev.valid {
			break
		}
		at = prev
	}
	return Pos{at.id, 1}, at.header.first
}
