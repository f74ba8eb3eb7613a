package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
)

func testApp() (a *app, stdout, stderr *bytes.Buffer) {
	a = newApp()
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	a.stdin, a.stdout, a.stderr = strings.NewReader(""), stdout, stderr
	a.getenv = func(string) string { return "" }
	a.terminal = func(any) bool { return false }
	return a, stdout, stderr
}

// Every command explains itself, with examples and exit statuses.
func TestHelpOfEveryCommand(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		a, stdout, stderr := testApp()
		if status := a.run(context.Background(), args); status != 0 {
			t.Errorf("%q: exit status %d: %s", args, status, stderr)
		}
		help := stdout.String()
		if c.Short == "" || c.Long == "" || !strings.Contains(c.Example, "slackerctl") || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: want Short without a full stop, Long and Example", c.CommandPath())
		}
		for _, want := range []string{c.Long, c.Example, "Usage:", "EXIT STATUS", api.ExitStatusHelp, "--json"} {
			if !strings.Contains(help, want) {
				t.Errorf("the help of %s lacks %q", c.CommandPath(), want)
			}
		}
		for _, l := range strings.Split(c.Long, "\n") {
			if len(l) > 88 {
				t.Errorf("%s: a line of %d letters: %q", c.CommandPath(), len(l), l)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	a, _, _ := testApp()
	walk(a.root())
}

func TestManualPages(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man1")
	a, _, stderr := testApp()
	if status := a.run(context.Background(), []string{"man", dir}); status != 0 {
		t.Fatalf("exit status %d: %s", status, stderr)
	}
	for _, c := range commands(a.root()) {
		b, err := os.ReadFile(filepath.Join(dir, manName(c)+".1"))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range []string{".TH ", ".SH NAME\n", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH EXAMPLES", ".SH EXIT STATUS", `\-\-server`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s lacks %q", manName(c), want)
			}
		}
	}
	if got := roff(".x\n'y\n-\\"); got != "\\&.x\n\\&'y\n\\-\\e" {
		t.Errorf("roff: %q", got)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{
		"4096": 4096, "4KiB": 4096, "4 kib": 4096, "4Ki": 4096, "10GiB": 10 << 30, "1.5TiB": 3 << 39, "0.5MiB": 1 << 19,
		"256TiB": 1 << 48, "512MB": 512e6, "4.096kB": 4096, "512k": 512000, "0.000000000372529029846191406250TiB": 0,
		"281474976710656B": 1 << 48,
	} {
		got, err := parseSize("x", s)
		if want == 0 {
			if !block.Is(err, block.Invalid) {
				t.Errorf("%q: %d, %v, want it refused", s, got, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"": "1024s", "GiB": "1024s", "10QiB": "1024s", "-1GiB": "1024s", "1e9": "1024s", "1.2.3GiB": "1024s", "0x10": "1024s", "1/2GiB": "1024s",
		"1GiB2": "1024s", "0": "4KiB to 256TiB", "257TiB": "4KiB to 256TiB", "18446744073709551616": "4KiB to 256TiB",
		"5000": "the next is 8192", "10GB": "10GiB is a power of two", "4G": "4GiB is a power of two", "4096.5": "the next is 8192",
		strings.Repeat("9", 100): "1024s", "NaN": "1024s", "Inf": "1024s", "1,000MB": "1024s",
	} {
		if got, err := parseSize("x", s); !block.Is(err, block.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v, want a text with %q", s, got, err, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10GiB", "1.5 TB", "", "9999999999999999999999", "4096", "0.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize("x", s)
		if err == nil && (n == 0 || n%block.Size != 0 || n > block.MaxVolumeBytes) {
			t.Errorf("%q: %d is no size of a volume", s, n)
		}
	})
}

// On a terminal progress is a bar, which is gone at the end.
func TestProgressBar(t *testing.T) {
	a, stdout, stderr := testApp()
	a.terminal = func(any) bool { return true }
	p := a.newProgress()
	p.bytes("unpack", 1, 0)
	p.bytes("write", 0, 100)
	p.bytes("write", 300, 200)
	p.bytes("write", 1<<63, 1<<63+1)
	p.finish()
	p.finish()
	if !strings.Contains(stderr.String(), "write") || !strings.Contains(stderr.String(), "\r") || stdout.Len() > 0 {
		t.Errorf("stderr %q, stdout %q", stderr, stdout)
	}
}
