package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slackerd/slacker/api"
)

// run runs the command line and returns what it prints and its exit status.
func run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	root := newRoot()
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), api.ExitStatus(err)
}

func TestExitStatuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: without it every command is refused")
	}
	dir := t.TempDir()
	client := filepath.Join(dir, "slacker-client")
	if err := os.WriteFile(client, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("unix", filepath.Join(dir, "taken.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, c := range []struct {
		status int
		text   string // in the error
		args   []string
	}{
		{2, "unknown flag", []string{"--nope"}},
		{2, "takes no arguments", []string{"x"}},
		{2, "log level", []string{"--log-level", "loud"}},
		{2, "want a number and a unit", []string{"--size", "big"}},
		{2, "multiple of 1 mib", []string{"--size", "1MiB"}},
		{2, "prefix", []string{"--prefix", "a b"}},
		{2, "want an absolute path", []string{"--root", filepath.Join(dir, "a b")}},
		{2, "want http://", []string{"--server", "ftp://x"}},
		{2, "import takes 1 argument", []string{"import"}},
		{3, "nothing-there", []string{"import", filepath.Join(dir, "nothing-there")}},
		{2, "want a container image", []string{"import", client, "--format", "raw"}},
		{5, "another process serves", []string{"--listen", taken.Addr().String()}},
	} {
		args := c.args
		if c.args[0] != "import" {
			args = append([]string{"--client", client, "--root", filepath.Join(dir, "root"), "--state-dir", filepath.Join(dir, "state"), "--server", "http://127.0.0.1:1"}, args...)
		}
		_, stderr, status := run(t, args...)
		if status != c.status || !strings.Contains(strings.ToLower(stderr), c.text) {
			t.Errorf("%v: status %d, %q; want %d and %q", c.args, status, stderr, c.status, c.text)
		}
	}
}

func TestHelpManAndCompletion(t *testing.T) {
	stdout, _, status := run(t, "--help")
	if status != 0 || !strings.Contains(stdout, api.ExitStatusHelp) || !strings.Contains(stdout, "proxy_plugins") {
		t.Errorf("help: %q", stdout)
	}
	dir := t.TempDir()
	if _, stderr, status := run(t, "man", dir); status != 0 {
		t.Fatalf("man: %s", stderr)
	}
	for _, page := range []string{"slacker-snapshotter.8", "slacker-snapshotter-import.8"} {
		if b, err := os.ReadFile(filepath.Join(dir, page)); err != nil || !bytes.Contains(b, []byte(".SH")) {
			t.Errorf("man page %s: %v", page, err)
		}
	}
	if stdout, _, status := run(t, "completion", "bash"); status != 0 || !strings.Contains(stdout, "slacker-snapshotter") {
		t.Errorf("completion: status %d", status)
	}
	if stdout, stderr, status := run(t, "version"); status != 0 || !strings.Contains(stdout+stderr, "slacker-snapshotter dev") {
		t.Errorf("version: %q", stdout)
	}
}
