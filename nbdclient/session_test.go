package nbdclient

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

func sessionOptions(n int) SessionOptions {
	o := DefaultSessionOptions()
	o.Connections, o.Attachment, o.DeadTimeout = n, true, 60*time.Second
	return o
}

func openTest(t *testing.T, addr string, opts SessionOptions) *Session {
	t.Helper()
	s, err := OpenSession(t.Context(), []string{addr}, "v.7", opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func allConnected(s *Session) func() bool {
	return func() bool { live, n := s.Connected(); return live == n }
}

func TestSlotNamesGrow(t *testing.T) {
	f := newFakeServer(t)
	s := openTest(t, f.addr, sessionOptions(2))
	eventually(t, "both slots connected", allConnected(s))
	for range 3 {
		before := len(f.names())
		f.dropAll()
		eventually(t, "both slots came back", func() bool { return len(f.names()) >= before+2 && allConnected(s)() })
	}
	last := map[int]uint64{}
	for _, name := range f.names() {
		var slot int
		var incarnation uint64
		if n, err := fmt.Sscanf(name, "v.7.%d.%d", &slot, &incarnation); n != 2 || err != nil || slot > 1 {
			t.Fatalf("name %q", name)
		}
		if incarnation <= last[slot] {
			t.Fatalf("incarnation of %q does not grow: %v", name, f.names())
		}
		last[slot] = incarnation
	}
	var n SlotName
	n.last = 1 << 62
	if got := n.Next("e", 0); got != fmt.Sprintf("e.0.%d", uint64(1<<62+1)) {
		t.Fatalf("with the clock behind, the name is %s", got)
	}
}

// TestReplayWaitsForFencing holds a write's slot back after its connection has
// died: the write must not be seen on the other slot before the first has a new
// connection, however much traffic the other slot carries.
func TestReplayWaitsForFencing(t *testing.T) {
	for name, write := range map[string]func(*Session, []byte) error{
		"waiting": func(s *Session, p []byte) error { return s.WriteAt(context.Background(), p, 0, false) },
		"submitted": func(s *Session, p []byte) error {
			return submitAll(s, &Request{Op: OpWrite, Data: p})
		},
	} {
		t.Run(name, func(t *testing.T) { replayWaitsForFencing(t, write) })
	}
}

func replayWaitsForFencing(t *testing.T, write func(*Session, []byte) error) {
	f := newFakeServer(t)
	var mu sync.Mutex
	victim, writes, back := "", 0, false // slot prefix of the first write; how many were seen
	f.accept = func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		if victim != "" && strings.HasPrefix(name, victim) && writes == 1 {
			return back
		}
		return true
	}
	f.request = func(name string, typ uint16, off uint64) int {
		mu.Lock()
		defer mu.Unlock()
		if typ != protocol.TRANSMISSION_TYPE_REQUEST_WRITE {
			return serve
		}
		if writes++; writes == 1 {
			victim = name[:strings.LastIndex(name, ".")+1]
			return dropConnection
		}
		if !back {
			t.Error("the write was sent again before its slot was fenced")
		}
		return serve
	}
	s := openTest(t, f.addr, sessionOptions(2))
	eventually(t, "both slots connected", allConnected(s))
	done := make(chan error, 1)
	go func() { done <- write(s, bytes.Repeat([]byte{9}, 512)) }()
	eventually(t, "one slot is dead", func() bool { live, _ := s.Connected(); return live == 1 })
	p := make([]byte, 512)
	for range 200 {
		if err := s.ReadAt(t.Context(), p, 4096); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the write returned %v while its slot was dead", err)
	default:
	}
	mu.Lock()
	back = true
	mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.ReadAt(t.Context(), p, 0); err != nil || p[0] != 9 || writes != 2 {
		t.Fatalf("read %d after %d writes: %v", p[0], writes, err)
	}
}

func TestSessionSurvivesEveryKindOfLoss(t *testing.T) {
	f := newFakeServer(t)
	var n atomic.Int64
	f.request = func(_ string, _ uint16, _ uint64) int {
		switch n.Add(1) % 17 {
		case 5:
			return dropConnection
		case 11:
			return answerShutdown
		}
		return serve
	}
	s := openTest(t, f.addr, sessionOptions(3))
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(40) {
				want := bytes.Repeat([]byte{byte(g<<6 | i)}, 1024)
				if err := s.WriteAt(t.Context(), want, (g*40+i)*1024, false); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				got := make([]byte, 1024)
				if err := s.ReadAt(t.Context(), got, (g*40+i)*1024); err != nil || !bytes.Equal(got, want) {
					t.Errorf("read back: wrong data or %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSessionEndsWhenRefused(t *testing.T) {
	f := newFakeServer(t)
	var gone atomic.Bool
	f.accept = func(string) bool { return !gone.Load() }
	s := openTest(t, f.addr, sessionOptions(2))
	eventually(t, "both slots connected", allConnected(s))
	gone.Store(true)
	f.dropAll()
	start := time.Now()
	if err := s.ReadAt(t.Context(), make([]byte, 512), 0); !block.Is(err, block.Fenced) {
		t.Fatalf("read after the attachment is gone: %v", err)
	}
	if d := time.Since(start); d < refusalWindow {
		t.Fatalf("gave up after %v, before %v", d, refusalWindow)
	}
}

func TestSessionDeadTimeout(t *testing.T) {
	f := newFakeServer(t)
	opts := sessionOptions(1)
	opts.DeadTimeout = 300 * time.Millisecond
	f.request = func(string, uint16, uint64) int { return dropConnection }
	var once atomic.Bool
	f.accept = func(string) bool { return !once.Swap(true) }
	s := openTest(t, f.addr, opts)
	if err := s.ReadAt(t.Context(), make([]byte, 512), 0); !block.Is(err, block.Unavailable) {
		t.Fatalf("read with the server away: %v", err)
	}
}

func TestSessionOptionsAreChecked(t *testing.T) {
	_, err := OpenSession(t.Context(), []string{"unix:///x"}, "e", SessionOptions{})
	if !block.Is(err, block.Invalid) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"connections", "dead timeout", "dial timeout", "log"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
}

// TestSessionOverNbdkitRestart kills and restarts a real server under load.
func TestSessionOverNbdkitRestart(t *testing.T) {
	dir := t.TempDir()
	file, socket := filepath.Join(dir, "disk"), filepath.Join(dir, "s")
	args := []string{"file", file}
	writeBlank(t, file, 8<<20)
	server := startNbdkit(t, socket, args...)
	opts := sessionOptions(2)
	opts.Attachment = false
	s := openTest(t, "unix://"+socket, opts)
	var written atomic.Int64
	finish := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-finish:
				return
			default:
			}
			if err := s.WriteAt(t.Context(), bytes.Repeat([]byte{byte(i + 1)}, 4096), uint64(i%2000)*4096, false); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			written.Add(1)
		}
	})
	for range 2 {
		before := written.Load()
		eventually(t, "writes go on", func() bool { return written.Load() > before+50 })
		stop(server)
		removeFile(t, socket)
		server = startNbdkit(t, socket, args...)
	}
	before := written.Load()
	eventually(t, "writes go on", func() bool { return written.Load() > before+50 })
	close(finish)
	wg.Wait()
	n := int(written.Load())
	got := make([]byte, 4096)
	for i := max(0, n-2000); i < n; i++ {
		if err := s.ReadAt(t.Context(), got, uint64(i%2000)*4096); err != nil {
			t.Fatal(err)
		}
		if want := bytes.Repeat([]byte{byte(i + 1)}, 4096); !slices.Equal(got, want) {
			t.Fatalf("block %d holds %d, want %d", i%2000, got[0], want[0])
		}
	}
}
