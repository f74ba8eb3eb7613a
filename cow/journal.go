package cow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/block"
)

// The journal is a copy of the catalog beside the map, for the day on which the
// map is lost: the log tells what each layer holds, but not which volumes there
// are. It is written after each commit of the catalog and synced soon after, so
// it costs a commit no sync; a journal that is behind is made anew when the store
// is opened. See the package comment for the format.
const (
	journalVersion = 1
	journalSuffix  = ".journal"
	// frameHeader is what precedes the operations of a frame.
	frameHeader = 4 + 4 + 8 + 4
	// maxFrameBytes bounds a frame, maxJournalKey and maxJournalValue its parts.
	maxFrameBytes   = 16 << 20
	maxJournalKey   = 1 << 10
	maxJournalValue = 1 << 20
	checkpointFrame = 64 << 10
	journalSlack    = 1 << 20 // how much a journal grows beyond twice its checkpoint

	frameBegin    uint32 = 1 // a checkpoint: forget everything before it
	frameComplete uint32 = 2 // the checkpoint is whole

	opSet    = 1
	opDelete = 2
)

var journalTable = crc32.MakeTable(crc32.Castagnoli)

// catalogKeys are the keys that the journal has a copy of.
var catalogKeys = []byte{keyVolume, keySnapshot, keyLayer, keyAttachment, keyMerged, keyNextID}

// JournalState is what a journal tells.
type JournalState struct {
	StoreID [16]byte
	Seq     uint64            // of the last commit of the catalog that it has
	Records map[string][]byte // by key
	File    string
	// Torn says what follows the last whole frame, if something does.
	Torn string
	end  int64
}

// journal is the journal of an open store.
type journal struct {
	fs      vfs.FS
	dir     string
	storeID [16]byte
	log     *zap.Logger

	mu    sync.Mutex
	seq   uint64
	n     uint64 // number of the file
	file  vfs.File
	end   int64
	base  int64 // length of the checkpoint that the file begins with
	dirty bool  // written to since the last sync
	stale bool  // to be made anew: a write of it failed, or it was behind
}

func journalName(n uint64) string { return fmt.Sprintf("%016x%s", n, journalSuffix) }

// journalFiles lists the numbers of the journal files, the newest first.
func journalFiles(fs vfs.FS, dir string) (ns []uint64, err error) {
	names, err := fs.List(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, block.Errorf(block.IO, "list %s: %w", dir, err)
	}
	for _, name := range names {
		hex, ok := strings.CutSuffix(name, journalSuffix)
		if n, err := strconv.ParseUint(hex, 16, 64); ok && err == nil && journalName(n) == name {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	slices.Reverse(ns)
	return ns, nil
}

// ReadJournal reads the newest journal of a store that is whole. With none it
// returns kind NotFound.
func ReadJournal(fs vfs.FS, dir string) (*JournalState, error) {
	ns, err := journalFiles(fs, dir)
	if err != nil {
		return nil, err
	}
	errs := []error{}
	for _, n := range ns {
		s, err := readJournalFile(fs, dir, n)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, block.Errorf(block.NotFound, "no whole journal of the catalog in %s: %w", dir, errors.Join(append(errs, os.ErrNotExist)...))
}

func readJournalFile(fs vfs.FS, dir string, n uint64) (*JournalState, error) {
	name := fs.PathJoin(dir, journalName(n))
	f, err := fs.Open(name)
	if err != nil {
		return nil, block.Errorf(block.IO, "open %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	s := &JournalState{Records: map[string][]byte{}, File: name}
	complete := false
	head := make([]byte, frameHeader)
	for {
		body, flags, seq, err := readFrame(f, n, s.end, head)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || s.end > 0 && (flags&frameBegin != 0 || complete && seq != s.Seq+1) {
			s.Torn = fmt.Sprintf("byte %d: %v", s.end, err)
			break
		}
		if s.end == 0 {
			if flags&frameBegin == 0 || len(body) != 20 || binary.LittleEndian.Uint32(body) != journalVersion {
				return nil, block.Errorf(block.Corrupt, "%s: no journal of version %d", name, journalVersion)
			}
			copy(s.StoreID[:], body[4:])
		} else if err := applyOps(s.Records, body); err != nil {
			s.Torn = fmt.Sprintf("byte %d: %v", s.end, err)
			break
		}
		s.Seq, complete = seq, complete || flags&frameComplete != 0
		s.end += int64(frameHeader + len(body))
	}
	if !complete {
		return nil, block.Errorf(block.Corrupt, "%s: its checkpoint is not whole: %s", name, s.Torn)
	}
	return s, nil
}

// readFrame reads and verifies the frame at a place of a file. io.EOF means that
// the file ends there.
func readFrame(f vfs.File, n uint64, at int64, head []byte) (body []byte, flags uint32, seq uint64, err error) {
	le := binary.LittleEndian
	if k, err := f.ReadAt(head, at); err != nil {
		if k == 0 && errors.Is(err, io.EOF) {
			return nil, 0, 0, io.EOF
		}
		return nil, 0, 0, block.Errorf(block.Corrupt, "a frame's header is cut short: %d bytes, want %d", k, len(head))
	}
	size := le.Uint32(head)
	if size > maxFrameBytes {
		return nil, 0, 0, block.Errorf(block.Corrupt, "a frame of %d bytes, want at most %d", size, maxFrameBytes)
	}
	body = make([]byte, size)
	if size > 0 {
		if k, err := f.ReadAt(body, at+frameHeader); k < len(body) {
			return nil, 0, 0, block.Errorf(block.Corrupt, "a frame is cut short: %d bytes, want %d: %v", k, size, err)
		}
	}
	if want, got := frameSum(n, at, head[8:], body), le.Uint32(head[4:]); want != got {
		return nil, 0, 0, block.Errorf(block.Corrupt, "a frame has checksum %#x, want %#x", got, want)
	}
	return body, le.Uint32(head[16:]), le.Uint64(head[8:]), nil
}

// frameSum covers where the frame belongs too.
func frameSum(n uint64, at int64, rest, body []byte) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], n)
	binary.LittleEndian.PutUint64(place[8:], uint64(at))
	return crc32.Update(crc32.Update(crc32.Checksum(place[:], journalTable), journalTable, rest), journalTable, body)
}

func appendSet(ops, key, value []byte) []byte {
	ops = append(ops, opSet)
	ops = binary.LittleEndian.AppendUint16(ops, uint16(len(key)))
	ops = binary.LittleEndian.AppendUint32(ops, uint32(len(value)))
	return append(append(ops, key...), value...)
}

func appendDelete(ops, key []byte) []byte {
	ops = append(ops, opDelete)
	ops = binary.LittleEndian.AppendUint16(ops, uint16(len(key)))
	return append(binary.LittleEndian.AppendUint32(ops, 0), key...)
}

// applyOps applies the operations of a frame, all or none.
func applyOps(records map[string][]byte, ops []byte) error {
	type change struct {
		key   string
		value []byte
	}
	var changes []change
	for len(ops) > 0 {
		if len(ops) < 7 {
			return block.Errorf(block.Corrupt, "an operation of %d bytes", len(ops))
		}
		op, k, v := ops[0], int(binary.LittleEndian.Uint16(ops[1:])), int(binary.LittleEndian.Uint32(ops[3:]))
		if op != opSet && op != opDelete || k == 0 || k > maxJournalKey || v > maxJournalValue || len(ops)-7 < k+v || bytes.IndexByte(catalogKeys, ops[7]) < 0 {
			return block.Errorf(block.Corrupt, "operation %d with a key of %d and a value of %d bytes", op, k, v)
		}
		c := change{key: string(ops[7 : 7+k])}
		if op == opSet {
			c.value = bytes.Clone(ops[7+k : 7+k+v])
			if c.value == nil {
				c.value = []byte{}
			}
		}
		changes, ops = append(changes, c), ops[7+k+v:]
	}
	for _, c := range changes {
		if c.value == nil {
			delete(records, c.key)
		} else {
			records[c.key] = c.value
		}
	}
	return nil
}

// write appends a frame. Called with mu held.
func (j *journal) write(seq uint64, flags uint32, body []byte) error {
	frame := make([]byte, frameHeader, frameHeader+len(body))
	le := binary.LittleEndian
	le.PutUint32(frame, uint32(len(body)))
	le.PutUint64(frame[8:], seq)
	le.PutUint32(frame[16:], flags)
	le.PutUint32(frame[4:], frameSum(j.n, j.end, frame[8:], body))
	frame = append(frame, body...)
	if _, err := j.file.WriteAt(frame, j.end); err != nil {
		return err
	}
	j.end += int64(len(frame))
	j.dirty = true
	return nil
}

// note appends what a commit of the catalog did. It is committed already, so a
// failure only means that the journal has to be made anew.
func (j *journal) note(seq uint64, ops []byte) {
	j.seq = seq
	if j.stale {
		return
	}
	if err := j.write(seq, 0, ops); err != nil {
		j.stale = true
		j.log.Warn("the journal of the catalog is behind, and will be made anew", zap.Error(err))
	}
}
