package worker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// TestMain lets the test binary be the agents that attach starts, and an
// attach that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 {
		args := AgentArgs{os.Args[2], os.Args[3], os.Args[4]}
		switch os.Args[1] {
		case AgentFuseDaemon:
			exit(RunFuseDaemon(args, zap.Must(zap.NewProduction())))
		case AgentMonitor:
			exit(RunMonitor(args, zap.Must(zap.NewProduction())))
		case AgentStandby:
			exit(RunStandby(args, zap.Must(zap.NewProduction())))
		}
	}
	if len(os.Args) == 6 && os.Args[1] == "attach-and-die" {
		exit(attachAndDie(os.Args[2], os.Args[3], os.Args[4], os.Args[5]))
	}
	// The agents are this binary too, and the race detector sleeps a second at
	// the end of a process.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		exit(err)
	}
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// fakeServer is a slackerd of memory: attachments by the API, exports
// ID.SLOT.INCARNATION over NBD, older incarnations of a slot disconnected.
type fakeServer struct {
	slackerv1connect.UnimplementedAdminServiceHandler
	url, nbd string
	backend  *nbdtest.Memory

	mu          sync.Mutex
	attachments map[string]*slackerv1.Attachment
	next        int
	generation  uint64
	slots       map[string]func(error) // ID.SLOT to the disconnect of its connection
	// opening is called with the slot of each connection, writing before each
	// write; a write whose context has ended by then does not land.
	opening func(slot string)
	writing func(ctx context.Context, slot string, p []byte)
	away    func() // ends the server
	refuse  error  // what a Detach is answered with, guarded by mu
	// snapshot is what all volumes started as, if they are of one.
	snapshot []byte
	trace    []byte        // of it, under mu
	files    []byte        // likewise
	delay    time.Duration // of each read, as over a long link
}

// hookedDevice calls the hooks of the server for one connection.
type hookedDevice struct {
	nbdserver.Device
	f    *fakeServer
	slot string
}

func (d hookedDevice) ReadNow([]byte, uint64) (bool, error) { return false, nil }

func (d hookedDevice) ReadAt(ctx context.Context, p []byte, offBytes uint64) error {
	time.Sleep(d.f.delay) // a link, not an order of events
	return d.Device.ReadAt(ctx, p, offBytes)
}

func (d hookedDevice) WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error {
	if d.f.writing != nil {
		d.f.writing(ctx, d.slot, p)
	}
	return d.Device.WriteAt(ctx, p, offBytes, fua)
}

func newFakeServer(t *testing.T, volumes map[string]uint64) *fakeServer {
	t.Helper()
	f := &fakeServer{attachments: map[string]*slackerv1.Attachment{}, slots: map[string]func(error){}}
	for name, size := range volumes {
		if f.backend == nil {
			f.backend = nbdtest.NewMemory(name, nbdtest.DefaultInfo(size))
		} else {
			f.backend.Add(name, nbdtest.DefaultInfo(size))
		}
	}
	server, err := nbdserver.New(f, nbdserver.Options{Limits: nbdserver.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "nbd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	f.nbd = "unix://" + socket
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(context.Background(), l) }()
	mux := http.NewServeMux()
	mux.Handle(slackerv1connect.NewAdminServiceHandler(f))
	web := httptest.NewServer(mux)
	f.url = web.URL
	f.away = sync.OnceFunc(func() {
		web.Close()
		http.DefaultClient.CloseIdleConnections()
		server.Close()
		_ = l.Close()
		<-done
	})
	t.Cleanup(f.away)
	return f
}

// Open opens the volume of an attachment.
func (f *fakeServer) Open(ctx context.Context, name string, conn nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	parts := strings.Split(name, ".")
	if f.opening != nil && len(parts) == 3 {
		f.opening(parts[1])
	}
	f.mu.Lock()
	a := f.attachments[parts[0]]
	if a != nil && len(parts) == 3 {
		slot := parts[0] + "." + parts[1]
		if old := f.slots[slot]; old != nil {
			old(block.Errorf(block.Fenced, "replaced"))
		}
		f.slots[slot] = disconnect
	}
	f.mu.Unlock()
	if a == nil || len(parts) != 3 {
		return nil, block.Errorf(block.NotFound, "no attachment %q", name)
	}
	dev, err := f.backend.Open(ctx, strings.Split(a.GetTarget(), "@")[0], conn, disconnect)
	if err == nil && (f.writing != nil || f.delay > 0) {
		dev = hookedDevice{dev, f, parts[1]}
	}
	if err != nil || !a.GetReadOnly() {
		return dev, err
	}
	return readOnlyDevice{dev}, nil
}

type readOnlyDevice struct{ nbdserver.Device }

func (d readOnlyDevice) Info() nbdserver.Info {
	i := d.Device.Info()
	i.ReadOnly = true
	return i
}

func (f *fakeServer) List(context.Context, nbdserver.Conn) ([]nbdserver.Export, error) {
	return nil, nil
}

func (f *fakeServer) Attach(_ context.Context, r *connect.Request[slackerv1.AttachRequest]) (*connect.Response[slackerv1.Attachment], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := r.Msg
	if m.GetAttachmentId() != "" {
		if a := f.attachments[m.GetAttachmentId()]; a != nil {
			return connect.NewResponse(a), nil
		}
		return nil, api.ToConnect(block.Errorf(block.NotFound, "no attachment %s", m.GetAttachmentId()))
	}
	volume, _, _ := strings.Cut(m.GetTarget(), "@")
	exports, err := f.backend.List(context.Background(), nbdserver.Conn{})
	if err != nil || !slices.ContainsFunc(exports, func(e nbdserver.Export) bool { return e.Name == volume }) {
		return nil, api.ToConnect(block.Errorf(block.NotFound, "no volume %q", volume))
	}
	for id, a := range f.attachments {
		if a.GetTarget() == m.GetTarget() && !m.GetReadOnly() && !a.GetReadOnly() {
			if !m.GetTakeover() {
				return nil, api.ToConnect(block.Errorf(block.Busy, "%s is attached by %s", a.GetTarget(), a.GetWorker()))
			}
			f.drop(id)
		}
	}
	f.next++
	id := fmt.Sprintf("att%d", f.next)
	dev, err := f.backend.Open(context.Background(), volume, nbdserver.Conn{}, func(error) {})
	if err != nil {
		return nil, api.ToConnect(err)
	}
	size := dev.Info().SizeBytes
	_ = dev.Close()
	f.generation++
	f.attachments[id] = &slackerv1.Attachment{Id: id, Generation: f.generation, Target: m.GetTarget(), Worker: m.GetWorker(), ReadOnly: m.GetReadOnly(), ExportName: id, SizeBytes: size, NbdAddresses: []string{f.nbd}}
	if f.snapshot != nil {
		p := make([]byte, size)
		if err := f.read(volume, p); err != nil {
			return nil, api.ToConnect(err)
		}
		f.attachments[id].Base = &slackerv1.Base{Id: "s", SizeBytes: size, Clean: bytes.Equal(p, f.snapshot), Trace: f.trace, Files: f.files}
	}
	return connect.NewResponse(f.attachments[id]), nil
}

// drop ends an attachment; the caller holds f.mu.
func (f *fakeServer) drop(id string) {
	delete(f.attachments, id)
	for slot, disconnect := range f.slots {
		if strings.HasPrefix(slot, id+".") {
			disconnect(block.Errorf(block.Fenced, "detached"))
			delete(f.slots, slot)
		}
	}
}

// CloneSnapshot makes a blank volume.
func (f *fakeServer) CloneSnapshot(_ context.Context, r *connect.Request[slackerv1.CloneSnapshotRequest]) (*connect.Response[slackerv1.Volume], error) {
	f.backend.Add(r.Msg.GetNewVolume(), nbdtest.DefaultInfo(testVolumeBytes))
	return connect.NewResponse(&slackerv1.Volume{Name: r.Msg.GetNewVolume()}), nil
}

// DeleteVolume removes a volume.
func (f *fakeServer) DeleteVolume(_ context.Context, r *connect.Request[slackerv1.DeleteVolumeRequest]) (*connect.Response[slackerv1.DeleteResponse], error) {
	f.backend.Remove(r.Msg.GetName())
	return connect.NewResponse(&slackerv1.DeleteResponse{}), nil
}

func (f *fakeServer) Detach(_ context.Context, r *connect.Request[slackerv1.DetachRequest]) (*connect.Response[slackerv1.DetachResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return nil, api.ToConnect(f.refuse)
	}
	if f.attachments[r.Msg.GetAttachmentId()] == nil {
		return nil, api.ToConnect(block.Errorf(block.NotFound, "no attachment %s", r.Msg.GetAttachmentId()))
	}
	f.drop(r.Msg.GetAttachmentId())
	return connect.NewResponse(&slackerv1.DetachResponse{}), nil
}

func (f *fakeServer) ListAttachments(_ context.Context, r *connect.Request[slackerv1.ListAttachmentsRequest]) (*connect.Response[slackerv1.ListAttachmentsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &slackerv1.ListAttachmentsResponse{}
	for _, a := range f.attachments {
		if (r.Msg.GetTarget() == "" || a.GetTarget() == r.Msg.GetTarget()) && (r.Msg.GetWorker() == "" || a.GetWorker() == r.Msg.GetWorker()) {
			out.Attachments = append(out.Attachments, a)
		}
	}
	return connect.NewResponse(out), nil
}

func (f *fakeServer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.attachments)
}

// blank makes a volume blank again.
func (f *fakeServer) blank(name string) {
	f.backend.Remove(name)
	f.backend.Add(name, nbdtest.DefaultInfo(testVolumeBytes))
}
