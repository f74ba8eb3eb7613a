package cow

import (
	"encoding/binary"

	"github.com/slackerd/slacker/block"
)

// Key prefixes; see the package comment.
const (
	keyFormat     = 'F'
	keyReplay     = 'R'
	keyNextID     = 'I'
	keyVolume     = 'V'
	keySnapshot   = 'S'
	keyLayer      = 'L'
	keyAttachment = 'A'
	keyPage       = 'P'
	keySegment    = 'G'
	keyMapCount   = 'C'
	keyMerged     = 'M'
	keyScrub      = 'U'
	keyJournal    = 'J'
	keyFlat       = 'Q'
)

// MapID names the keys that hold one layer's own entries.
type MapID uint64

const pageKeyLen = 1 + 8 + 4

func pageKey(m MapID, page uint32) []byte {
	k := make([]byte, pageKeyLen)
	k[0] = keyPage
	binary.BigEndian.PutUint64(k[1:], uint64(m))
	binary.BigEndian.PutUint32(k[9:], page)
	return k
}

func parsePageKey(k []byte) (MapID, uint32, bool) {
	if len(k) != pageKeyLen || k[0] != keyPage {
		return 0, 0, false
	}
	return MapID(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:]), true
}

// flatKey is the key of a layer's flat page.
func flatKey(l block.LayerID, page uint32) []byte {
	k := pageKey(MapID(l), page)
	k[0] = keyFlat
	return k
}

func parseFlatKey(k []byte) (block.LayerID, uint32, bool) {
	if len(k) != pageKeyLen || k[0] != keyFlat {
		return 0, 0, false
	}
	return block.LayerID(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:]), true
}

// keyPlace names what a page is of, for messages.
func keyPlace(k []byte) (kind string, id uint64, page uint32) {
	if l, n, ok := parseFlatKey(k); ok {
		return "flat layer", uint64(l), n
	}
	m, n, _ := parsePageKey(k)
	return "map", uint64(m), n
}

func idKey(prefix byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefix}, id)
}

func segmentKey(s block.SegmentID) []byte { return idKey(keySegment, uint64(s)) }

func snapshotKey(v block.VolumeID, name string) []byte {
	return append(idKey(keySnapshot, uint64(v)), name...)
}

func attachmentKey(id string) []byte { return append([]byte{keyAttachment}, id...) }

// prefixEnd returns the smallest key above all keys that begin with p.
func prefixEnd(p []byte) []byte {
	end := append([]byte(nil), p...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
