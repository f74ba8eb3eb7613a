// Package nbdtest helps to test servers and devices of package nbdserver: an
// in-memory backend that can delay, fail and record calls, and a conformance
// suite that every Device passes.
package nbdtest

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
)

// pageBytes is the unit in which a Memory allocates.
const pageBytes = 64 << 10

// Memory is a backend of one or more exports in memory. Its devices are sparse
// and lose nothing but by the end of the process, so Flush only counts.
type Memory struct {
	// Hook, when set before the first use, is called before each call of a
	// device, concurrently. It may wait; an error it returns is the call's.
	Hook func(ctx context.Context, c Call) error
	// Slow, when set before the first use, makes ReadNow return false where it
	// returns true.
	Slow func(offBytes uint64, lengthBytes int) bool

	mu      sync.Mutex
	exports map[string]*export
	opened  map[uint64]func(error) // disconnect, by connection
	open    int
	record  bool
	calls   []Call
}

// Call is one call of a device.
type Call struct {
	Op                    string // ReadAt, ReadNow, WriteAt, Flush, Trim, WriteZeroes, Cache, Extents
	Conn                  uint64
	OffBytes, LengthBytes uint64
	FUA, NoHole           bool
}

type export struct {
	info nbdserver.Info

	mu    sync.RWMutex
	pages map[uint64]*[pageBytes]byte
}

// DefaultInfo returns the description of a writable device of that size with
// no alignment.
func DefaultInfo(sizeBytes uint64) nbdserver.Info {
	return nbdserver.Info{SizeBytes: sizeBytes, MinBlockBytes: 1, PreferredBlockBytes: block.Size,
		MaxRequestBytes: block.MaxRequestBytes, FastZero: true}
}

// NewMemory returns a backend with one export, zero all over.
func NewMemory(name string, info nbdserver.Info) *Memory {
	m := &Memory{exports: map[string]*export{}, opened: map[uint64]func(error){}}
	m.Add(name, info)
	return m
}

// Add adds an export, zero all over.
func (m *Memory) Add(name string, info nbdserver.Info) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exports[name] = &export{info: info, pages: map[uint64]*[pageBytes]byte{}}
}

// Remove removes an export; devices that are open live on.
func (m *Memory) Remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.exports, name)
}

// Record makes Calls return the calls from now on.
func (m *Memory) Record() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record, m.calls = true, nil
}

// Calls returns what has been recorded, in the order the calls began.
func (m *Memory) Calls() []Call {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Call(nil), m.calls...)
}

// OpenDevices returns how many devices are open.
func (m *Memory) OpenDevices() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open
}

// Disconnect calls the disconnect function of every open device.
func (m *Memory) Disconnect(reason error) {
	m.mu.Lock()
	var fs []func(error)
	for _, f := range m.opened {
		fs = append(fs, f)
	}
	m.mu.Unlock()
	for _, f := range fs {
		f(reason)
	}
}

// Open opens an export.
func (m *Memory) Open(_ context.Context, name string, peer nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.exports[name]
	if !ok {
		return nil, block.Errorf(block.NotFound, "open %.80q: no such export", name)
	}
	m.open++
	if !peer.InfoOnly && disconnect != nil {
		m.opened[peer.ID] = disconnect
	}
	return &device{m: m, e: e, peer: peer, quick: m.Hook == nil && m.Slow == nil && !m.record}, nil
}

// List returns the exports by name.
func (m *Memory) List(context.Context, nbdserver.Conn) ([]nbdserver.Export, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var es []nbdserver.Export
	for name, e := range m.exports {
		es = append(es, nbdserver.Export{Name: name, Description: e.info.Description})
	}
	sort.Slice(es, func(i, j int) bool { return es[i].Name < es[j].Name })
	return es, nil
}

// device is an open export.
type device struct {
	m      *Memory
	e      *export
	peer   nbdserver.Conn
	quick  bool // nothing is recorded or injected
	closed bool
}

func (d *device) Info() nbdserver.Info { return d.e.info }

func (d *device) call(ctx context.Context, c Call) error {
	if d.quick {
		return nil
	}
	c.Conn = d.peer.ID
	d.m.mu.Lock()
	if d.closed {
		panic(fmt.Sprintf("nbdtest: %s on a closed device", c.Op))
	}
	if d.m.record {
		d.m.calls = append(d.m.calls, c)
	}
	d.m.mu.Unlock()
	if d.m.Hook != nil {
		return d.m.Hook(ctx, c)
	}
	return nil
}

func (d *device) ReadAt(ctx context.Context, p []byte, offBytes uint64) error {
	if err := d.call(ctx, Call{Op: "ReadAt", OffBytes: offBytes, LengthBytes: uint64(len(p))}); err != nil {
		return err
	}
	d.e.read(p, offBytes)
	return nil
}

func (d *device) ReadNow(p []byte, offBytes uint64) (bool, error) {
	if d.m.Slow != nil && d.m.Slow(offBytes, len(p)) {
		return false, nil
	}
	if err := d.call(context.Background(), Call{Op: "ReadNow", OffBytes: offBytes, LengthBytes: uint64(len(p))}); err != nil {
		return false, err
	}
	d.e.read(p, offBytes)
	return true, nil
}

func (d *device) WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error {
	if err := d.call(ctx, Call{Op: "WriteAt", OffBytes: offBytes, LengthBytes: uint64(len(p)), FUA: fua}); err != nil {
		return err
	}
	d.e.write(p, offBytes)
	return nil
}

func (d *device) Flush(ctx context.Context) error { return d.call(ctx, Call{Op: "Flush"}) }

func (d *device) Trim(ctx context.Context, offBytes, lengthBytes uint64, fua bool) error {
	if err := d.call(ctx, Call{Op: "Trim", OffBytes: offBytes, LengthBytes: lengthBytes, FUA: fua}); err != nil {
		return err
	}
	d.e.zero(offBytes, lengthBytes)
	return nil
}

func (d *device) Settle() error { return nil }

// StartFlush cannot fail: what a hook returns is dropped.
func (d *device) StartFlush() { _ = d.call(context.Background(), Call{Op: "StartFlush"}) }

func (d *device) WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, noHole, fua bool) error {
	if err := d.call(ctx, Call{Op: "WriteZeroes", OffBytes: offBytes, LengthBytes: lengthBytes, FUA: fua, NoHole: noHole}); err != nil {
		return err
	}
	d.e.zero(offBytes, lengthBytes)
	return nil
}

func (d *device) Cache(ctx context.Context, offBytes, lengthBytes uint64) error {
	return d.call(ctx, Call{Op: "Cache", OffBytes: offBytes, LengthBytes: lengthBytes})
}

func (d *device) Extents(ctx context.Context, dst []nbdserver.Extent, offBytes, lengthBytes uint64, maxExtents int) ([]nbdserver.Extent, error) {
	if err := d.call(ctx, Call{Op: "Extents", OffBytes: offBytes, LengthBytes: lengthBytes}); err != nil {
		return dst, err
	}
	return d.e.extents(dst, offBytes, lengthBytes, maxExtents), nil
}

func (d *device) Close() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.closed {
		panic("nbdtest: device closed twice")
	}
	d.closed = true
	d.m.open--
	if !d.peer.InfoOnly {
		delete(d.m.opened, d.peer.ID)
	}
	return nil
}

// pieces calls f for the part of each page that a range covers.
func pieces(offBytes, lengthBytes uint64, f func(page uint64, from, to int)) {
	for end := offBytes + lengthBytes; offBytes < end; {
		page, from := offBytes/pageBytes, offBytes%pageBytes
		n := min(pageBytes-from, end-offBytes)
		f(page, int(from), int(from+n))
		offBytes += n
	}
}

func (e *export) read(p []byte, offBytes uint64) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	pieces(offBytes, uint64(len(p)), func(page uint64, from, to int) {
		n := to - from
		if pg := e.pages[page]; pg != nil {
			copy(p[:n], pg[from:to])
		} else {
			clear(p[:n])
		}
		p = p[n:]
	})
}

func (e *export) write(p []byte, offBytes uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	pieces(offBytes, uint64(len(p)), func(page uint64, from, to int) {
		pg := e.pages[page]
		if pg == nil {
			pg = new([pageBytes]byte)
			e.pages[page] = pg
		}
		p = p[copy(pg[from:to], p):]
	})
}

// zero frees the pages that lie in the range and clears the rest of it. It
// visits only pages that are there.
func (e *export) zero(offBytes, lengthBytes uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	end := offBytes + lengthBytes
	for page, pg := range e.pages {
		from, to := max(offBytes, page*pageBytes), min(end, (page+1)*pageBytes)
		switch {
		case from >= to:
		case to-from == pageBytes:
			delete(e.pages, page)
		default:
			clear(pg[from-page*pageBytes : to-page*pageBytes])
		}
	}
}

func (e *export) extents(dst []nbdserver.Extent, offBytes, lengthBytes uint64, maxExtents int) []nbdserver.Extent {
	e.mu.RLock()
	defer e.mu.RUnlock()
	start := len(dst)
	full := false
	pieces(offBytes, lengthBytes, func(page uint64, from, to int) {
		hole := e.pages[page] == nil
		last := len(dst) - 1
		switch {
		case full:
		case last >= start && dst[last].Hole == hole:
			dst[last].LengthBytes += uint64(to - from)
		case len(dst)-start == maxExtents:
			full = true
		default:
			dst = append(dst, nbdserver.Extent{LengthBytes: uint64(to - from), Hole: hole, Zero: hole})
		}
	})
	return dst
}
