package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/slackerd/slacker/block"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Source is where a value came from, for people: "flag --data-dir",
// "environment SLACKER_LOG_LEVEL", "file /etc/x.yaml" or "default".
type Source string

// Loaded is a configuration and where each of its values came from.
type Loaded struct {
	Config
	Values []Value
}

// Value is one setting as it was found.
type Value struct {
	Key    string
	Text   string
	Source Source
}

// Faults are all faults of a configuration. As an error its text has one line
// per fault.
type Faults []Fault

// Fault is one of them.
type Fault struct {
	Key    string
	Source Source
	Text   string // what was wanted and what was there
}

func (f Fault) String() string { return fmt.Sprintf("%s (%s): %s", f.Key, f.Source, f.Text) }

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the error its kind.
func (fs Faults) Unwrap() error { return &block.Error{Kind: block.Invalid, Text: fs.Error()} }

// AddFlags defines the flags that set settings.
func AddFlags(flags *pflag.FlagSet) {
	for i := range settings {
		s := &settings[i]
		usage := strings.ReplaceAll(s.doc, "\n", " ")
		switch {
		case s.flag == "":
		case s.list:
			flags.StringArray(s.flag, s.def, usage+" May be repeated.")
		case s.want == "true or false":
			flags.Bool(s.flag, s.def[0] == "true", usage)
		default:
			flags.String(s.flag, s.def[0], usage)
		}
	}
}

// Load reads the configuration from the flags, which may be nil, the process's
// environment and the file, whose name may be empty. An error is either
// [Faults] or says that the file cannot be read.
func Load(file string, flags *pflag.FlagSet) (*Loaded, error) {
	v := viper.New()
	var faults Faults
	if file != "" {
		if err := readFile(v, file); err != nil {
			return nil, err
		}
		faults = unknownKeys(v, file)
	}
	faults = append(faults, unknownEnv(os.Environ())...)
	l := &Loaded{Config: defaults()}
	for i := range settings {
		s := &settings[i]
		if err := v.BindEnv(s.key, s.env()); err != nil {
			return nil, block.Errorf(block.Internal, "bind %s: %w", s.env(), err)
		}
		values, source, err := s.find(v, flags, file)
		if err == nil {
			err = s.put(&l.Config, values)
		}
		if err != nil {
			faults = append(faults, Fault{s.key, source, s.complain(values, err)})
		}
		l.Values = append(l.Values, Value{s.key, strings.Join(values, ","), source})
	}
	faults = append(faults, l.checkTogether()...)
	if len(faults) > 0 {
		return nil, faults
	}
	return l, nil
}

func (s *setting) complain(values []string, err error) string {
	text := fmt.Sprintf("want %s, got %s", s.want, show(values, s.list))
	if !errors.Is(err, errValue) {
		text += ": " + err.Error()
	}
	return text
}

func readFile(v *viper.Viper, file string) error {
	info, err := os.Stat(file)
	if err != nil {
		kind := block.IO
		if errors.Is(err, fs.ErrNotExist) {
			kind = block.NotFound
		} else if errors.Is(err, fs.ErrPermission) {
			kind = block.Permission
		}
		return block.Errorf(kind, "configuration file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return block.Errorf(block.Invalid, "configuration file %s: want a regular file of at most %d bytes, got %s of %d", file, maxFileBytes, info.Mode().Type(), info.Size())
	}
	v.SetConfigFile(file)
	v.SetConfigType("yaml")
	if err := v.ReadInConfig(); err != nil {
		text := strings.Join(strings.Fields(err.Error()), " ")
		return block.Errorf(block.Invalid, "configuration file %s: want YAML, got: %s", file, text)
	}
	return nil
}

// unknownKeys is called before anything but the file is in v.
func unknownKeys(v *viper.Viper, file string) (faults Faults) {
	source := Source("file " + file)
	keys := v.AllKeys()
	sort.Strings(keys)
	for _, key := range keys {
		if _, section := sections[key]; lookup(key) == nil && !section {
			faults = append(faults, Fault{key, source, "there is no such key" + didYouMean(key, allKeys())})
		}
	}
	for name := range sections {
		if v.InConfig(name) {
			if _, ok := v.Get(name).(map[string]any); !ok && v.Get(name) != nil {
				faults = append(faults, Fault{name, source, "want a section with keys below it, got a plain value"})
			}
		}
	}
	return faults
}

func unknownEnv(environ []string) (faults Faults) {
	names := make([]string, 0, len(settings))
	for i := range settings {
		names = append(names, settings[i].env())
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) || otherEnv[name] {
			continue
		}
		if !slices.Contains(names, name) {
			faults = append(faults, Fault{name, "environment", "there is no such setting" + didYouMean(name, names)})
		}
	}
	sort.Slice(faults, func(i, j int) bool { return faults[i].Key < faults[j].Key })
	return faults
}

// find returns the values of a setting and where they came from.
func (s *setting) find(v *viper.Viper, flags *pflag.FlagSet, file string) ([]string, Source, error) {
	if flags != nil && s.flag != "" && flags.Changed(s.flag) {
		source := Source("flag --" + s.flag)
		if s.list {
			values, err := flags.GetStringArray(s.flag)
			return values, source, err
		}
		return []string{flags.Lookup(s.flag).Value.String()}, source, nil
	}
	if text, ok := os.LookupEnv(s.env()); ok && text != "" {
		source := Source("environment " + s.env())
		if s.list {
			return splitList(v.GetString(s.key)), source, nil
		}
		return []string{v.GetString(s.key)}, source, nil
	}
	if file != "" && v.InConfig(s.key) {
		values, err := s.fromFile(v.Get(s.key))
		return values, Source("file " + file), err
	}
	return s.def, "default", nil
}

func splitList(text string) []string {
	var values []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			values = append(values, part)
		}
	}
	return values
}

// fromFile turns what YAML gave into text; the setting judges it.
func (s *setting) fromFile(raw any) ([]string, error) {
	if items, ok := raw.([]any); ok {
		values := make([]string, len(items))
		for i, item := range items {
			values[i] = fmt.Sprint(item)
		}
		if !s.list {
			return values, errValue
		}
		return values, nil
	}
	if _, section := raw.(map[string]any); section {
		return []string{"a section"}, errValue
	}
	return []string{fmt.Sprint(raw)}, nil
}

func defaults() Config {
	var c Config
	for i := range settings {
		if err := settings[i].put(&c, settings[i].def); err != nil {
			panic("config: the default of " + settings[i].key + " is not valid: " + err.Error())
		}
	}
	return c
}

// Default returns the defaults.
func Default() Config { return defaults() }

// checkTogether finds the faults that lie between settings.
func (l *Loaded) checkTogether() (faults Faults) {
	add := func(key, format string, args ...any) {
		faults = append(faults, Fault{key, l.source(key), fmt.Sprintf(format, args...)})
	}
	c := &l.Config
	for _, kind := range []struct {
		key, mode string
		addresses []Address
	}{{"server.nbd_listen", c.TLS.NBD, c.Server.NBDListen}, {"server.api_listen", c.TLS.API, c.Server.APIListen}} {
		for _, a := range kind.addresses {
			if kind.mode != TLSRequire && !c.Server.AllowInsecureListen && !a.Loopback() {
				add(kind.key, "want an address of the loopback interface, since plaintext is accepted there, got %q: set %s, or use 127.0.0.1 or a unix socket, or --allow-insecure-listen on a network you trust",
					a, strings.Replace(strings.TrimSuffix(kind.key, "_listen"), "server.", "tls.", 1)+" to require")
			}
		}
	}
	if (c.TLS.NBD != TLSOff || c.TLS.API != TLSOff) && (c.TLS.CAFile == "" || c.TLS.CertFile == "" || c.TLS.KeyFile == "") {
		add("tls.cert_file", "want tls.ca_file, tls.cert_file and tls.key_file with TLS, got %q, %q and %q: make them with slackerctl certs", c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile)
	}
	for _, a := range c.Server.APIListen {
		for _, b := range c.Server.NBDListen {
			if a == b && !a.AnyPort() {
				add("server.api_listen", "want another address than server.nbd_listen, got %q in both", a)
			}
		}
	}
	if c.NBD.MaxInFlightBytes < 2*c.NBD.MaxRequest {
		add("nbd.max_in_flight_bytes", "want at least twice nbd.max_request (%d bytes), got %d bytes", 2*c.NBD.MaxRequest, c.NBD.MaxInFlightBytes)
	}
	if c.NBD.MaxTotalBytes < c.NBD.MaxInFlightBytes {
		add("nbd.max_total_bytes", "want at least nbd.max_in_flight_bytes (%d bytes), got %d bytes", c.NBD.MaxInFlightBytes, c.NBD.MaxTotalBytes)
	}
	sort.SliceStable(faults, func(i, j int) bool { return faults[i].Key < faults[j].Key })
	return faults
}

func (l *Loaded) source(key string) Source {
	for _, v := range l.Values {
		if v.Key == key {
			return v.Source
		}
	}
	return "default"
}
