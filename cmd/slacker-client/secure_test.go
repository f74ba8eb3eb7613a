package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/certs"
)

// asClient makes the test binary behave as slacker-client, so that attach and
// the agent it starts are real processes.
const asClient = "SLACKER_CLIENT_TEST_AS_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(asClient) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// patience bounds the wait for a process to do something.
const patience = 60 * time.Second

// secureServer is a slackerd that requires TLS, with certificates of its own
// for admin, worker and stranger. Of volume v the worker may write, the
// stranger nothing.
type secureServer struct {
	t        *testing.T
	dir, bin string
	nbd, api string // addresses; the same ones after a restart
	cmd      *exec.Cmd
	done     chan struct{}   // closed when it has ended
	said     strings.Builder // by the clients
	state    string          // the state directory of the worker, below dir
}

func newSecureServer(t *testing.T) *secureServer {
	t.Helper()
	s := &secureServer{t: t, dir: t.TempDir(), nbd: "tcp://127.0.0.1:0", api: "tcp://127.0.0.1:0", state: "state"}
	s.bin = filepath.Join(s.dir, "slackerd")
	if out, err := exec.Command("go", "build", "-o", s.bin, "github.com/slackerd/slacker/cmd/slackerd").CombinedOutput(); err != nil {
		t.Fatalf("build slackerd: %v\n%s", err, out)
	}
	_, err := certs.Init(s.dir, "authority", time.Hour)
	for _, r := range []certs.Request{{Name: "server", Hosts: []string{"127.0.0.1"}}, {Name: "admin"}, {Name: "worker"}, {Name: "stranger"}} {
		r.Valid = 10 * time.Minute
		_, ierr := certs.Issue(s.dir, r)
		err = errors.Join(err, ierr)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *secureServer) files(name string) certs.Files {
	return certs.Files{CA: filepath.Join(s.dir, "ca.crt"), Cert: filepath.Join(s.dir, name+".crt"), Key: filepath.Join(s.dir, name+".key")}
}

// start starts the server and waits until it serves.
func (s *secureServer) start() {
	s.t.Helper()
	f := s.files("server")
	s.cmd = exec.Command(s.bin, "serve", "--data-dir", filepath.Join(s.dir, "data"), "--nbd-listen", s.nbd, "--api-listen", s.api,
		"--tls-nbd", "require", "--tls-api", "require", "--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key)
	s.cmd.Env = append(os.Environ(), "SLACKER_ACCESS_RULES=cn=admin admin **,cn=worker write v,cn=stranger write w")
	stderr, err := s.cmd.StderrPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	ready := make(chan [2]string, 1)
	go func() {
		defer close(s.done)
		readLog(stderr, ready)
		_ = s.cmd.Wait() // it was killed
	}()
	select {
	case addrs := <-ready:
		s.nbd, s.api = addrs[0], addrs[1]
	case <-s.done:
		s.t.Fatal("the server ended before it served")
	case <-time.After(patience):
		s.t.Fatalf("the server does not serve after %v", patience)
	}
}

// readLog reads a server's log to its end and sends its addresses when it is
// ready.
func readLog(log io.Reader, ready chan<- [2]string) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct {
			Msg      string
			NBD, API []string
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			ready <- [2]string{line.NBD[0], line.API[0]}
		}
	}
}

func (s *secureServer) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
}

func (s *secureServer) admin() slackerv1connect.AdminServiceClient {
	s.t.Helper()
	c, err := api.NewTLSClient(s.api, s.files("admin").Client)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// client runs slacker-client as a process with the certificate of that name,
// or without TLS for "".
func (s *secureServer) client(name string, args ...string) (out string, status int) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	if name != "" {
		f := s.files(name)
		args = append(args, "--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key)
	}
	cmd := exec.Command(self, append(args, "--server", s.api, "--state-dir", filepath.Join(s.dir, s.state))...)
	cmd.Env = append(os.Environ(), asClient+"=1", "GORACE=atexit_sleep_ms=0")
	b, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		s.t.Fatal(err)
	}
	s.said.Write(b)
	return strings.TrimSpace(string(b)), cmd.ProcessState.ExitCode()
}

// noKeys: nothing of a key is in what the clients said, or in the files that
// they keep, logs among them.
func (s *secureServer) noKeys() {
	s.t.Helper()
	texts := map[string]string{"the output": s.said.String()}
	err := filepath.WalkDir(filepath.Join(s.dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasSuffix(path, ".fuse") {
			return fs.SkipDir // the volume itself
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		texts[path] = string(b)
		return err
	})
	if err != nil || len(texts) < 2 {
		s.t.Fatalf("read what clients keep: %d files, %v", len(texts)-1, err)
	}
	for _, name := range []string{"admin", "worker", "stranger"} {
		key, err := os.ReadFile(s.files(name).Key)
		if err != nil {
			s.t.Fatal(err)
		}
		for line := range strings.Lines(string(key)) {
			for where, text := range texts {
				if strings.Contains(text, strings.TrimSpace(line)) {
					s.t.Errorf("%s holds a line of the key of %s", where, name)
				}
			}
		}
	}
}

// must is client for what has to work for the worker.
func (s *secureServer) must(args ...string) string {
	s.t.Helper()
	out, status := s.client("worker", args...)
	if status != 0 {
		s.t.Fatalf("slacker-client %v: status %d: %s", args, status, out)
	}
	return out
}

func needFuse(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for mounts and loop devices")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			t.Skipf("needs FUSE and loop devices: %v", err)
		}
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skipf("needs mkfs.ext4 (Debian package e2fsprogs): %v", err)
	}
}

// writeSynced writes a file and waits until it is at the server.
func writeSynced(path string, data []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// TestAttachOverTLS attaches with a client certificate, kills the server,
// renews the certificate, writes while the server is away, and finds
// everything again.
func TestAttachOverTLS(t *testing.T) {
	needFuse(t)
	s := newSecureServer(t)
	if _, err := s.admin().CreateVolume(t.Context(), connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: "v", SizeBytes: 64 << 20})); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(s.dir, "mnt")
	attach := []string{"attach", "v", "--driver", "fuse", "--mkfs", "--mount", mnt}
	if out, status := s.client("stranger", attach...); status != 11 || !strings.Contains(out, `cn="stranger" may not write volume v`) {
		t.Fatalf("attach of somebody without rights: status %d: %s", status, out)
	}
	if out, status := s.client("", attach...); status == 0 {
		t.Fatalf("attach in plaintext: %s", out)
	}
	device := s.must(append(attach, "-v")...)
	if i := strings.LastIndexByte(device, '\n'); i >= 0 {
		device = device[i+1:] // behind the log
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, status := s.client("worker", "detach", "v", "--force")
			t.Logf("cleared: status %d: %s", status, out)
		}
	})
	before, during := make([]byte, 4<<20), make([]byte, 4<<20)
	rng := rand.NewChaCha8([32]byte{4})
	_, _ = rng.Read(before)
	_, _ = rng.Read(during)
	if err := writeSynced(filepath.Join(mnt, "before"), before); err != nil {
		t.Fatal(err)
	}
	s.kill()
	if _, err := certs.Issue(s.dir, certs.Request{Name: "worker", Valid: 10 * time.Minute, Renew: true}); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() { written <- writeSynced(filepath.Join(mnt, "during"), during) }() // cannot end before the server is back
	s.start()
	select {
	case err := <-written:
		if err != nil {
			t.Fatalf("write across a restart: %v", err)
		}
	case <-time.After(patience):
		t.Fatalf("a write across a restart hangs for %v", patience)
	}
	s.noKeys()
	s.must("detach", device)
	if _, err := os.Stat(mnt); !os.IsNotExist(err) {
		t.Errorf("the mount directory that attach made is still there: %v", err)
	}
	s.verify(map[string][]byte{"before": before, "during": during})
}

// verify attaches read-only, compares files, detaches, and looks for what may
// be left on either side.
func (s *secureServer) verify(files map[string][]byte) {
	s.t.Helper()
	mnt := filepath.Join(s.dir, "mnt")
	s.must("attach", "v", "--driver", "fuse", "--read-only", "--mount", mnt)
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(mnt, name)); err != nil || !bytes.Equal(got, want) {
			s.t.Errorf("after detach and attach the file %s differs: %v", name, err)
		}
	}
	s.must("detach", "v")
	if out := s.must("list", "--json"); out != "[]" {
		s.t.Errorf("the list is not empty: %s", out)
	}
	at, err := s.admin().ListAttachments(s.t.Context(), connect.NewRequest(&slackerv1.ListAttachmentsRequest{}))
	if err != nil || len(at.Msg.GetAttachments()) != 0 {
		s.t.Errorf("attachments at the server: %v, %v", at, err)
	}
}
