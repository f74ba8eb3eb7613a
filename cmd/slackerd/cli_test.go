package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestBadInput(t *testing.T) {
	dir := shortDir(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "")
	for name, c := range map[string]struct {
		args   []string
		status int
		want   []string // one per line
	}{
		"command":         {[]string{"sevre"}, 2, []string{`unexpected argument "sevre": did you mean serve?`}},
		"argument":        {[]string{"serve", "now"}, 2, []string{`unexpected argument "now"`}},
		"flag":            {[]string{"serve", "--data"}, 2, []string{"unknown flag: --data"}},
		"no file":         {[]string{"serve", "--config", dir + "/none"}, 3, []string{"configuration file: stat " + dir + "/none: no such file"}},
		"bad file":        {[]string{"serve", "--config", write("bad.yaml", "a: b: c")}, 2, []string{"bad.yaml: want YAML"}},
		"bad key":         {[]string{"config", "check", "--config", write("key.yaml", "log: {levle: info}")}, 2, []string{"configuration: log.levle (file " + dir + "/key.yaml): there is no such key: did you mean log.level?"}},
		"two faults":      {[]string{"serve", "--data-dir", "x", "--log-level", "loud"}, 2, []string{`configuration: server.data_dir (flag --data-dir): want an absolute path, got "x"`, "configuration: log.level (flag --log-level)"}},
		"open to all":     {[]string{"serve", "--nbd-listen", "tcp://0.0.0.0:0"}, 2, []string{"--allow-insecure-listen"}},
		"data dir a file": {serveArgs(plain), 9, []string{"open store: make " + plain}},
		"socket a file":   {append(serveArgs(filepath.Join(dir, "d1")), "--nbd-listen", "unix://"+plain), 4, []string{"there is a file that is no socket"}},
		"no socket dir":   {append(serveArgs(filepath.Join(dir, "d2")), "--api-listen", "unix://"+dir+"/no/x"), 3, []string{"there is no such directory"}},
		"check nothing":   {[]string{"check", "--data-dir", dir}, 3, []string{"check " + dir + ": want the data directory of a store"}},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, status := runCommand(t, c.args...)
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			var said []string
			for _, l := range lines {
				if !strings.HasPrefix(l, "{") { // the log of what began
					said = append(said, l)
				}
			}
			if status != c.status || len(said) != len(c.want) || stdout != "" {
				t.Fatalf("status %d, want %d; want %d lines, got:\n%s%s", status, c.status, len(c.want), stdout, stderr)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(said[i], "slackerd: ") || !strings.Contains(said[i], want) {
					t.Errorf("got  %s\nwant %s", said[i], want)
				}
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "map")); err == nil {
		t.Error("check made a store")
	}
}

func TestConfigDefaultIsAccepted(t *testing.T) {
	file, stderr, status := runCommand(t, "config", "default")
	if status != 0 {
		t.Fatalf("status %d: %s", status, stderr)
	}
	path := filepath.Join(t.TempDir(), "slackerd.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	table, stderr, status := runCommand(t, "config", "check", "--config", path)
	if status != 0 || !strings.Contains(table, "server.data_dir") || strings.Contains(table, " default\n") {
		t.Errorf("status %d: %s\n%s", status, stderr, table)
	}
}

func TestOfflineCheck(t *testing.T) {
	dir := shortDir(t)
	p := startServer(t, command(t, serveArgs(dir)...))
	p.create("v")
	if _, stderr, status := runCommand(t, "check", "--data-dir", dir); status != 5 || !strings.Contains(stderr, "slackerctl check") {
		t.Errorf("check beside a server: status %d, %s", status, stderr)
	}
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	if stdout, stderr, status := runCommand(t, "check", "--data-dir", dir, "--data"); status != 0 || stdout != "no damage found\n" {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	stdout, stderr, status := runCommand(t, "check", "--data-dir", dir, "--json")
	var damages []damageJSON
	if err := json.Unmarshal([]byte(stdout), &damages); err != nil || status != 0 || damages == nil || len(damages) != 0 {
		t.Errorf("status %d, %v, %s%s", status, err, stdout, stderr)
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	dir := t.TempDir()
	if _, stderr, status := runCommand(t, "man", dir); status != 0 {
		t.Fatalf("man: status %d: %s", status, stderr)
	}
	for _, args := range [][]string{{}, {"serve"}, {"config"}, {"config", "default"}, {"config", "check"}, {"check"}, {"version"}} {
		stdout, stderr, status := runCommand(t, append(args, "--help")...)
		if status != 0 || len(stdout) < 200 && len(args) > 0 && args[0] != "version" {
			t.Errorf("%v --help: status %d: %s%s", args, status, stdout, stderr)
		}
		page := filepath.Join(dir, strings.Join(append([]string{"slackerd"}, args...), "-")+".8")
		if _, err := os.Stat(page); err != nil {
			t.Errorf("no manual page of slackerd %v: %v", args, err)
		}
	}
	if stdout, _, status := runCommand(t, "version"); status != 0 || !strings.HasPrefix(stdout, "slackerd ") {
		t.Errorf("version: status %d, %q", status, stdout)
	}
	if stdout, _, status := runCommand(t, "completion", "bash"); status != 0 || !strings.Contains(stdout, "slackerd") {
		t.Errorf("completion: status %d", status)
	}
}
