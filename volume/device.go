package volume

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// Device is an open volume or snapshot, for one connection. Its methods may
// run concurrently. The NBD server's interface says what they promise; the
// offsets and lengths lie within the device.
type Device struct {
	s           *Store
	v           *vol
	sn          *snap      // when it is of a snapshot
	layer       *cow.Layer // of the snapshot
	sizeBytes   uint64
	readOnly    bool
	infoOnly    bool
	attachment  *attachment
	slot        uint32
	incarnation uint64
	remote      string
	disconnect  func(error)
	fenced      atomic.Bool
	closed      sync.Once
}

// DeviceInfo describes an open device. Sizes are bytes.
type DeviceInfo struct {
	SizeBytes                                           uint64
	ReadOnly                                            bool
	Description                                         string
	MinBlockBytes, PreferredBlockBytes, MaxRequestBytes uint32
	FastZero                                            bool
}

// Extent is a run of bytes of one allocation state.
type Extent struct {
	LengthBytes uint64
	Hole, Zero  bool
}

// Info describes the device.
func (d *Device) Info() DeviceInfo {
	return DeviceInfo{SizeBytes: d.sizeBytes, ReadOnly: d.readOnly, Description: d.target(),
		MinBlockBytes: 1, PreferredBlockBytes: block.Size, MaxRequestBytes: block.MaxRequestBytes, FastZero: true}
}

func (d *Device) target() string {
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if d.sn != nil {
		return d.v.rec.Name + "@" + d.sn.rec.Name
	}
	return d.v.rec.Name
}

// exportName is what a client asked for:
//
//	VOLUME                              read-write unless it is attached
//	VOLUME@SNAPSHOT                     read-only
//	TARGET:ATTACHMENT[.SLOT.INCARNATION]
//
// In the last form the attachment alone decides; TARGET is for the reader of
// logs, and goes on working when the volume is renamed. Without a slot it is
// slot 0, and each connection is newer than the one before it.
type exportName struct {
	target      string
	attachment  string
	slot        uint32
	incarnation uint64
}

func parseExport(name string) (e exportName, err error) {
	target, rest, attached := strings.Cut(name, ":")
	e.target = target
	if !attached {
		return e, nil
	}
	bad := block.Errorf(block.Invalid, "export %.200q: want VOLUME, VOLUME@SNAPSHOT or TARGET:ATTACHMENT.SLOT.INCARNATION", name)
	parts := strings.Split(rest, ".")
	e.attachment = parts[0]
	switch len(parts) {
	case 1:
		return e, nil
	case 3:
		slot, err1 := strconv.ParseUint(parts[1], 10, 8)
		inc, err2 := strconv.ParseUint(parts[2], 10, 64)
		if err1 != nil || err2 != nil {
			return e, bad
		}
		e.slot, e.incarnation = uint32(slot), inc
		return e, nil
	}
	return e, bad
}

// Open opens an export for a connection from remote. disconnect is called when
// the device is fenced by a newer one; it must not call the store.
//
// A connection of an attachment names its slot and an incarnation. It fences
// the connections of that slot with lower incarnations, and returns when
// nothing of them is in progress any more; a lower incarnation than the
// present one is refused with kind Fenced.
func (s *Store) Open(_ context.Context, export, remote string, disconnect func(error)) (*Device, error) {
	return s.openDevice(export, &Device{remote: remote, disconnect: disconnect})
}

// OpenInfo opens an export for a client that only asks what it is: nothing is
// fenced, and it takes no writes.
func (s *Store) OpenInfo(_ context.Context, export, remote string) (*Device, error) {
	return s.openDevice(export, &Device{remote: remote, infoOnly: true})
}

func (s *Store) openDevice(export string, d *Device) (*Device, error) {
	e, err := parseExport(export)
	if err != nil {
		return nil, err
	}
	d.s, d.slot, d.incarnation = s, e.slot, e.incarnation
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, block.Errorf(block.Unavailable, "open %s: the store is closing", export)
	}
	if e.attachment != "" {
		err = s.openAttached(d, e, export)
	} else {
		err = s.openPlain(d, e.target)
	}
	if err != nil {
		return nil, err
	}
	d.sizeBytes = d.v.size.Load()
	if d.sn != nil {
		d.layer, d.sizeBytes = d.sn.layer, d.sn.rec.SizeBytes
		d.sn.devices[d] = struct{}{}
	} else {
		d.v.devices[d] = struct{}{}
	}
	s.conns.Add(1)
	return d, nil
}

func (s *Store) openAttached(d *Device, e exportName, export string) error {
	a := s.attachments[e.attachment]
	if a == nil {
		return block.Errorf(block.NotFound, "open %s: no such attachment: it was detached or taken over", export)
	}
	d.v, d.attachment, d.readOnly = a.v, a, d.readOnly || a.rec.ReadOnly
	if a.rec.Snapshot != "" {
		if d.sn = a.v.snaps[a.rec.Snapshot]; d.sn == nil {
			return block.Errorf(block.NotFound, "open %s: the snapshot is gone", export)
		}
	}
	if d.infoOnly {
		return nil
	}
	if old := a.slots[e.slot]; old != nil {
		if old.incarnation >= e.incarnation && e.incarnation > 0 {
			return block.Errorf(block.Fenced, "open %s: slot %d has connection %d already, which is not older than %d", export, e.slot, old.incarnation, e.incarnation)
		}
		s.fence(block.Errorf(block.Fenced, "%s is replaced by connection %d of slot %d", export, e.incarnation, e.slot), old)
	}
	a.slots[e.slot] = d
	return nil
}

func (s *Store) openPlain(d *Device, target string) error {
	v, sn, err := s.find(target)
	if err != nil {
		return err
	}
	d.v, d.sn = v, sn
	d.readOnly = d.readOnly || sn != nil || s.writer(v) != nil
	return nil
}

// fence ends the devices' work: once it returns, none of their writes is in
// progress or can commit (V4). They share a volume. Called with s.mu held.
func (s *Store) fence(reason error, ds ...*Device) {
	for _, d := range ds {
		d.fenced.Store(true)
		if d.disconnect != nil {
			d.disconnect(reason)
		}
	}
	if len(ds) > 0 {
		ds[0].v.passGate()
	}
}

// passGate returns when everything that was behind the gate has left it.
func (v *vol) passGate() {
	v.gate.Lock()
	defer v.gate.Unlock()
}

// Close ends the use of the device.
func (d *Device) Close() error {
	d.closed.Do(func() {
		s := d.s
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.sn != nil {
			delete(d.sn.devices, d)
		} else {
			delete(d.v.devices, d)
			if len(d.v.devices) == 0 {
				d.v.idle = s.o.Now()
			}
		}
		// The slot keeps the incarnation: an older connection stays refused. It
		// does not keep the connection.
		d.disconnect = nil
		s.conns.Add(-1)
	})
	return nil
}

// enter passes the gate for a change or a read, and returns the layer to work
// on, which stays the head of the volume until leave (V3). leave must follow.
func (d *Device) enter() (*cow.Layer, error) {
	d.v.gate.RLock()
	if d.fenced.Load() {
		d.v.gate.RUnlock()
		return nil, block.Errorf(block.Fenced, "this connection was replaced by a newer one")
	}
	if d.layer != nil {
		return d.layer, nil
	}
	return d.v.head.Load(), nil
}

func (d *Device) leave() { d.v.gate.RUnlock() }

// Flush makes everything that was answered before durable.
func (d *Device) Flush(ctx context.Context) error {
	if d.fenced.Load() {
		return block.Errorf(block.Fenced, "this connection was replaced by a newer one")
	}
	return d.sync(ctx)
}

func (d *Device) sync(ctx context.Context) error {
	w := block.WaitsOf(ctx)
	defer w.End(block.StageSync, w.Begin())
	return d.s.log.Sync(ctx)
}

// Settle makes everything that returned before outlive this process, though not
// a crash of the machine. It comes before a write is answered (V7).
func (d *Device) Settle() error { return d.s.log.Settle() }

// StartFlush has the disk begin with what a Flush would write.
func (d *Device) StartFlush() { d.s.log.StartSync() }
