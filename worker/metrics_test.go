package worker

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/slackerd/slacker/cmd/shown"
	"github.com/slackerd/slacker/fusefile"
	"github.com/slackerd/slacker/latency"
)

// TestMetrics: a mounted volume's operations, connections and process are in the
// metrics, which are those of the documentation.
func TestMetrics(t *testing.T) {
	needFuse(t)
	f := newFakeServer(t, map[string]uint64{"v": testVolumeBytes})
	w := testWorker(t, testConfig(t, f))
	dir := filepath.Join(t.TempDir(), "m")
	_, err := w.Attach(t.Context(), "v", fuseOptions(dir))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 100<<10), 0o600))
	must(t, syncDir(dir))
	wants := []string{`slacker_worker_attachments{driver="fuse"} 1`, `slacker_worker_attachments{driver="nbd"} 0`, `slacker_worker_attachment_up{target="v"} 1`,
		`slacker_worker_connections{target="v"} 4`, `slacker_worker_reconnections_total{target="v"} 0`, `slacker_worker_operation_errors_total{target="v",operation="write"} 0`,
		`slacker_worker_operation_seconds_bucket{target="v",operation="write",le="+Inf"} `, `slacker_worker_operation_seconds_count{target="v",operation="flush"} `}
	var text string
	missing := ""
	// The agent writes them down once a second.
	err = awaitFor(t.Context(), time.Minute, func() (bool, error) {
		b, err := w.Metrics()
		text = string(b)
		for _, want := range wants {
			if missing = want; !strings.Contains(text, want) {
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		t.Errorf("never there: %s: %v\n%s", missing, err, text)
	}
	shown.Metrics(t, "../docs/METRICS.md", text, "slacker_worker_")
	_, err = w.Detach(t.Context(), "v", false)
	must(t, err)
}

// TestDeviceMetrics: of an nbd device there is what the kernel counts of it, and
// Prometheus reads the text.
func TestDeviceMetrics(t *testing.T) {
	d := nbdDriver{store: store{t.TempDir()}, sysfs: t.TempDir()}
	must(t, d.store.save(&state{Version: stateVersion, Target: "v", Driver: driverNBD, AttachmentID: "att"}))
	must(t, d.store.save(&state{Version: stateVersion, Target: "old", Driver: driverNBD, AttachmentID: "att3"}))
	must(t, d.store.save(&state{Version: stateVersion, Target: "gone", Driver: driverNBD, AttachmentID: "att9"}))
	for device, files := range map[string]map[string]string{
		"nbd3": {"backend": "att\n", "pid": "9\n", "stat": "   10   1  24  1500  4  0  8  70  2  100  1600  3  0  2048  5  6  700\n"},
		"nbd4": {"backend": "att3\n", "pid": "9\n", "stat": "1 0 2 3 0 0 0 0 0 0 0\n"}, // of a kernel that counts reads and writes only
	} {
		must(t, os.MkdirAll(d.sys("block", device), 0o755))
		for name, text := range files {
			must(t, os.WriteFile(d.sys("block", device, name), []byte(text), 0o600))
		}
	}
	text, err := d.metrics()
	must(t, err)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	must(t, err)
	got := map[string]float64{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[strings.TrimPrefix(name, "slacker_worker_")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			name = f.GetName()
		}
	}
	want := map[string]float64{"attachments fuse": 0, "attachments nbd": 3, "unreadable_attachments": 0, "attachment_up v": 0, "attachment_up old": 0, "attachment_up gone": 0,
		"device_operations_total v nbd3 read": 10, "device_bytes_total v nbd3 read": 24 * 512, "device_seconds_total v nbd3 read": 1.5,
		"device_operations_total v nbd3 write": 4, "device_bytes_total v nbd3 write": 8 * 512, "device_seconds_total v nbd3 write": 0.07,
		"device_operations_total v nbd3 discard": 3, "device_bytes_total v nbd3 discard": 1 << 20, "device_seconds_total v nbd3 discard": 0.005,
		"device_operations_total v nbd3 flush": 6, "device_bytes_total v nbd3 flush": 0, "device_seconds_total v nbd3 flush": 0.7,
		"device_operations_total old nbd4 read": 1, "device_bytes_total old nbd4 read": 1024, "device_seconds_total old nbd4 read": 0.003,
		"device_operations_total old nbd4 write": 0, "device_bytes_total old nbd4 write": 0, "device_seconds_total old nbd4 write": 0,
		"device_in_flight v nbd3": 2, "device_in_flight old nbd4": 0}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func syncDir(dir string) error {
	f, err := os.Open(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	return joinLine(f.Sync(), f.Close())
}

// TestMetricText: labels are escaped, and buckets add up.
func TestMetricText(t *testing.T) {
	var p metricText
	p.line("x", 1.5, "a", "q\"\\\n", "b", "2")
	p.line("y", 1e6)
	if got, want := p.String(), "x{a=\"q\\\"\\\\\\n\",b=\"2\"} 1.5\ny 1e+06\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	a := &attachedFigures{state: &state{Target: "v"}, figures: figures{Operations: []fusefile.Operation{{Name: "read"}, {Name: "write"}}}}
	o := &a.Operations[1].Took
	o.Buckets[0], o.Buckets[len(latency.Bounds)], o.Sum = 3, 2, 90*time.Second // of 10 us, and of longer than all
	p.Reset()
	operationTimes(&p, "t", a)
	for _, want := range []string{`le="0.0001"} 3`, `le="10"} 3`, `le="+Inf"} 5`, `t_sum{target="v",operation="write"} 90`, `t_count{target="v",operation="write"} 5`} {
		if !strings.Contains(p.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, p.String())
		}
	}
	if strings.Contains(p.String(), "read") {
		t.Errorf("an operation that was not used is there:\n%s", p.String())
	}
}
