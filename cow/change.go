package cow

import (
	"sync/atomic"

	"github.com/slackerd/slacker/block"
)

// Run is a run of blocks of a layer and where they are now.
type Run struct {
	First block.Index
	Count uint32
	Addr  block.Addr // of the first block; zero: the run reads as zeroes
	Sums  []uint32   // checksums, nil for zeroes
}

// Pages is the number of pages that the run lies in.
func (r Run) Pages() int {
	return int((r.First+block.Index(r.Count)-1)/PageBlocks-r.First/PageBlocks) + 1
}

// Change is one record of the log on its way into the store. It is made when
// the record is numbered, applied to the pages in memory, and committed in the
// order of the numbers once the record is durable.
type Change struct {
	LSN   uint64
	Layer *Layer
	Run   Run
	dead  []deadRun
	grown int64 // data blocks that the layer's map gained
	done  atomic.Bool
}

type deadRun struct {
	addr  block.Addr
	count uint32
}

// Applied reports whether the change is in the pages in memory.
func (c *Change) Applied() bool { return c.done.Load() }

// Pin holds the pages of a range of one layer in memory, so that a change can
// be applied without a chance of failure. The caller holds the range's lock.
type Pin struct {
	t     *Tree
	first uint32
	nodes []*node
}

// Pin loads and holds the pages of count blocks from first on.
func (t *Tree) Pin(l *Layer, first block.Index, count uint64) (*Pin, error) {
	p := &Pin{t: t, first: uint32(first / PageBlocks)}
	last := uint32((uint64(first) + count - 1) / PageBlocks)
	for pageNo := p.first; pageNo <= last; pageNo++ {
		n, err := t.pinNode(l, pageNo)
		if err != nil {
			p.Release()
			return nil, err
		}
		p.nodes = append(p.nodes, n)
	}
	return p, nil
}

func (t *Tree) pinNode(l *Layer, pageNo uint32) (*node, error) {
	for {
		n, err := t.use(l, pageNo)
		if err != nil {
			return nil, err
		}
		n.mu.RLock()
		if n.loaded {
			n.pins.Add(1)
			n.mu.RUnlock()
			return n, nil
		}
		n.mu.RUnlock()
		t.cache.put(n)
	}
}

// Release lets the pages go.
func (p *Pin) Release() {
	for _, n := range p.nodes {
		n.pins.Add(-1)
		p.t.cache.put(n)
	}
}

// Entry returns the entry of a block, and whether it is the layer's own.
func (p *Pin) Entry(i block.Index) (Entry, bool) {
	n := p.nodes[uint32(i/PageBlocks)-p.first]
	n.mu.RLock()
	defer n.mu.RUnlock()
	at := int(i % PageBlocks)
	return n.p.entry(at), n.isOwn(at)
}

// DataRuns calls fn for each maximal run of blocks in [first, first+count)
// that are data, whoever holds them.
func (p *Pin) DataRuns(first block.Index, count uint64, fn func(first block.Index, count uint64) error) error {
	end := first + block.Index(count)
	for i := first; i < end; {
		e, _ := p.Entry(i)
		if !e.IsData() {
			i++
			continue
		}
		j := i + 1
		for j < end {
			if e, _ := p.Entry(j); !e.IsData() {
				break
			}
			j++
		}
		if err := fn(i, uint64(j-i)); err != nil {
			return err
		}
		i = j
	}
	return nil
}

// Apply makes the change in memory. moved says that only addresses change: the
// layer may be sealed, and its pages shared.
func (p *Pin) Apply(c *Change, moved bool) {
	t := p.t
	end := c.Run.First + block.Index(c.Run.Count)
	for i := c.Run.First; i < end; {
		n := p.nodes[uint32(i/PageBlocks)-p.first]
		stop := min(end, (i/PageBlocks+1)*PageBlocks)
		n.mu.Lock()
		n.writable(moved)
		for ; i < stop; i++ {
			at := int(i % PageBlocks)
			if n.isOwn(at) && n.p.addr[at] > zeroAddr {
				c.kill(n.p.addr[at])
			}
			n.p.set(at, c.entry(uint32(i-c.Run.First)))
		}
		if c.LSN > n.newest.Load() {
			n.newest.Store(c.LSN)
		}
		n.mu.Unlock()
	}
	c.Layer.noteChange(c.LSN)
	t.count(c)
	c.done.Store(true)
}

func (l *Layer) noteChange(lsn uint64) {
	for {
		old := l.newest.Load()
		if lsn <= old || l.newest.CompareAndSwap(old, lsn) {
			return
		}
	}
}

func (c *Change) entry(i uint32) Entry {
	if c.Run.Addr == 0 {
		return Zero
	}
	return Entry{c.Run.Addr + block.Addr(i), c.Run.Sums[i]}
}

func (c *Change) kill(a block.Addr) {
	c.grown--
	if k := len(c.dead) - 1; k >= 0 && c.dead[k].addr+block.Addr(c.dead[k].count) == a {
		c.dead[k].count++
		return
	}
	c.dead = append(c.dead, deadRun{a, 1})
}

// count brings the counters in memory up to date.
func (t *Tree) count(c *Change) {
	t.mu.RLock()
	m := c.Layer.mapID
	t.mu.RUnlock()
	if c.Run.Addr != 0 {
		c.grown += int64(c.Run.Count)
	}
	t.counts.Lock()
	defer t.counts.Unlock()
	if c.Run.Addr != 0 {
		t.counts.live[c.Run.Addr.Segment()] += int64(c.Run.Count)
	}
	for _, d := range c.dead {
		t.counts.live[d.addr.Segment()] -= int64(d.count)
	}
	t.counts.data[m] += c.grown
}

// ApplyAll puts applied changes into the transaction, in order. They follow
// directly on those of earlier transactions. Their layers exist: a layer is
// removed or merged only after its changes are committed.
func (x *Tx) ApplyAll(t *Tree, changes []*Change) {
	live := map[block.SegmentID]int64{}
	data := map[MapID]int64{}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, c := range changes {
		x.mergeRun(c.Layer.mapID, c.Run)
		if c.Run.Addr != 0 {
			live[c.Run.Addr.Segment()] += int64(c.Run.Count)
		}
		for _, d := range c.dead {
			live[d.addr.Segment()] -= int64(d.count)
		}
		data[c.Layer.mapID] += c.grown
	}
	x.addCounts(live, data)
}

func (x *Tx) addCounts(live map[block.SegmentID]int64, data map[MapID]int64) {
	for s, n := range live {
		x.addCount(segmentKey(s), n)
	}
	for m, n := range data {
		x.addCount(idKey(keyMapCount, uint64(m)), n)
	}
}

func (x *Tx) mergeRun(m MapID, r Run) {
	for done := uint32(0); done < r.Count; {
		i := r.First + block.Index(done)
		at := int(i % PageBlocks)
		n := min(int(r.Count-done), PageBlocks-at)
		key := pageKey(m, uint32(i/PageBlocks))
		kind := byte(runZero)
		addr, sums := block.Addr(0), []uint32(nil)
		if r.Addr != 0 {
			kind, addr, sums = runData, r.Addr+block.Addr(done), r.Sums[done:]
		}
		x.note(x.b.Merge(key, finishPage(appendRun([]byte{pageVersion}, at, n, kind, addr, sums), key), nil))
		done += uint32(n)
	}
}

// Committed says that every change up to lsn has been committed; their pages
// may be evicted from now on.
func (t *Tree) Committed(lsn uint64) { t.committed.Store(lsn) }
