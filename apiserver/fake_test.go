package apiserver_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeStore records the calls it gets and answers from its fields.
type fakeStore struct {
	mu    sync.Mutex
	calls []string
	err   error
	boom  any // what to panic with

	info     volume.Info
	infos    []volume.Info
	snaps    []volume.SnapshotInfo
	attached volume.AttachmentInfo
	request  volume.AttachRequest
	status   volume.Status
	dirty    []volume.Changed
}

func (f *fakeStore) called(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what)
	if f.boom != nil {
		panic(f.boom)
	}
	return f.err
}

func (f *fakeStore) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

func (f *fakeStore) snap() volume.SnapshotInfo {
	if len(f.snaps) > 0 {
		return f.snaps[0]
	}
	return volume.SnapshotInfo{}
}

func (f *fakeStore) Create(_ context.Context, name string, _ uint64) (volume.Info, error) {
	return f.info, f.called("create " + name)
}
func (f *fakeStore) List(_ context.Context, prefix string) ([]volume.Info, error) {
	return f.infos, f.called("list " + prefix)
}
func (f *fakeStore) Get(_ context.Context, name string) (volume.Info, error) {
	return f.info, f.called("get " + name)
}
func (f *fakeStore) Space(_ context.Context, target string) (volume.Space, error) {
	return volume.Space{LogicalBytes: 4, ExclusiveBytes: 3, SharedBytes: 1, WouldFreeBytes: 2}, f.called("space " + target)
}
func (f *fakeStore) Resize(_ context.Context, name string, _ uint64) (volume.Info, error) {
	return f.info, f.called("resize " + name)
}
func (f *fakeStore) Rename(_ context.Context, name, newName string) (volume.Info, error) {
	return f.info, f.called("rename " + name + " " + newName)
}
func (f *fakeStore) Delete(_ context.Context, name string, _ bool) ([]string, error) {
	return []string{name}, f.called("delete " + name)
}
func (f *fakeStore) WouldFree(_ context.Context, target string, _ bool, also ...string) (uint64, []string, error) {
	return 8192, []string{target}, f.called(strings.Join(append([]string{"wouldfree " + target}, also...), " "))
}
func (f *fakeStore) Snapshot(_ context.Context, v, s string) (volume.SnapshotInfo, error) {
	return f.snap(), f.called("snapshot " + v + "@" + s)
}
func (f *fakeStore) Snapshots(_ context.Context, v string) ([]volume.SnapshotInfo, error) {
	return f.snaps, f.called("snapshots " + v)
}
func (f *fakeStore) GetSnapshot(_ context.Context, v, s string) (volume.SnapshotInfo, error) {
	return f.snap(), f.called("getsnapshot " + v + "@" + s)
}
func (f *fakeStore) DeleteUnused(_ context.Context, name string, since time.Time) ([]string, error) {
	return []string{name}, f.called("deleteunused " + name + " " + since.UTC().Format(time.RFC3339))
}

func (f *fakeStore) DeleteSnapshot(_ context.Context, v, s string) error {
	return f.called("deletesnapshot " + v + "@" + s)
}
func (f *fakeStore) Rollback(_ context.Context, v, s string) (volume.Info, error) {
	return f.info, f.called("rollback " + v + "@" + s)
}
func (f *fakeStore) Publish(_ context.Context, v, target string) (volume.SnapshotInfo, error) {
	return f.snap(), f.called("publish " + v + " " + target)
}
func (f *fakeStore) Clone(_ context.Context, v, s, n string) (volume.Info, error) {
	return f.info, f.called("clone " + v + "@" + s + " " + n)
}
func (f *fakeStore) BeginImport(_ context.Context, v, s string, _ uint64) (string, volume.AttachmentInfo, error) {
	return "import-1", f.attached, f.called("beginimport " + v + "@" + s)
}
func (f *fakeStore) FinishImport(_ context.Context, id string) (volume.SnapshotInfo, error) {
	return f.snap(), f.called("finishimport " + id)
}
func (f *fakeStore) AbortImport(_ context.Context, id string) error {
	return f.called("abortimport " + id)
}
func (f *fakeStore) Attach(_ context.Context, r volume.AttachRequest) (volume.AttachmentInfo, error) {
	f.request = r
	return f.attached, f.called("attach " + r.Target)
}
func (f *fakeStore) Detach(_ context.Context, id string) error { return f.called("detach " + id) }
func (f *fakeStore) AttachmentTarget(id string) (string, bool, error) {
	if id == "ro" {
		return "v@s", false, nil
	}
	return "v", true, nil
}

func (f *fakeStore) ImportTarget(string) (string, error) { return "v@s", nil }

func (f *fakeStore) Attachments(_ context.Context, target, worker string) ([]volume.AttachmentInfo, error) {
	return []volume.AttachmentInfo{f.attached}, f.called("attachments " + target + " " + worker)
}
func (f *fakeStore) BaseTarget(string, string) (string, error) { return "b@s", nil }
func (f *fakeStore) ReadBase(_ context.Context, _, _ string, _ []uint64, p []byte) error {
	for i := range p {
		p[i] = byte(i)
	}
	return nil
}
func (f *fakeStore) Trace(string, volume.TraceKind) []byte { return nil }
func (f *fakeStore) PutTrace(context.Context, string, string, volume.TraceKind, []byte) error {
	return nil
}

func (f *fakeStore) Dirty(_ context.Context, id, base string, off uint64) ([]volume.Changed, error) {
	return f.dirty, f.called(fmt.Sprintf("dirty %s %s %d", id, base, off))
}
func (f *fakeStore) Status(context.Context) (volume.Status, error) {
	return f.status, f.called("status")
}

type checkFunc func(ctx context.Context, data bool, progress func(done, total uint64, unit string)) ([]apiserver.Damage, error)

func (f checkFunc) Check(ctx context.Context, data bool, progress func(done, total uint64, unit string)) ([]apiserver.Damage, error) {
	return f(ctx, data, progress)
}

type collectFunc func(ctx context.Context, dryRun bool, progress func(step string, done, total uint64, unit string)) (uint64, []string, error)

func (f collectFunc) Collect(ctx context.Context, dryRun bool, progress func(step string, done, total uint64, unit string)) (uint64, []string, error) {
	return f(ctx, dryRun, progress)
}

var (
	started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	frozen  = func() time.Time { return started }
)

func options() apiserver.Options {
	return apiserver.Options{
		Version: "1.2.3", DataDir: "/data", NBDAddresses: []string{"tcp://127.0.0.1:10809"}, Started: started,
		Checker: checkFunc(func(context.Context, bool, func(uint64, uint64, string)) ([]apiserver.Damage, error) { return nil, nil }),
		Collector: collectFunc(func(context.Context, bool, func(string, uint64, uint64, string)) (uint64, []string, error) {
			return 0, nil, nil
		}),
		Scrubber: &fakeScrubber{},
		Log:      zap.NewNop(), Now: frozen,
	}
}

// serve starts a server and returns its base address.
func serve(t *testing.T, store apiserver.Store, opts apiserver.Options) string {
	t.Helper()
	s, err := apiserver.NewServer(store, opts)
	if err != nil {
		t.Fatal(err)
	}
	path, h := apiserver.NewHandler(s)
	mux := http.NewServeMux()
	mux.Handle(path, h)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func dial(t *testing.T, addr string) slackerv1connect.AdminServiceClient {
	t.Helper()
	c, err := api.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveUnix is serve on a unix socket.
func serveUnix(t *testing.T, store apiserver.Store) string {
	t.Helper()
	s, err := apiserver.NewServer(store, options())
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	path, h := apiserver.NewHandler(s)
	mux := http.NewServeMux()
	mux.Handle(path, h)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}}
	srv.Start()
	t.Cleanup(srv.Close)
	return "unix://" + sock
}

var _ apiserver.Store = (*volume.Store)(nil)
