package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/spf13/pflag"
)

// load loads a file with that text, if any, and flags.
func load(t *testing.T, text string, args ...string) (*Loaded, error) {
	t.Helper()
	file := ""
	if text != "" {
		file = filepath.Join(t.TempDir(), "slackerd.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(file, flags)
}

func TestTemplateLoadsToTheDefaults(t *testing.T) {
	l, err := load(t, Template())
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(l.Config, want) {
		t.Errorf("the template loads to\n%+v\nwant\n%+v", l.Config, want)
	}
	for _, v := range l.Values {
		if !strings.HasPrefix(string(v.Source), "file ") {
			t.Errorf("%s came from %s: the template does not hold it", v.Key, v.Source)
		}
	}
}

func TestEverySettingIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings {
		section, _, _ := strings.Cut(s.key, ".")
		if sections[section] == "" {
			t.Errorf("%s: its section is not documented", s.key)
		}
		if s.doc == "" || s.want == "" || seen[s.key] || (s.flag != "" && seen["--"+s.flag]) {
			t.Errorf("%s: no text, or the key or the flag is there twice", s.key)
		}
		seen[s.key], seen["--"+s.flag] = true, true
		var c, zero Config
		if err := s.put(&c, []string{"\x00nonsense"}); err == nil {
			t.Errorf("%s takes nonsense", s.key)
		}
		if !reflect.DeepEqual(c, zero) {
			t.Errorf("%s changed the configuration although it refused", s.key)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := "server:\n  data_dir: /file\nlog:\n  level: warn\n  format: console\nnbd:\n  max_connections: 7\n"
	t.Setenv("SLACKER_SERVER_DATA_DIR", "/env")
	t.Setenv("SLACKER_LOG_LEVEL", "error")
	t.Setenv("SLACKER_SERVER_NBD_LISTEN", "unix:///a, unix:///b")
	l, err := load(t, file, "--data-dir", "/flag", "--api-listen", "unix:///c", "--api-listen", "tcp://[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Server.DataDir, want.Log.Level, want.Log.Format, want.NBD.MaxConnections = "/flag", "error", "console", 7
	want.Server.NBDListen = []Address{{"unix", "/a"}, {"unix", "/b"}}
	want.Server.APIListen = []Address{{"unix", "/c"}, {"tcp", "[::1]:0"}}
	if !reflect.DeepEqual(l.Config, want) {
		t.Errorf("got\n%+v\nwant\n%+v", l.Config, want)
	}
	for key, source := range map[string]Source{"server.data_dir": "flag --data-dir", "log.level": "environment SLACKER_LOG_LEVEL", "gc.interval": "default"} {
		if got := l.source(key); got != source {
			t.Errorf("%s came from %q, want %q", key, got, source)
		}
	}
}

// withTLS are the flags of certificates, before others.
func withTLS(args ...string) []string {
	return append([]string{"--tls-ca", "/a", "--tls-cert", "/b", "--tls-key", "/c"}, args...)
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		env  [2]string
		args []string
		want []string // parts of the lines, in order
	}{
		"unknown key":         {file: "store:\n  segment_sise: 1MiB\n", want: []string{"store.segment_sise (file F): there is no such key: did you mean store.segment_size?"}},
		"unknown section":     {file: "cache:\n  size: 1\n", want: []string{"cache.size (file F): there is no such key"}},
		"plain section":       {file: "server: 5\n", want: []string{"server (file F): want a section"}},
		"unknown variable":    {env: [2]string{"SLACKER_SERVER_DATADIR", "/x"}, want: []string{"SLACKER_SERVER_DATADIR (environment): there is no such setting: did you mean SLACKER_SERVER_DATA_DIR?"}},
		"variable":            {env: [2]string{"SLACKER_LOG_FORMAT", "xml"}, want: []string{`log.format (environment SLACKER_LOG_FORMAT): want one of json, console, got "xml"`}},
		"relative data dir":   {args: []string{"--data-dir", "x"}, want: []string{`server.data_dir (flag --data-dir): want an absolute path, got "x"`}},
		"size without number": {file: "store: {segment_size: MiB}", want: []string{`store.segment_size (file F): want a size from 16MiB to 4GiB, a multiple of 1MiB, got "MiB"`}},
		"size overflows":      {file: "store: {map_cache_size: 9223372036854775807TiB}", want: []string{"store.map_cache_size"}},
		"size negative":       {file: "store: {map_cache_size: -8MiB}", want: []string{"store.map_cache_size"}},
		"size not a multiple": {file: "store: {segment_size: 16777217}", want: []string{"store.segment_size"}},
		"list for one":        {file: "log: {level: [info, warn]}", want: []string{`log.level (file F): want one of debug, info, warn, error, got ["info", "warn"]`}},
		"section for one":     {file: "log: {level: {a: b}}", want: []string{"log.level.a (file F): there is no such key", "log.level (file F)"}},
		"duration":            {args: []string{"--shutdown-timeout", "20"}, want: []string{"server.shutdown_timeout (flag --shutdown-timeout)"}},
		"no address":          {file: "server: {nbd_listen: []}", want: []string{"server.nbd_listen (file F): want one or more of tcp://HOST:PORT and unix:///PATH, got []"}},
		"address scheme":      {args: []string{"--nbd-listen", "127.0.0.1:1"}, want: []string{`address "127.0.0.1:1": it has no tcp:// or unix:// in front`}},
		"address port":        {args: []string{"--nbd-listen", "tcp://127.0.0.1:99999"}, want: []string{"the port is no number"}},
		"address path":        {args: []string{"--nbd-listen", "unix://x"}, want: []string{"the path is not absolute"}},
		"long path":           {args: []string{"--nbd-listen", "unix:///" + strings.Repeat("x", 107)}, want: []string{"longer than 107"}},
		"twice":               {args: []string{"--nbd-listen", "unix:///x", "--nbd-listen", "unix:///x"}, want: []string{`"unix:///x" is there twice`}},
		"open to all":         {args: []string{"--nbd-listen", "tcp://:1"}, want: []string{"server.nbd_listen (flag --nbd-listen): want an address of the loopback interface"}},
		"in both":             {args: []string{"--nbd-listen", "unix:///x", "--api-listen", "unix:///x"}, want: []string{"server.api_listen (flag --api-listen): want another address than server.nbd_listen"}},
		"limits disagree": {file: "nbd: {max_in_flight_bytes: 32MiB, max_total_bytes: 16MiB}", want: []string{
			"nbd.max_in_flight_bytes (file F): want at least twice nbd.max_request", "nbd.max_total_bytes (file F)"}},
		"TLS word":          {args: []string{"--tls-api", "allow"}, want: []string{`tls.api (flag --tls-api): want one of off, require, got "allow"`}},
		"TLS file":          {args: []string{"--tls-key", "server.key"}, want: []string{`tls.key_file (flag --tls-key): want an absolute path, or nothing without TLS, got "server.key"`}},
		"TLS without files": {args: []string{"--tls-nbd", "require"}, want: []string{"tls.cert_file (default): want tls.ca_file, tls.cert_file and tls.key_file with TLS"}},
		"TLS with half":     {args: []string{"--tls-api", "require", "--tls-ca", "/a", "--tls-cert", "/b"}, want: []string{`tls.cert_file (flag --tls-cert): want tls.ca_file`}},
		"TLS is a choice":   {args: withTLS("--tls-nbd", "allow", "--nbd-listen", "tcp://:1"), want: []string{"server.nbd_listen (flag --nbd-listen): want an address of the loopback interface, since plaintext is accepted there"}},
		"TLS of the other":  {args: withTLS("--tls-nbd", "require", "--api-listen", "tcp://:1"), want: []string{"server.api_listen (flag --api-listen): want an address of the loopback interface"}},
		"rule":              {env: [2]string{"SLACKER_ACCESS_RULES", "cn=a admin **,cn=b reed x"}, want: []string{`access.rules (environment SLACKER_ACCESS_RULES): `}},
		"all at once": {file: "log: {level: loud}\nx: 1\n", env: [2]string{"SLACKER_X", "1"}, args: []string{"--data-dir", "."}, want: []string{
			"x (file F)", "SLACKER_X", "server.data_dir", "log.level"}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			_, err := load(t, c.file, c.args...)
			if !block.Is(err, block.Invalid) {
				t.Fatalf("got %v, want an error of kind invalid", err)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(c.want) {
				t.Fatalf("got %d faults, want %d:\n%v", len(lines), len(c.want), err)
			}
			for i, want := range c.want {
				before, after, inFile := strings.Cut(want, "(file F)")
				if !strings.Contains(lines[i], before) || !strings.Contains(lines[i], after) || inFile && !strings.Contains(lines[i], "(file /") {
					t.Errorf("got  %s\nwant %s", lines[i], want)
				}
			}
		})
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		path string
		kind block.Kind
	}{
		"missing":    {filepath.Join(dir, "none.yaml"), block.NotFound},
		"directory":  {dir, block.Invalid},
		"not yaml":   {write(t, dir, "a: [b"), block.Invalid},
		"same twice": {write(t, dir, "log:\n  level: info\n  level: warn\n"), block.Invalid},
		"a list":     {write(t, dir, "- a\n"), block.Invalid},
	} {
		_, err := Load(c.path, nil)
		if !block.Is(err, c.kind) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: got %v, want one line of kind %v that names the file", name, err, c.kind)
		}
	}
}

func write(t *testing.T, dir, text string) string {
	f, err := os.CreateTemp(dir, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestTLSPermitsOpenAddresses(t *testing.T) {
	if _, err := load(t, "", withTLS("--tls-nbd", "require", "--tls-api", "require", "--nbd-listen", "tcp://:1", "--api-listen", "tcp://:2")...); err != nil {
		t.Error(err)
	}
}

func TestInsecureAddressCanBeAllowed(t *testing.T) {
	l, err := load(t, "", "--allow-insecure-listen", "--nbd-listen", "tcp://0.0.0.0:10809")
	if err != nil || l.Server.NBDListen[0].String() != "tcp://0.0.0.0:10809" {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "5": 5, "5B": 5, "1KiB": 1024, "3 MiB": 3 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"tcp://127.0.0.1:10809", "tcp://[::1]:0", "unix:///run/x", "tcp://:1", "://", "unix://", "tcp://a@b:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if b, err := ParseAddress(a.String()); err != nil || a != b {
			t.Errorf("%q parses to %v, which parses to %v, %v", s, a, b, err)
		}
	})
}

func TestDurationsOfDefaults(t *testing.T) {
	if d := Default(); d.Server.ShutdownTimeout != 20*time.Second || d.GC.Interval != time.Minute {
		t.Errorf("got %v and %v", d.Server.ShutdownTimeout, d.GC.Interval)
	}
}
