package apiserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/volume"
)

// post sends JSON as curl does.
func post(t *testing.T, base, method, body string) (status int, answer string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/slacker.v1.AdminService/"+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := httpClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestPlainJSON(t *testing.T) {
	store := &fakeStore{info: volume.Info{ID: 7, Name: "web", SizeBytes: 1 << 30, Created: started, Snapshots: 2, HeadBytes: 4096,
		Attachment: &volume.AttachmentInfo{ID: "a1", Target: "web", Worker: "w", Generation: 3}}}
	base := serve(t, store, options())
	status, body, _ := post(t, base, "CreateVolume", `{"name":"web","sizeBytes":"1073741824"}`)
	var v map[string]any
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusOK {
		t.Fatalf("status %d, %v: %s", status, err, body)
	}
	if v["name"] != "web" || v["sizeBytes"] != "1073741824" || v["created"] != "2026-01-02T03:04:05Z" || v["snapshots"] != 2.0 || v["origin"] != "" {
		t.Errorf("answer %s", body)
	}
	if a, ok := v["attachment"].(map[string]any); !ok || a["generation"] != "3" || fmt.Sprint(a["nbdAddresses"]) != "[tcp://127.0.0.1:10809]" {
		t.Errorf("attachment in %s", body)
	}
	if _, body, _ := post(t, base, "ListVolumes", `{}`); !strings.Contains(body, `"volumes":[]`) {
		t.Errorf("an empty list: %s, want an empty array", body)
	}
}

func TestPlainJSONErrors(t *testing.T) {
	store := &fakeStore{err: block.Errorf(block.NotFound, "no volume web")}
	base := serve(t, store, options())
	status, body, header := post(t, base, "GetVolume", `{"name":"web"}`)
	if status != http.StatusNotFound || header.Get("Slacker-Kind") != "not found" || !strings.Contains(body, "no volume web") {
		t.Errorf("not found: %d %s %v", status, body, header)
	}
	store.took()
	for _, body := range []string{``, `{`, `[]`, `{"name":"web","dryrun":true}`, `{"name":7}`, `{"name":"web"} {}`} {
		if status, answer, _ := post(t, base, "DeleteVolume", body); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s, want it refused", body, status, answer)
		}
	}
	if status, answer, _ := post(t, base, "GetVolume", `{"name":"`+strings.Repeat("a", apiserver.MaxRequestBytes)+`"}`); status == http.StatusOK || !strings.Contains(answer, "larger than") {
		t.Errorf("a request that is too large: %d %.100s", status, answer)
	}
	if calls := store.took(); len(calls) > 0 {
		t.Errorf("the store saw %q", calls)
	}
}

// Requests that are refused before the store sees them, with what the text has to say.
func TestValidation(t *testing.T) {
	store := &fakeStore{}
	base := serve(t, store, options())
	for _, c := range []struct{ method, body, want string }{
		{"CreateVolume", `{"name":"-x","sizeBytes":4096}`, "beginning with a letter"},
		{"CreateVolume", `{"name":"x"}`, "nearest good size is 4096"},
		{"CreateVolume", `{"name":"x","sizeBytes":4097}`, "nearest good size is 8192"},
		{"CreateVolume", `{"name":"x","sizeBytes":"18446744073709551615"}`, "nearest good size is 281474976710656"},
		{"ListVolumes", `{"prefix":"a b"}`, "prefix"},
		{"GetVolume", `{"name":"a@b"}`, "volume name"},
		{"ResizeVolume", `{"name":"","sizeBytes":4096}`, "volume name"},
		{"ResizeVolume", `{"name":"x","sizeBytes":1}`, "multiple of 4096"},
		{"RenameVolume", `{"name":"x","newName":"a//b"}`, "volume name"},
		{"RenameVolume", `{"name":"","newName":"b"}`, "volume name"},
		{"DeleteVolume", `{"name":"../x"}`, "volume name"},
		{"CreateSnapshot", `{"volume":"x","snapshot":""}`, "snapshot name"},
		{"CreateSnapshot", `{"volume":"","snapshot":"s"}`, "volume name"},
		{"ListSnapshots", `{"volume":"x@s"}`, "volume name"},
		{"GetSnapshot", `{"volume":"x","snapshot":"a/b"}`, "snapshot name"},
		{"DeleteSnapshot", `{"volume":"x","snapshot":"*"}`, "snapshot name"},
		{"RollbackVolume", `{"volume":"x"}`, "snapshot name"},
		{"CloneSnapshot", `{"volume":"x","snapshot":"s","newVolume":"y@z"}`, "volume name"},
		{"CloneSnapshot", `{"volume":"x","snapshot":"","newVolume":"y"}`, "snapshot name"},
		{"BeginImport", `{"volume":"x","snapshot":"s","sizeBytes":7}`, "multiple of 4096"},
		{"BeginImport", `{"volume":"x","snapshot":"@","sizeBytes":4096}`, "snapshot name"},
		{"FinishImport", `{}`, "import id"},
		{"AbortImport", `{"importId":"a b"}`, "import id"},
		{"Attach", `{"target":"x@","worker":"w"}`, "snapshot name"},
		{"Attach", `{"target":"x"}`, "worker name"},
		{"Attach", `{"target":"x","worker":"w","attachmentId":"é"}`, "attachment id"},
		{"Detach", `{"attachmentId":"` + strings.Repeat("a", 129) + `"}`, "has 129 bytes"},
		{"ListAttachments", `{"target":"@"}`, "volume name"},
		{"ListAttachments", `{"worker":"a b"}`, "worker name"},
	} {
		status, answer, header := post(t, base, c.method, c.body)
		if status != http.StatusBadRequest || header.Get("Slacker-Kind") != "invalid" || !strings.Contains(answer, c.want) {
			t.Errorf("%s %s: %d %s, want a text with %q", c.method, c.body, status, answer, c.want)
		}
	}
	if calls := store.took(); len(calls) > 0 {
		t.Errorf("the store saw %q", calls)
	}
}

// Every method reaches the store with its arguments.
func TestMethodsReachTheStore(t *testing.T) {
	store := &fakeStore{}
	base := serve(t, store, options())
	for _, c := range []struct{ method, body, want string }{
		{"CreateVolume", `{"name":"x","sizeBytes":4096}`, "create x"},
		{"ListVolumes", `{"prefix":"a/"}`, "list a/"},
		{"GetVolume", `{"name":"x"}`, "get x,snapshots x"},
		{"GetVolume", `{"name":"x","withSpace":true}`, "get x,snapshots x,space x"},
		{"ResizeVolume", `{"name":"x","sizeBytes":"281474976710656"}`, "resize x"},
		{"RenameVolume", `{"name":"x","newName":"y"}`, "rename x y"},
		{"DeleteVolume", `{"name":"x"}`, "delete x"},
		{"DeleteVolume", `{"name":"x","dryRun":true}`, "wouldfree x"},
		{"DeleteVolume", `{"name":"x","unusedSince":"2026-01-02T03:04:05Z"}`, "deleteunused x 2026-01-02T03:04:05Z"},
		{"DeleteVolume", `{"name":"x","dryRun":true,"also":["y","z"]}`, "wouldfree x y z"},
		{"CreateSnapshot", `{"volume":"x","snapshot":"s"}`, "snapshot x@s"},
		{"ListSnapshots", `{}`, "snapshots "},
		{"GetSnapshot", `{"volume":"x","snapshot":"s","withSpace":true}`, "getsnapshot x@s,space x@s"},
		{"DeleteSnapshot", `{"volume":"x","snapshot":"s"}`, "deletesnapshot x@s"},
		{"DeleteSnapshot", `{"volume":"x","snapshot":"s","dryRun":true}`, "wouldfree x@s"},
		{"RollbackVolume", `{"volume":"x","snapshot":"s"}`, "rollback x@s"},
		{"CloneSnapshot", `{"volume":"x","snapshot":"s","newVolume":"y"}`, "clone x@s y"},
		{"BeginImport", `{"volume":"x","snapshot":"s","sizeBytes":4096}`, "beginimport x@s"},
		{"FinishImport", `{"importId":"i"}`, "finishimport i"},
		{"AbortImport", `{"importId":"i"}`, "abortimport i"},
		{"Attach", `{"target":"x@s","worker":"w","readOnly":true,"takeover":true,"attachmentId":"a"}`, "attach x@s"},
		{"Detach", `{"attachmentId":"a"}`, "detach a"},
		{"ListAttachments", `{"target":"x","worker":"w"}`, "attachments x w"},
		{"GetStatus", `{}`, "status"},
	} {
		status, answer, _ := post(t, base, c.method, c.body)
		if calls := strings.Join(store.took(), ","); status != http.StatusOK || calls != c.want {
			t.Errorf("%s %s: %d %s; the store saw %q, want %q", c.method, c.body, status, answer, calls, c.want)
		}
	}
	if want := (volume.AttachRequest{Target: "x@s", Worker: "w", ReadOnly: true, Takeover: true, AttachmentID: "a"}); store.request != want {
		t.Errorf("attach got %+v, want %+v", store.request, want)
	}
}

func TestStatusTellsAFault(t *testing.T) {
	store := &fakeStore{status: volume.Status{FormatVersion: 1, Volumes: 3, FreeBytes: 9, Fault: errors.New("sync failed")}}
	resp, err := dial(t, serve(t, store, options())).GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	m := resp.Msg
	if m.GetVersion() != "1.2.3" || m.GetDataDir() != "/data" || m.GetVolumes() != 3 || m.GetFreeBytes() != 9 || !m.GetReadOnly() ||
		m.GetFault() != "sync failed" || !m.GetStarted().AsTime().Equal(started) {
		t.Errorf("status %v", m)
	}
}

// A panic ends one request, is logged with its cause, and tells the caller nothing of it.
func TestPanicIsAnInternalError(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	opts := options()
	opts.Log = zap.New(core)
	store := &fakeStore{boom: "secret"}
	c := dial(t, serve(t, store, opts))
	_, err := c.GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{}))
	if got := api.FromConnect(err); !block.Is(got, block.Internal) || strings.Contains(got.Error(), "secret") {
		t.Errorf("after a panic: %v", got)
	}
	if logs.FilterMessage("panic in a request").Len() != 1 {
		t.Errorf("the panic is not in the log: %v", logs.All())
	}
	store.boom = nil
	if _, err := c.GetStatus(t.Context(), connect.NewRequest(&slackerv1.GetStatusRequest{})); err != nil {
		t.Errorf("after the panic: %v", err)
	}
	if logs.FilterMessage("request").FilterLevelExact(zap.DebugLevel).Len() == 0 {
		t.Error("requests are not logged")
	}
}

// Progress is rate-limited, and the end of each piece of work is told in any case.
func TestCheckStreams(t *testing.T) {
	opts := options()
	var damage []apiserver.Damage
	for i := range 1001 {
		damage = append(damage, apiserver.Damage{Kind: "checksum", Object: fmt.Sprint(i), Detail: "d", Affected: []string{"x", "x@s"}})
	}
	opts.Checker = checkFunc(func(_ context.Context, data bool, progress func(uint64, uint64, string)) ([]apiserver.Damage, error) {
		if !data {
			return nil, errors.New("data was asked for")
		}
		for i := range uint64(1000) {
			progress(i, 1000, "blocks")
		}
		progress(1000, 1000, "blocks")
		return damage, nil
	})
	stream, err := dial(t, serve(t, &fakeStore{}, opts)).Check(t.Context(), connect.NewRequest(&slackerv1.CheckRequest{Data: true}))
	if err != nil {
		t.Fatal(err)
	}
	var done []uint64
	var objects []string
	finished := 0
	for stream.Receive() {
		m := stream.Msg()
		if m.GetTotal() > 0 {
			done = append(done, m.GetDone())
		}
		for _, d := range m.GetDamage() {
			objects = append(objects, d.GetObject())
		}
		if m.GetFinished() {
			finished++
		}
	}
	if err := errors.Join(stream.Err(), stream.Close()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(done, []uint64{0, 1000}) || finished != 1 || len(objects) != 1001 || objects[1000] != "1000" {
		t.Errorf("progress %v, finished %d times, %d damaged", done, finished, len(objects))
	}
}

func TestCollectStreams(t *testing.T) {
	opts := options()
	opts.Collector = collectFunc(func(_ context.Context, dryRun bool, progress func(string, uint64, uint64, string)) (uint64, []string, error) {
		progress("clean", 1, 1, "segments")
		return 4096, []string{fmt.Sprint("dry run ", dryRun)}, nil
	})
	stream, err := dial(t, serve(t, &fakeStore{}, opts)).CollectGarbage(t.Context(), connect.NewRequest(&slackerv1.CollectGarbageRequest{DryRun: true}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for stream.Receive() {
		m := stream.Msg()
		got = append(got, fmt.Sprintf("%s %s %d %v %v", m.GetStep(), m.GetUnit(), m.GetFreedBytes(), m.GetErrors(), m.GetFinished()))
	}
	if err := errors.Join(stream.Err(), stream.Close()); err != nil {
		t.Fatal(err)
	}
	want := []string{"clean segments 0 [] false", "  4096 [dry run true] true"}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// When the client goes away the work ends.
func TestCheckEndsWithItsClient(t *testing.T) {
	opts := options()
	ended := make(chan struct{})
	opts.Checker = checkFunc(func(ctx context.Context, _ bool, progress func(uint64, uint64, string)) ([]apiserver.Damage, error) {
		defer close(ended)
		progress(1, 1, "steps")
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := dial(t, serve(t, &fakeStore{}, opts)).Check(ctx, connect.NewRequest(&slackerv1.CheckRequest{}))
	if err != nil || !stream.Receive() {
		t.Fatalf("no first event: %v", err)
	}
	cancel()
	<-ended
	_ = stream.Close()
}

func TestOptionsAreCheckedTogether(t *testing.T) {
	_, err := apiserver.NewServer(nil, apiserver.Options{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"store", "checker", "collector", "logger", "start time"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not name the %s", err, want)
		}
	}
}
