package boottrace

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/slackerd/slacker/block"
)

const (
	// MaxBytes bounds an encoded trace.
	MaxBytes = 24 << 10
	// MaxBlocks bounds the blocks of a trace: 256 MiB.
	MaxBlocks = 64 << 10

	version  = 1
	sumBytes = 4
	maxBlock = block.MaxVolumeBytes / block.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Run is a run of blocks.
type Run struct{ First, Count uint64 }

// Encode returns the encoded trace, of as many of the runs from the first on as
// the limits allow.
func Encode(runs []Run) []byte {
	p := []byte{version}
	blocks, end := uint64(0), uint64(0)
	for _, r := range runs {
		if r.Count == 0 || r.Count > MaxBlocks-blocks || r.First > maxBlock-r.Count || len(p) > MaxBytes-sumBytes-2*binary.MaxVarintLen64 {
			break
		}
		p = binary.AppendVarint(p, int64(r.First)-int64(end))
		p = binary.AppendUvarint(p, r.Count)
		blocks, end = blocks+r.Count, r.First+r.Count
	}
	return seal(p)
}

// Decode returns the runs of an encoded trace.
func Decode(p []byte) ([]Run, error) {
	bad := func(why string) error {
		return block.Errorf(block.Invalid, "boot trace of %d bytes: %s", len(p), why)
	}
	body, why := unseal(p, MaxBytes)
	if why != "" {
		return nil, bad(why)
	}
	var runs []Run
	blocks, end := uint64(0), uint64(0)
	for len(body) > 0 {
		d, n := binary.Varint(body)
		if n <= 0 {
			return nil, bad("a run is cut off")
		}
		count, m := binary.Uvarint(body[n:])
		if m <= 0 {
			return nil, bad("a run is cut off")
		}
		body = body[n+m:]
		first := int64(end) + d
		if d < -int64(maxBlock) || d > int64(maxBlock) || first < 0 || count == 0 || count > MaxBlocks-blocks || uint64(first) > maxBlock-count {
			return nil, bad("a run is out of range")
		}
		runs = append(runs, Run{uint64(first), count})
		blocks, end = blocks+count, uint64(first)+count
	}
	return runs, nil
}

// seal ends an encoded trace, which begins with its version.
func seal(p []byte) []byte {
	return binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
}

// unseal returns what an encoded trace of at most maxBytes has between its version and
// its checksum, or says what is wrong with it.
func unseal(p []byte, maxBytes int) (body []byte, why string) {
	if len(p) < 1+sumBytes || len(p) > maxBytes {
		return nil, fmt.Sprintf("want %d to %d", 1+sumBytes, maxBytes)
	}
	body = p[:len(p)-sumBytes]
	if binary.LittleEndian.Uint32(p[len(body):]) != crc32.Checksum(body, castagnoli) {
		return nil, "its checksum does not match"
	}
	if body[0] != version {
		return nil, fmt.Sprintf("its version is not %d", version)
	}
	return body[1:], ""
}
