package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// memStore is a store of names and sizes. A volume whose name is that of a kind
// of error, with '-' for blanks, always fails so; see fault.
type memStore struct {
	mu      sync.Mutex
	nextID  block.VolumeID
	volumes map[string]*volume.Info
	snaps   map[string][]volume.SnapshotInfo
	imports map[string][2]string
	attach  []volume.AttachmentInfo
	broken  error
	scrubs  bool
	asked   uint64 // for activity
}

func newMemStore() *memStore {
	return &memStore{volumes: map[string]*volume.Info{}, snaps: map[string][]volume.SnapshotInfo{}, imports: map[string][2]string{}}
}

// fault is the error of the kind that name names as err/KIND, or nil.
func fault(name string) error {
	for _, k := range block.Kinds() {
		if kind := strings.NewReplacer(" ", "-", "/", "").Replace(k.String()); name == "err/"+kind {
			return block.Errorf(k, "a fault of kind %s", k)
		}
	}
	return nil
}

func (m *memStore) find(name string) (*volume.Info, error) {
	if err := fault(name); err != nil {
		return nil, err
	}
	v, ok := m.volumes[name]
	if !ok {
		return nil, block.Errorf(block.NotFound, "no volume %q", name)
	}
	v.Snapshots = len(m.snaps[name])
	return v, nil
}

func (m *memStore) add(name string, sizeBytes uint64, origin string) (volume.Info, error) {
	if err := fault(name); err != nil {
		return volume.Info{}, err
	}
	if _, ok := m.volumes[name]; ok {
		return volume.Info{}, block.Errorf(block.Exists, "volume %q exists already", name)
	}
	m.nextID++
	m.volumes[name] = &volume.Info{ID: m.nextID, Name: name, SizeBytes: sizeBytes, Created: epoch, Origin: origin, HeadBytes: 8192}
	return *m.volumes[name], nil
}

func (m *memStore) Create(_ context.Context, name string, sizeBytes uint64) (volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.add(name, sizeBytes, "")
}

func (m *memStore) List(_ context.Context, prefix string) ([]volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []volume.Info
	for name, v := range m.volumes {
		if strings.HasPrefix(name, prefix) {
			v.Snapshots = len(m.snaps[name])
			out = append(out, *v)
		}
	}
	slices.SortFunc(out, func(a, b volume.Info) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (m *memStore) Get(_ context.Context, name string) (volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.find(name)
	if err != nil {
		return volume.Info{}, err
	}
	return *v, nil
}

func (m *memStore) Space(context.Context, string) (volume.Space, error) {
	return volume.Space{LogicalBytes: 12288, ExclusiveBytes: 8192, SharedBytes: 4096, WouldFreeBytes: 8192}, nil
}

func (m *memStore) Resize(_ context.Context, name string, sizeBytes uint64) (volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.find(name)
	if err != nil {
		return volume.Info{}, err
	}
	if sizeBytes < v.SizeBytes {
		return volume.Info{}, block.Errorf(block.Invalid, "resize volume %q: want at least %d bytes, got %d", name, v.SizeBytes, sizeBytes)
	}
	v.SizeBytes = sizeBytes
	return *v, nil
}

func (m *memStore) Rename(_ context.Context, name, newName string) (volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.find(name)
	if err != nil {
		return volume.Info{}, err
	}
	if _, ok := m.volumes[newName]; ok {
		return volume.Info{}, block.Errorf(block.Exists, "volume %q exists already", newName)
	}
	delete(m.volumes, name)
	v.Name = newName
	m.volumes[newName], m.snaps[newName] = v, m.snaps[name]
	return *v, nil
}

func (m *memStore) WouldFree(_ context.Context, target string, withSnapshots bool, also ...string) (uint64, []string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, targets, err := m.wouldFree(target, withSnapshots)
	for _, name := range also {
		more, t, aerr := m.wouldFree(name, true)
		n, targets, err = n+more, append(targets, t...), errors.Join(err, aerr)
	}
	return n, targets, err
}

func (m *memStore) wouldFree(target string, withSnapshots bool) (uint64, []string, error) {
	if name, snapshot, ok := strings.Cut(target, "@"); ok {
		_, err := m.getSnapshot(name, snapshot)
		return 4096, []string{target}, err
	}
	if _, err := m.find(target); err != nil {
		return 0, nil, err
	}
	if len(m.snaps[target]) > 0 && !withSnapshots {
		return 0, nil, block.Errorf(block.Busy, "volume %q has %d snapshots", target, len(m.snaps[target]))
	}
	deleted := []string{target}
	for _, s := range m.snaps[target] {
		deleted = append(deleted, target+"@"+s.Name)
	}
	return 8192 * uint64(len(deleted)), deleted, nil
}

func (m *memStore) Delete(_ context.Context, name string, withSnapshots bool) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, deleted, err := m.wouldFree(name, withSnapshots)
	if err != nil {
		return nil, err
	}
	delete(m.volumes, name)
	delete(m.snaps, name)
	return deleted, nil
}

func (m *memStore) DeleteUnused(ctx context.Context, name string, since time.Time) ([]string, error) {
	for _, sn := range m.snaps[name] {
		if !sn.Created.Before(since) {
			return nil, block.Errorf(block.Busy, "volume %q is used", name)
		}
	}
	return m.Delete(ctx, name, true)
}

func (m *memStore) Snapshot(_ context.Context, name, snapshot string) (volume.SnapshotInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.find(name)
	if err != nil {
		return volume.SnapshotInfo{}, err
	}
	if _, err := m.getSnapshot(name, snapshot); err == nil {
		return volume.SnapshotInfo{}, block.Errorf(block.Exists, "snapshot %s@%s exists already", name, snapshot)
	}
	s := volume.SnapshotInfo{Volume: name, Name: snapshot, SizeBytes: v.SizeBytes, Created: epoch, LayerBytes: 4096}
	m.snaps[name] = append(m.snaps[name], s)
	return s, nil
}

// Publish is not what slackerctl uses.
func (m *memStore) Publish(context.Context, string, string) (volume.SnapshotInfo, error) {
	return volume.SnapshotInfo{}, block.Errorf(block.Unsupported, "publish")
}

func (m *memStore) Snapshots(_ context.Context, name string) ([]volume.SnapshotInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if name != "" {
		_, err := m.find(name)
		return m.snaps[name], err
	}
	var out []volume.SnapshotInfo
	for _, s := range m.snaps {
		out = append(out, s...)
	}
	slices.SortFunc(out, func(a, b volume.SnapshotInfo) int { return strings.Compare(a.Volume+"@"+a.Name, b.Volume+"@"+b.Name) })
	return out, nil
}

func (m *memStore) getSnapshot(name, snapshot string) (volume.SnapshotInfo, error) {
	for _, s := range m.snaps[name] {
		if s.Name == snapshot {
			return s, nil
		}
	}
	return volume.SnapshotInfo{}, block.Errorf(block.NotFound, "no snapshot %s@%s", name, snapshot)
}

func (m *memStore) GetSnapshot(_ context.Context, name, snapshot string) (volume.SnapshotInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.getSnapshot(name, snapshot)
}

func (m *memStore) DeleteSnapshot(_ context.Context, name, snapshot string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.getSnapshot(name, snapshot); err != nil {
		return err
	}
	m.snaps[name] = slices.DeleteFunc(m.snaps[name], func(s volume.SnapshotInfo) bool { return s.Name == snapshot })
	return nil
}

func (m *memStore) Rollback(_ context.Context, name, snapshot string) (volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.getSnapshot(name, snapshot); err != nil {
		return volume.Info{}, err
	}
	v, err := m.find(name)
	if err != nil {
		return volume.Info{}, err
	}
	v.Origin, v.HeadBytes = name+"@"+snapshot, 0
	return *v, nil
}

func (m *memStore) Clone(_ context.Context, name, snapshot, newVolume string) (volume.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.getSnapshot(name, snapshot)
	if err != nil {
		return volume.Info{}, err
	}
	return m.add(newVolume, s.SizeBytes, name+"@"+snapshot)
}

func (m *memStore) BeginImport(_ context.Context, name, snapshot string, sizeBytes uint64) (string, volume.AttachmentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.imports["import-1"] = [2]string{name, snapshot}
	_, err := m.add(name, sizeBytes, "")
	return "import-1", volume.AttachmentInfo{ID: "a0", Target: name, SizeBytes: sizeBytes}, err
}

func (m *memStore) FinishImport(ctx context.Context, id string) (volume.SnapshotInfo, error) {
	m.mu.Lock()
	to, ok := m.imports[id]
	delete(m.imports, id)
	m.mu.Unlock()
	if !ok {
		return volume.SnapshotInfo{}, block.Errorf(block.NotFound, "no import %q", id)
	}
	return m.Snapshot(ctx, to[0], to[1])
}

func (m *memStore) AbortImport(context.Context, string) error { return nil }

func (m *memStore) Attach(_ context.Context, r volume.AttachRequest) (volume.AttachmentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, err := m.find(r.Target)
	if err != nil {
		return volume.AttachmentInfo{}, err
	}
	a := volume.AttachmentInfo{ID: "a1", Target: r.Target, Worker: r.Worker, ReadOnly: r.ReadOnly, Generation: 1,
		ExportName: r.Target + ".a1", SizeBytes: v.SizeBytes, Created: epoch, Connections: 2}
	v.Attachment = &a
	m.attach = append(m.attach, a)
	return a, nil
}

func (m *memStore) Detach(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.attach)
	m.attach = slices.DeleteFunc(m.attach, func(a volume.AttachmentInfo) bool { return a.ID == id })
	if len(m.attach) == n {
		return block.Errorf(block.NotFound, "no attachment %q", id)
	}
	return nil
}

func (m *memStore) BaseTarget(string, string) (string, error) { return "b@s", nil }
func (m *memStore) ReadBase(_ context.Context, _, _ string, _ []uint64, p []byte) error {
	for i := range p {
		p[i] = byte(i)
	}
	return nil
}
func (m *memStore) Trace(string, volume.TraceKind) []byte { return nil }
func (m *memStore) PutTrace(context.Context, string, string, volume.TraceKind, []byte) error {
	return nil
}

func (m *memStore) Dirty(context.Context, string, string, uint64) ([]volume.Changed, error) {
	return nil, block.Errorf(block.Unsupported, "this store knows no bases")
}

func (m *memStore) Attachments(_ context.Context, target, worker string) ([]volume.AttachmentInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []volume.AttachmentInfo
	for _, a := range m.attach {
		if (target == "" || a.Target == target) && (worker == "" || a.Worker == worker) {
			out = append(out, a)
		}
	}
	return out, nil
}

func (m *memStore) Status(context.Context) (volume.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return volume.Status{FormatVersion: 1, Volumes: len(m.volumes), Attachments: len(m.attach), Connections: 2, DataBytes: 1 << 20,
		SegmentBytes: 4 << 20, ReclaimableBytes: 3 << 20, FreeBytes: 5 << 30, ReserveBytes: 256 << 20,
		Short: block.Is(m.broken, block.NoSpace), Fault: m.broken}, nil
}

// Check finds damage where a volume is named damaged, and fails for err/corrupt's like.
func (m *memStore) Check(_ context.Context, data bool, progress func(done, total uint64, unit string)) ([]apiserver.Damage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	unit := "layers"
	if data {
		unit = "blocks"
	}
	progress(0, 10, unit)
	progress(10, 10, unit)
	if m.broken != nil {
		return nil, m.broken
	}
	if _, ok := m.volumes["damaged"]; !ok {
		return nil, nil
	}
	return []apiserver.Damage{{Kind: "checksum", Object: "segment 7 block 9", Detail: "want 1, found 2", Affected: []string{"damaged"}},
		{Kind: "orphan", Object: "layer\x1b[31m 3"}}, nil
}

func (m *memStore) Collect(_ context.Context, dryRun bool, progress func(step string, done, total uint64, unit string)) (uint64, []string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	progress("clean segments", 0, 2, "segments")
	progress("clean segments", 2, 2, "segments")
	if m.broken != nil {
		return 0, nil, m.broken
	}
	if _, ok := m.volumes["damaged"]; ok && !dryRun {
		return 4096, []string{errors.New("segment 7: damaged").Error()}, nil
	}
	return 8192, nil, nil
}

func (m *memStore) Garbage(context.Context) (uint64, []apiserver.Orphan, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return 8192, []apiserver.Orphan{{Kind: "layer", Object: "layer 3", Detail: "no volume and no snapshot sees it", Bytes: 4096, Collected: true},
		{Kind: "file", Object: "segments/notes", Detail: "it is no segment"}}, m.broken
}

func (m *memStore) StartScrub(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scrubs = m.broken == nil
	return m.broken
}

func (m *memStore) StopScrub(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scrubs = false
	return nil
}

func (m *memStore) ScrubState(context.Context) apiserver.ScrubState {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := apiserver.ScrubState{Running: m.scrubs, Started: epoch, DoneBlocks: 25, TotalBlocks: 100, Runs: 1, Finished: epoch}
	if _, ok := m.volumes["damaged"]; ok {
		s.Damage = []apiserver.Damage{{Kind: "data", Object: "layer 1 block 2", Detail: "want 1, found 2", Affected: []string{"damaged"}}}
	}
	return s
}

func (*memStore) AttachmentTarget(id string) (string, bool, error) {
	return "", false, block.Errorf(block.NotFound, "no attachment %s", id)
}

func (*memStore) ImportTarget(id string) (string, error) {
	return "", block.Errorf(block.NotFound, "no import %s", id)
}

// activity is of one volume, or of its two connections, of which one has closed
// when it is asked again and another was opened; each answer is a second later.
func (m *memStore) activity(byConnection bool) *slackerv1.Activity {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.asked
	m.asked++
	row := func(done uint64) *slackerv1.TargetActivity {
		return &slackerv1.TargetActivity{Target: "web", Connections: 2, InFlight: 1, Commands: []*slackerv1.CommandActivity{
			{Command: "read", Done: done, Failed: done / 10, Bytes: 4096 * done, Buckets: []uint64{0, done, 0}}}}
	}
	answer := &slackerv1.Activity{Time: timestamppb.New(epoch.Add(time.Duration(n) * time.Second)), BoundsNanos: []uint64{1e6, 2e6}}
	if !byConnection {
		answer.Targets = append(answer.Targets, row(10*n))
		return answer
	}
	for i, done := range []uint64{10 * n, 20} {
		r := row(done)
		r.Connections = 1
		r.Connection = &slackerv1.ActiveConnection{Id: 7 + uint64(i)*(n+1), Remote: "10.0.0.9:4711", Worker: "node-3", Attachment: "att1", Opened: timestamppb.New(epoch)}
		answer.Targets = append(answer.Targets, r)
	}
	return answer
}
