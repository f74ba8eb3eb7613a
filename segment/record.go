package segment

import (
	"fmt"

	"github.com/slackerd/slacker/block"
)

// LSN is the number of a record: 1, 2, 3 ... over the whole life of a store.
// Zero is no record. A number that was durable once is never used again.
type LSN uint64

// Pos is where a chunk header is, or would be: a block of a segment. The zero
// Pos is the very beginning of the log.
type Pos struct {
	Segment block.SegmentID
	Block   uint32
}

func (p Pos) String() string { return fmt.Sprintf("segment %d block %d", p.Segment, p.Block) }

// Kind says what a record does.
type Kind uint8

// The kinds of records, as on disk.
const (
	// Data writes blocks.
	Data Kind = 1
	// Zero makes blocks read as zeros (trim and write zeroes). It has no payload.
	Zero Kind = 2
	// Move is data that the cleaner copied from Record.Old.
	Move Kind = 3
)

func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Zero:
		return "zero"
	case Move:
		return "move"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Record is one change of a run of blocks of a layer.
type Record struct {
	LSN   LSN
	Kind  Kind
	Layer block.LayerID
	First block.Index
	Count uint32 // blocks
	// Addr is the first payload block of Data and Move; the run is contiguous.
	Addr block.Addr
	// Sums holds block.Checksum of every block of Data and Move.
	Sums []uint32
	// Old is where the first block of a Move was; that run was contiguous too.
	Old block.Addr
}

// checkRange refuses a run that no volume can have.
func (r *Record) checkRange() error {
	if r.Layer == 0 || r.Count == 0 || uint64(r.First) >= maxVolumeBlocks || uint64(r.Count) > maxVolumeBlocks-uint64(r.First) {
		return block.Errorf(block.Invalid, "%s record of layer %d: blocks %d+%d: want a layer, at least one block, and an end of at most block %d",
			r.Kind, r.Layer, r.First, r.Count, uint64(maxVolumeBlocks))
	}
	return nil
}

// check refuses a record that Append cannot take.
func (r *Record) check(data []byte) error {
	if r.Kind < Data || r.Kind > Move {
		return block.Errorf(block.Invalid, "append: unknown record kind %d", r.Kind)
	}
	if err := r.checkRange(); err != nil {
		return err
	}
	wantBytes, wantSums := uint64(r.Count)*block.Size, int(r.Count)
	if r.Kind == Zero {
		wantBytes, wantSums = 0, 0
	}
	if uint64(len(data)) != wantBytes || r.Sums != nil && len(r.Sums) != wantSums {
		return block.Errorf(block.Invalid, "append: %s record of %d blocks: want %d bytes and %d checksums or none, got %d and %d",
			r.Kind, r.Count, wantBytes, wantSums, len(data), len(r.Sums))
	}
	return nil
}
