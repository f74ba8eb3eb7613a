package main

import (
	"bytes"
	"encoding/json"
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
	root.SetArgs(append([]string{"--state-dir", filepath.Join(t.TempDir(), "state"), "--server", "http://127.0.0.1:1"}, args...))
	err := root.ExecuteContext(t.Context())
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), api.ExitStatus(err)
}

func TestExitStatuses(t *testing.T) {
	for _, c := range []struct {
		status int
		text   string // in the error
		args   []string
	}{
		{2, "unknown flag", []string{"attach", "--nope"}},
		{2, "takes 1 arguments", []string{"attach"}},
		{2, "takes 0 arguments", []string{"list", "x"}},
		{2, "volume name", []string{"attach", "a b"}},
		{2, "want auto, nbd or fuse", []string{"attach", "v", "--driver", "x"}},
		{2, "want http://", []string{"list", "--server", "ftp://x"}},
		{2, "not an absolute path", []string{"list", "--state-dir", "x"}},
		{2, "invalid argument", []string{"attach", "v", "--connections", "many"}},
		{2, "did you mean", []string{"atach", "v"}},
		{2, "targets or --all", []string{"restart"}},
		{3, "not attached here", []string{"restart", "v"}},
		{13, "127.0.0.1:1", []string{"attach", "v", "--driver", "fuse"}},
		{3, "no volume that is attached", []string{"detach", "/nonexistent/dir"}},
	} {
		_, stderr, status := run(t, c.args...)
		if status != c.status || !strings.Contains(strings.ToLower(stderr), c.text) {
			t.Errorf("%v: status %d, %q; want %d and %q", c.args, status, stderr, c.status, c.text)
		}
		if strings.Contains(strings.TrimSpace(stderr), "\n") {
			t.Errorf("%v: error of several lines: %q", c.args, stderr)
		}
	}
}

func TestListPrintsJSON(t *testing.T) {
	stdout, stderr, status := run(t, "list", "--json")
	var rows []any
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || status != 0 || len(rows) != 0 {
		t.Fatalf("%q, %q, status %d: %v", stdout, stderr, status, err)
	}
}

func TestHelpManAndCompletion(t *testing.T) {
	stdout, _, status := run(t, "--help")
	if status != 0 || !strings.Contains(stdout, api.ExitStatusHelp) || strings.Contains(stdout, "fuse-daemon") {
		t.Fatalf("help: %q", stdout)
	}
	dir := t.TempDir()
	if _, stderr, status := run(t, "man", dir); status != 0 {
		t.Fatalf("man: %s", stderr)
	}
	for _, page := range []string{"slacker-client.8", "slacker-client-attach.8", "slacker-client-detach.8", "slacker-client-list.8"} {
		b, err := os.ReadFile(filepath.Join(dir, page))
		if err != nil || !bytes.Contains(b, []byte(".SH")) {
			t.Errorf("man page %s: %v", page, err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if stdout, _, status := run(t, "completion", shell); status != 0 || !strings.Contains(stdout, "slacker-client") {
			t.Errorf("completion of %s: status %d", shell, status)
		}
	}
	if stdout, _, status := run(t, "version", "--json"); status != 0 || !strings.Contains(stdout, `"version"`) {
		t.Errorf("version: %q", stdout)
	}
}
