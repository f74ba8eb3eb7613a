package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

var (
	loadRounds = flag.Int("kill.rounds", 3, "how often the server is killed under load of NBD and the admin API")
	loadSeed   = flag.Uint64("kill.seed", 1, "what the load is made from")
)

const (
	loadBlocks  = 600 // of a volume
	loadVolumes = 3   // that are written to
	loadDerived = 6   // snapshots and clones of each
	loadWrites  = 1500
)

// span is what a block may hold: any number from least to most. Numbers only
// grow, and one connection writes a block.
type span struct{ least, most uint64 }

// shape is what a volume or snapshot may hold, and whether it may be gone or
// not there yet, since a call that makes or deletes it was cut off.
type shape struct {
	blocks []span
	unsure bool
}

func (s *shape) copy() *shape { return &shape{blocks: slices.Clone(s.blocks), unsure: s.unsure} }

// load is what a server holds that is killed again and again.
type load struct {
	t    *testing.T
	p    *process
	rng  *rand.Rand
	next atomic.Uint64
	made int

	of map[string]*shape
	mu sync.Mutex // of the blocks of volumes that are written to
}

// write writes one run of blocks and notes what was answered.
func (l *load) write(c *nbdclient.Conn, s *shape, rng *rand.Rand) bool {
	first, n := rng.IntN(loadBlocks), 1+rng.IntN(4)
	n = min(n, loadBlocks-first)
	number := l.next.Add(1)
	l.mu.Lock()
	for i := first; i < first+n; i++ {
		s.blocks[i].most = number
	}
	l.mu.Unlock()
	if c.WriteAt(context.Background(), bytes.Repeat(numbered(number), n), uint64(first)*block.Size, rng.IntN(50) == 0) != nil {
		return false
	}
	l.mu.Lock()
	for i := first; i < first+n; i++ {
		s.blocks[i].least = number
	}
	l.mu.Unlock()
	return rng.IntN(40) != 0 || c.Flush(context.Background()) == nil
}

func writtenTo(i int) string { return fmt.Sprintf("v%d", i) }

// names lists what there is, sorted, of volumes or of snapshots.
func (l *load) names(snapshots bool) (names []string) {
	for _, n := range slices.Sorted(maps.Keys(l.of)) {
		if strings.Contains(n, "@") == snapshots && !l.of[n].unsure {
			names = append(names, n)
		}
	}
	return names
}

// appear notes what do makes while it makes it. from may change meanwhile.
func (l *load) appear(name, from string, do func() error) error {
	l.mu.Lock()
	before := l.of[from].copy()
	s := l.of[from].copy()
	s.unsure = true
	l.of[name] = s
	l.mu.Unlock()
	err := do()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, now := range l.of[from].blocks {
		s.blocks[i] = span{before.blocks[i].least, now.most}
	}
	s.unsure = err != nil
	return err
}

// vanish notes that name may be gone while do deletes it.
func (l *load) vanish(name string, do func() error) error {
	l.of[name].unsure = true
	err := do()
	if err == nil {
		delete(l.of, name)
	}
	return err
}

// admin makes one call of the admin API. An error is that of a killed server.
func (l *load) admin(c slackerv1connect.AdminServiceClient) error {
	ctx := context.Background()
	l.made++
	snaps, volumes := l.names(true), l.names(false)
	clones := slices.DeleteFunc(volumes, func(n string) bool { return strings.HasPrefix(n, "v") })
	switch k := l.rng.IntN(10); {
	case k < 4 && len(snaps) < loadDerived:
		of, sn := writtenTo(l.rng.IntN(loadVolumes)), fmt.Sprintf("s%d", l.made)
		return l.appear(of+"@"+sn, of, func() error {
			_, err := c.CreateSnapshot(ctx, connect.NewRequest(&slackerv1.CreateSnapshotRequest{Volume: of, Snapshot: sn}))
			return err
		})
	case k < 6 && len(snaps) > 0 && len(clones) < loadDerived:
		from, to := snaps[l.rng.IntN(len(snaps))], fmt.Sprintf("c%d", l.made)
		of, sn, _ := strings.Cut(from, "@")
		return l.appear(to, from, func() error {
			_, err := c.CloneSnapshot(ctx, connect.NewRequest(&slackerv1.CloneSnapshotRequest{Volume: of, Snapshot: sn, NewVolume: to}))
			return err
		})
	case k < 8 && len(snaps) > 0:
		name := snaps[l.rng.IntN(len(snaps))]
		of, sn, _ := strings.Cut(name, "@")
		return l.vanish(name, func() error {
			_, err := c.DeleteSnapshot(ctx, connect.NewRequest(&slackerv1.DeleteSnapshotRequest{Volume: of, Snapshot: sn}))
			return err
		})
	case k < 9 && len(clones) > 0:
		name := clones[l.rng.IntN(len(clones))]
		return l.vanish(name, func() error {
			_, err := c.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: name}))
			return err
		})
	default:
		events, err := c.CollectGarbage(ctx, connect.NewRequest(&slackerv1.CollectGarbageRequest{}))
		if err != nil {
			return err
		}
		for events.Receive() {
			if e := events.Msg(); len(e.Errors) > 0 {
				l.t.Errorf("gc passed over %q", e.Errors)
			}
		}
		return events.Err()
	}
}

// round puts load on the server and kills it after some writes.
func (l *load) round(writes int64) {
	var done sync.WaitGroup
	var count atomic.Int64
	enough := make(chan struct{})
	for i := range loadVolumes {
		c, s, rng := l.p.dial(writtenTo(i)), l.of[writtenTo(i)], rand.New(rand.NewPCG(*loadSeed, l.next.Load()<<8|uint64(i)))
		done.Go(func() {
			defer func() { _ = c.Close() }() // the server is gone by then
			for l.write(c, s, rng) {
				if count.Add(1) == writes {
					close(enough)
				}
			}
		})
	}
	killed := make(chan struct{})
	calls := 0
	done.Go(func() {
		c := l.p.client()
		for ; ; calls++ {
			if err := l.admin(c); err != nil {
				select {
				case <-killed:
				default:
					l.t.Errorf("call %d: %v", calls, err)
				}
				return
			}
		}
	})
	<-enough
	close(killed)
	l.p.end(syscall.SIGKILL)
	done.Wait()
	l.t.Logf("killed after %d writes and %d calls of the API", count.Load(), calls)
}

// verify wants what there is to be what may be there, and takes it for the
// truth from then on: what a snapshot holds never changes again.
func (l *load) verify() {
	l.t.Helper()
	there := map[string]bool{}
	vols, err := l.p.client().ListVolumes(context.Background(), connect.NewRequest(&slackerv1.ListVolumesRequest{}))
	if err != nil {
		l.t.Fatal(err)
	}
	snaps, err := l.p.client().ListSnapshots(context.Background(), connect.NewRequest(&slackerv1.ListSnapshotsRequest{}))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, v := range vols.Msg.Volumes {
		there[v.Name] = true
	}
	for _, s := range snaps.Msg.Snapshots {
		there[s.Volume+"@"+s.Name] = true
	}
	for name := range there {
		if l.of[name] == nil {
			l.t.Errorf("%s is there", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.of)) {
		s := l.of[name]
		switch {
		case there[name]:
			l.compare(name, s)
		case !s.unsure:
			l.t.Errorf("%s is not there", name)
		default:
			delete(l.of, name)
		}
	}
	if l.t.Failed() {
		l.t.FailNow()
	}
}

func (l *load) compare(name string, s *shape) {
	l.t.Helper()
	c := l.p.dial(name)
	defer func() { _ = c.Close() }()
	buf := make([]byte, loadBlocks*block.Size)
	if err := c.ReadAt(context.Background(), buf, 0); err != nil {
		l.t.Fatalf("%s: %v", name, err)
	}
	for i := range s.blocks {
		b := buf[i*block.Size : (i+1)*block.Size]
		got := binary.LittleEndian.Uint64(b)
		if w := s.blocks[i]; !bytes.Equal(b, numbered(got)) || got < w.least || got > w.most {
			l.t.Errorf("%s block %d: got %d, want whole, and %d to %d", name, i, got, w.least, w.most)
		}
		s.blocks[i] = span{got, got}
	}
	s.unsure = false
}

// TestKillUnderLoad kills the server again and again while volumes are written
// to and snapshots and clones are made and deleted. Whatever was answered is
// there (V2, V7), what was cut off is there or not, and the store is whole.
func TestKillUnderLoad(t *testing.T) {
	dir := filepath.Join(shortDir(t), "data")
	l := &load{t: t, rng: rand.New(rand.NewPCG(*loadSeed, 1)), of: map[string]*shape{}}
	for round := range *loadRounds {
		l.p = startServer(t, command(t, serveArgs(dir)...))
		if round == 0 {
			for i := range loadVolumes {
				l.p.create(writtenTo(i))
				l.of[writtenTo(i)] = &shape{blocks: make([]span, loadBlocks)}
			}
		}
		l.verify()
		l.round(loadWrites/2 + l.rng.Int64N(loadWrites))
	}
	l.p = startServer(t, command(t, serveArgs(dir)...))
	l.verify()
	if status := l.p.end(syscall.SIGTERM); status != 0 {
		t.Fatalf("stopped with status %d:\n%s", status, l.p.text())
	}
	if stdout, stderr, status := runCommand(t, "check", "--data-dir", dir, "--data"); status != 0 {
		t.Fatalf("check: status %d\n%s%s", status, stdout, stderr)
	}
}
