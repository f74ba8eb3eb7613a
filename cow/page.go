package cow

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/slackerd/slacker/block"
)

// PageBlocks is the number of blocks in a page (1 MiB of data). Part of the
// disk format.
const PageBlocks = 256

const _ = uint8(PageBlocks - 1) // a byte of the format holds the place in a page

// zeroAddr is the address that an Entry which reads as zeroes carries: block 1
// of segment 0, which never exists.
const zeroAddr block.Addr = 1

// Entry says where one block is.
type Entry struct {
	Addr block.Addr
	Sum  uint32 // block.Checksum of the data
}

// Zero is the entry of a block that reads as zeroes and hides the parent's.
var Zero = Entry{Addr: zeroAddr}

// IsData reports whether the block has bytes in a segment.
func (e Entry) IsData() bool { return e.Addr > zeroAddr }

// IsAbsent reports whether the entry says nothing: the parent decides, and
// without a parent the block reads as zeroes.
func (e Entry) IsAbsent() bool { return e.Addr == 0 }

// page is the entries of one page: a map's own ones, or resolved ones in which
// own marks those of the layer itself.
type page struct {
	addr [PageBlocks]block.Addr
	sum  [PageBlocks]uint32
	own  [PageBlocks / 64]uint64
}

const pageBytes = PageBlocks*12 + PageBlocks/8 // memory a page takes

func (p *page) isOwn(i int) bool { return p.own[i>>6]&(1<<(i&63)) != 0 }

func (p *page) set(i int, e Entry) {
	p.addr[i], p.sum[i] = e.Addr, e.Sum
	p.own[i>>6] |= 1 << (i & 63)
}

func (p *page) entry(i int) Entry { return Entry{p.addr[i], p.sum[i]} }

// under fills p's absent entries from below. It reports whether all entries
// are present now.
func (p *page) under(below *page) bool {
	full := true
	for i := range p.addr {
		if p.addr[i] == 0 {
			p.addr[i], p.sum[i] = below.addr[i], below.sum[i]
			full = full && p.addr[i] != 0
		}
	}
	return full
}

// dataBlocks counts the own entries that are data.
func (p *page) dataBlocks() int {
	n := 0
	for i := range p.addr {
		if p.isOwn(i) && p.addr[i] > zeroAddr {
			n++
		}
	}
	return n
}

// Codec.

const (
	pageVersion = 1
	runZero     = 1
	runData     = 2
	// maxPageValue bounds an encoded page: every block a run of its own.
	maxPageValue = 1 + PageBlocks*(3+8+4) + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func pageSum(key, body []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, body)
}

// appendRun appends a run of count blocks from first. For data, sums holds
// their checksums and addr the first address.
func appendRun(b []byte, first, count int, kind byte, addr block.Addr, sums []uint32) []byte {
	b = append(b, byte(first), byte(count-1), kind)
	if kind == runData {
		b = binary.LittleEndian.AppendUint64(b, uint64(addr))
		for _, s := range sums[:count] {
			b = binary.LittleEndian.AppendUint32(b, s)
		}
	}
	return b
}

func finishPage(b, key []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, pageSum(key, b))
}

// encodePage encodes the own entries of p, or nil when there are none.
func encodePage(p *page, key []byte) []byte { return p.encode(key, p.isOwn) }

// encode encodes the entries of p that want chooses and that are not absent.
func (p *page) encode(key []byte, want func(i int) bool) []byte {
	b := []byte{pageVersion}
	for i := 0; i < PageBlocks; {
		if !want(i) || p.addr[i] == 0 {
			i++
			continue
		}
		j := i + 1
		kind := byte(runZero)
		if p.addr[i] != zeroAddr {
			kind = runData
		}
		for j < PageBlocks && want(j) && (kind == runZero && p.addr[j] == zeroAddr ||
			kind == runData && p.addr[j] == p.addr[i]+block.Addr(j-i)) {
			j++
		}
		b = appendRun(b, i, j-i, kind, p.addr[i], p.sum[i:])
		i = j
	}
	if len(b) == 1 {
		return nil
	}
	return finishPage(b, key)
}

// overlayPage decodes an encoded page over p: its runs replace what they cover.
// On an error p is undefined.
func overlayPage(p *page, key, v []byte) error {
	rs, err := openPage(key, v)
	if err != nil {
		return err
	}
	for rs.next() {
		for i := range rs.count {
			p.set(rs.first+i, rs.entry(i))
		}
	}
	return rs.err
}

// underlayPage decodes an encoded page below p: its runs give the entries that p
// has not, and own marks them. It returns how many it gave. On an error p is
// undefined.
func underlayPage(p *page, key, v []byte, own bool) (given int, err error) {
	rs, err := openPage(key, v)
	if err != nil {
		return 0, err
	}
	for rs.next() {
		for i := rs.first; i < rs.first+rs.count; i++ {
			if p.addr[i] == 0 {
				e := rs.entry(i - rs.first)
				p.addr[i], p.sum[i] = e.Addr, e.Sum
				if own {
					p.own[i>>6] |= 1 << (i & 63)
				}
				given++
			}
		}
	}
	return given, rs.err
}

// runs reads the runs of an encoded page.
type runs struct {
	key, b       []byte
	first, count int
	end          int // of the run before
	kind         byte
	addr         block.Addr
	sums         []byte
	err          error
}

// openPage verifies an encoded page.
func openPage(key, v []byte) (runs, error) {
	rs := runs{key: key}
	if len(v) < 5 || len(v) > maxPageValue {
		return rs, rs.bad("wrong length")
	}
	body := v[:len(v)-4]
	if pageSum(key, body) != binary.LittleEndian.Uint32(v[len(v)-4:]) {
		return rs, rs.bad("checksum mismatch")
	}
	if body[0] != pageVersion {
		return rs, rs.bad("unknown version")
	}
	rs.b = body[1:]
	return rs, nil
}

func (rs *runs) bad(what string) error {
	kind, id, n := keyPlace(rs.key)
	return block.Errorf(block.Corrupt, "extent map: page %d of %s %d: %s", n, kind, id, what)
}

// next goes to the next run. It returns false at the end, and at one that is
// damaged, for which err is set.
func (rs *runs) next() bool {
	b := rs.b
	if len(b) == 0 {
		return false
	}
	if len(b) < 3 {
		rs.err = rs.bad("truncated run")
		return false
	}
	rs.first, rs.count, rs.kind = int(b[0]), int(b[1])+1, b[2]
	if rs.first < rs.end {
		rs.err = rs.bad("runs out of order")
		return false
	}
	if rs.end = rs.first + rs.count; rs.end > PageBlocks {
		rs.err = rs.bad("run past the end of the page")
		return false
	}
	rs.b = b[3:]
	switch rs.kind {
	case runZero:
		return true
	case runData:
		return rs.data()
	}
	rs.err = rs.bad("unknown run kind")
	return false
}

func (rs *runs) data() bool {
	b := rs.b
	if len(b) < 8+4*rs.count {
		rs.err = rs.bad("truncated run")
		return false
	}
	rs.addr = block.Addr(binary.LittleEndian.Uint64(b))
	if rs.addr.Segment() == 0 || int(rs.addr.Block())+rs.count > block.MaxSegmentBlocks {
		rs.err = rs.bad("address out of range")
		return false
	}
	rs.sums, rs.b = b[8:8+4*rs.count], b[8+4*rs.count:]
	return true
}

// entry returns entry i of the run.
func (rs *runs) entry(i int) Entry {
	if rs.kind == runZero {
		return Zero
	}
	return Entry{rs.addr + block.Addr(i), binary.LittleEndian.Uint32(rs.sums[4*i:])}
}
