package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/image"
	"github.com/slackerd/slacker/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveMem starts an API server over a store in memory.
func serveMem(store *memStore) (*httptest.Server, error) {
	s, err := apiserver.NewServer(store, apiserver.Options{Version: "1.2.3", DataDir: "/data", NBDAddresses: []string{"tcp://127.0.0.1:10809"},
		Started: epoch, Checker: store, Collector: store, Scrubber: store, Upgrader: &fakeUpgrader{store: store}, Activity: store.activity, Log: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	path, h := apiserver.NewHandler(s)
	mux := http.NewServeMux()
	mux.Handle(path, h)
	return httptest.NewServer(mux), nil
}

// fakeUpgrader is done at once.
type fakeUpgrader struct {
	store *memStore
	last  atomic.Pointer[slackerv1.Upgrade]
}

func (f *fakeUpgrader) Upgrade(context.Context) (string, error) {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	if f.store.broken == nil {
		f.last.Store(&slackerv1.Upgrade{Count: f.last.Load().GetCount() + 1, From: "1.2.2", PauseMicros: 45600, Connections: 3})
	}
	return "1.2.3", f.store.broken
}

func (f *fakeUpgrader) LastUpgrade() *slackerv1.Upgrade { return f.last.Load() }

// TestScripts runs testdata/script. Each script has a server and a store of its
// own. The commands beside testscript's:
//
//	slackerctl ARGS...           run it; with ! it has to fail
//	exits N slackerctl ARGS...   run it, and want this exit status
//	terminal ANSWER slackerctl ARGS...  run it on a terminal that answers so
//	attach TARGET WORKER         attach a volume
//	break KIND                   have the store fail
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			store := newMemStore()
			srv, err := serveMem(store)
			if err != nil {
				return err
			}
			env.Defer(srv.Close)
			env.Values["store"] = store
			env.Setenv(serverEnv, srv.URL)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"slackerctl": func(ts *testscript.TestScript, neg bool, args []string) {
				if got := ctl(ts, nil, args); (got != 0) != neg {
					ts.Fatalf("exit status %d", got)
				}
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if got := ctl(ts, nil, args[2:]); got != want {
					ts.Fatalf("exit status %d, want %d", got, want)
				}
			},
			"terminal": func(ts *testscript.TestScript, neg bool, args []string) {
				if got := ctl(ts, &args[0], args[2:]); (got != 0) != neg {
					ts.Fatalf("exit status %d", got)
				}
			},
			"attach": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := memOf(ts).Attach(context.Background(), volume.AttachRequest{Target: args[0], Worker: args[1]})
				ts.Check(err)
			},
			"break": func(ts *testscript.TestScript, _ bool, args []string) {
				memOf(ts).broken = fault("err/" + args[0])
				if memOf(ts).broken == nil {
					ts.Fatalf("no kind %q", args[0])
				}
			},
		},
	})
}

func memOf(ts *testscript.TestScript) *memStore {
	store, ok := ts.Value("store").(*memStore)
	if !ok {
		ts.Fatalf("no store")
	}
	return store
}

// ctl runs slackerctl within this process; answer is what a terminal says, nil
// is no terminal.
func ctl(ts *testscript.TestScript, answer *string, args []string) int {
	a := newApp()
	a.stdin = strings.NewReader("")
	if answer != nil {
		a.stdin = strings.NewReader(*answer + "\n")
	}
	a.stdout, a.stderr, a.getenv = ts.Stdout(), ts.Stderr(), ts.Getenv
	a.terminal = func(any) bool { return answer != nil }
	a.location = time.UTC
	realImport := a.importImage
	a.importImage = func(ctx context.Context, o image.ImportOptions) (image.Result, error) {
		if !strings.HasPrefix(o.Source, "fake:") {
			o.Source = ts.MkAbs(o.Source)
			return realImport(ctx, o)
		}
		return fakeImport(ctx, o)
	}
	a.exportImage, a.exportLayers = fakeExport, fakeExportLayers
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "$WORK", ts.Getenv("WORK"))
	}
	return a.run(context.Background(), args)
}

// fakeImport goes through the import calls without moving data.
func fakeImport(ctx context.Context, o image.ImportOptions) (image.Result, error) {
	name, snapshot, err := block.SplitSnapshot(o.Target)
	if err != nil {
		return image.Result{}, err
	}
	size := max(o.SizeBytes, 1<<20)
	begun, err := o.Client.BeginImport(ctx, connect.NewRequest(&slackerv1.BeginImportRequest{Volume: name, Snapshot: snapshot, SizeBytes: size}))
	if err != nil {
		return image.Result{}, err
	}
	o.Progress(image.PhaseUnpack, 0, 0)
	for i := range uint64(101) {
		o.Progress(image.PhaseWrite, size*i/100, size)
	}
	if o.Source == "fake:interrupted" {
		return image.Result{}, fmt.Errorf("import %s: %w", o.Target, context.Canceled)
	}
	_, err = o.Client.FinishImport(ctx, connect.NewRequest(&slackerv1.FinishImportRequest{ImportId: begun.Msg.GetImportId()}))
	res := image.Result{Format: o.Format, SizeBytes: size, SourceBytes: size - 96, WrittenBytes: 4096, PaddedBytes: 96, Files: 3,
		Image: o.Image, Took: 1500 * time.Millisecond}
	if o.Image != "" {
		res.Config, res.Warnings = []byte(`{"os":"linux"}`), []string{"dev/null: a device was left out"}
	}
	return res, err
}

// fakeExportLayers answers with what it was given.
func fakeExportLayers(_ context.Context, o image.LayersOptions) (image.Result, error) {
	o.Progress(image.PhasePack, 4096, 0)
	return image.Result{Format: image.FormatOCI, SizeBytes: 1 << 20, WrittenBytes: 4096, Image: o.Source + " on " + o.Base + ", below " +
		strings.Join(o.Below, " "), Config: o.Config, Took: time.Second}, nil
}

func fakeExport(ctx context.Context, o image.ExportOptions) (image.Result, error) {
	name, snapshot, err := block.SplitSnapshot(o.Source)
	if err != nil {
		return image.Result{}, err
	}
	resp, err := o.Client.GetSnapshot(ctx, connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: name, Snapshot: snapshot}))
	if err != nil {
		return image.Result{}, err
	}
	if o.Dest == "full" {
		return image.Result{}, block.Wrap(block.NoSpace, errors.New("disk full"), "export "+o.Source)
	}
	if o.Format == image.FormatAuto {
		o.Format = image.FormatRaw
	}
	size := resp.Msg.GetSnapshot().GetSizeBytes()
	o.Progress(image.PhaseExport, size, size)
	return image.Result{Format: o.Format, SizeBytes: size, WrittenBytes: 4096, Took: time.Second}, nil
}
