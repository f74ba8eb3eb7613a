package cow

import (
	"encoding/binary"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/slackerd/slacker/block"
)

// mergerName is stored by Pebble: a store opens only with the merger that
// wrote it.
const mergerName = "slacker.1"

// newMerger folds page operands and adds counters.
func newMerger() *pebble.Merger {
	return &pebble.Merger{Name: mergerName, Merge: func(key, value []byte) (pebble.ValueMerger, error) {
		if len(key) > 0 && key[0] == keyPage {
			return &pageMerger{key: slices.Clone(key), newer: [][]byte{slices.Clone(value)}}, nil
		}
		m := &sumMerger{}
		return m, m.MergeNewer(value)
	}}
}

// pageMerger keeps operands until all are there, then folds them oldest first.
// Folding a part of the operands gives an operand again, so it does not matter
// whether the base is included.
type pageMerger struct {
	key   []byte
	newer [][]byte // oldest first
	older [][]byte // newest first
}

func (m *pageMerger) MergeNewer(v []byte) error {
	m.newer = append(m.newer, slices.Clone(v))
	return nil
}

func (m *pageMerger) MergeOlder(v []byte) error {
	m.older = append(m.older, slices.Clone(v))
	return nil
}

func (m *pageMerger) Finish(bool) ([]byte, io.Closer, error) {
	if len(m.newer)+len(m.older) == 1 {
		return slices.Concat(m.newer, m.older)[0], nil, nil
	}
	var p page
	for _, v := range slices.Backward(m.older) {
		if err := overlayPage(&p, m.key, v); err != nil {
			return nil, nil, err
		}
	}
	for _, v := range m.newer {
		if err := overlayPage(&p, m.key, v); err != nil {
			return nil, nil, err
		}
	}
	v := encodePage(&p, m.key)
	if v == nil {
		v = finishPage([]byte{pageVersion}, m.key)
	}
	return v, nil, nil
}

// sumMerger adds 64-bit integers.
type sumMerger struct{ sum int64 }

func (m *sumMerger) MergeNewer(v []byte) error {
	if len(v) != 8 {
		return block.Errorf(block.Corrupt, "extent map: a counter has %d bytes, want 8", len(v))
	}
	m.sum += int64(binary.LittleEndian.Uint64(v))
	return nil
}

func (m *sumMerger) MergeOlder(v []byte) error { return m.MergeNewer(v) }

func (m *sumMerger) Finish(bool) ([]byte, io.Closer, error) {
	return encodeCount(m.sum), nil, nil
}

func encodeCount(n int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }
