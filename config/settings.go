package config

import (
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/access"
	"github.com/slackerd/slacker/block"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// setting is one row of the table of settings.
type setting struct {
	key  string
	flag string // without the dashes; empty: no flag
	def  []string
	list bool
	want string // completes "want "
	doc  string
	// put stores the values, which are one unless list is set, or says why
	// not; it leaves c alone then.
	put func(c *Config, values []string) error
}

// settings is the one definition of the configuration.
var settings = []setting{
	{key: "server.data_dir", flag: "data-dir", def: []string{"/var/lib/slacker"}, want: "an absolute path",
		doc: "The directory that holds the store. One server at a time uses it.",
		put: func(c *Config, v []string) error { return putPath(&c.Server.DataDir, v[0]) }},
	{key: "server.nbd_listen", flag: "nbd-listen", def: []string{"tcp://127.0.0.1:10809"}, list: true, want: addressWanted,
		doc: "Where NBD clients connect. Sockets named nbd that systemd passes replace these.",
		put: func(c *Config, v []string) error { return putAddresses(&c.Server.NBDListen, v) }},
	{key: "server.nbd_advertise", flag: "nbd-advertise", list: true, want: "tcp://HOST:PORT and unix:///PATH, or nothing",
		doc: "What workers are told to connect to, when that is not where the server listens: behind a proxy, or listening on all interfaces.",
		put: func(c *Config, v []string) error {
			if len(v) == 0 {
				c.Server.NBDAdvertise = nil
				return nil
			}
			return putAddresses(&c.Server.NBDAdvertise, v)
		}},
	{key: "server.api_listen", flag: "api-listen", def: []string{"tcp://127.0.0.1:10808"}, list: true, want: addressWanted,
		doc: "Where the admin API, /metrics, /healthz and /readyz are. Sockets named api that systemd passes replace these.",
		put: func(c *Config, v []string) error { return putAddresses(&c.Server.APIListen, v) }},
	{key: "server.allow_insecure_listen", flag: "allow-insecure-listen", def: []string{"false"}, want: "true or false",
		doc: "Permit TCP addresses beyond the loopback interface without TLS. Nothing is encrypted and nobody is authenticated: anyone who\nreaches such an address can read, change and delete every volume.",
		put: func(c *Config, v []string) error { return putBool(&c.Server.AllowInsecureListen, v[0]) }},
	{key: "server.shutdown_timeout", flag: "shutdown-timeout", def: []string{"20s"}, want: "a duration from 1s to 10m",
		doc: "How long a clean shutdown waits for commands in flight.",
		put: func(c *Config, v []string) error {
			return putDuration(&c.Server.ShutdownTimeout, v[0], time.Second, 10*time.Minute)
		}},
	{key: "server.pprof", flag: "pprof", def: []string{"false"}, want: "true or false",
		doc: "Serve Go's profiler at /debug/pprof/ on the API addresses.",
		put: func(c *Config, v []string) error { return putBool(&c.Server.Pprof, v[0]) }},

	{key: "store.segment_size", def: []string{"128MiB"}, want: "a size from 16MiB to 4GiB, a multiple of 1MiB",
		doc: "The size of one data file. Segments are written once, front to back.",
		put: func(c *Config, v []string) error { return putBytes(&c.Store.SegmentSize, v[0], 16*mib, 4*gib, mib) }},
	{key: "store.spare_segments", def: []string{"4"}, want: "a number from 0 to 64",
		doc: "Files of deleted segments that are kept to be written again, while the disk has room for 16 more.",
		put: func(c *Config, v []string) error { return putInt(&c.Store.SpareSegments, v[0], 0, 64) }},
	{key: "store.reserve_size", def: []string{"256MiB"}, want: "a size from 0 to 1TiB",
		doc: "What data leaves free on the disk, for the extent map and for giving space back: with less, writes are refused with ENOSPC while\nreads, deletes and the collector go on. At least twice store.segment_size is of use. A file BALLAST of a segment and a quarter of\nthis goes when others fill the disk to the last byte. 0 is none of both.",
		put: func(c *Config, v []string) error { return putBytes(&c.Store.ReserveSize, v[0], 0, 1024*gib, 1) }},
	{key: "store.map_cache_size", def: []string{"128MiB"}, want: "a size from 8MiB to 1TiB",
		doc: "Memory for the files of the extent map.",
		put: func(c *Config, v []string) error { return putBytes(&c.Store.MapCacheSize, v[0], 8*mib, 1024*gib, 1) }},
	{key: "store.page_cache_size", def: []string{"256MiB"}, want: "a size from 8MiB to 1TiB",
		doc: "Memory for the pages of the extent map that are in use.",
		put: func(c *Config, v []string) error { return putBytes(&c.Store.PageCacheSize, v[0], 8*mib, 1024*gib, 1) }},
	{key: "store.commit_interval", def: []string{"2s"}, want: "a duration from 10ms to 1m",
		doc: "How long a change may wait before it enters the extent map, and an unflushed write before it is made durable.",
		put: func(c *Config, v []string) error {
			return putDuration(&c.Store.CommitInterval, v[0], 10*time.Millisecond, time.Minute)
		}},

	{key: "gc.clean_below", def: []string{"75"}, want: "a percentage from 1 to 95",
		doc: "Segments with fewer live blocks than this percentage are emptied.",
		put: func(c *Config, v []string) error { return putInt(&c.GC.CleanBelow, v[0], 1, 95) }},
	{key: "gc.interval", def: []string{"1m"}, want: "a duration from 1s to 24h",
		doc: "How often the collector looks without being told that there is garbage.",
		put: func(c *Config, v []string) error { return putDuration(&c.GC.Interval, v[0], time.Second, 24*time.Hour) }},

	{key: "scrub.every", def: []string{"168h"}, want: "0, or a duration from 1m to 8760h",
		doc: "How often all data is verified in the background. 0: only with slackerctl scrub start.",
		put: func(c *Config, v []string) error {
			if v[0] == "0" || v[0] == "0s" {
				c.Scrub.Every = 0
				return nil
			}
			return putDuration(&c.Scrub.Every, v[0], time.Minute, 8760*time.Hour)
		}},
	{key: "scrub.rate", def: []string{"32MiB"}, want: "a size from 0 to 1TiB",
		doc: "How much the scrub reads in a second. 0 is no bound.",
		put: func(c *Config, v []string) error { return putBytes(&c.Scrub.Rate, v[0], 0, 1024*gib, 1) }},

	{key: "nbd.max_connections", def: []string{"4096"}, want: "a number from 1 to 1000000",
		doc: "Connections open at once; more are closed at once.",
		put: func(c *Config, v []string) error { return putInt(&c.NBD.MaxConnections, v[0], 1, 1_000_000) }},
	{key: "nbd.max_negotiations", def: []string{"512"}, want: "a number from 1 to 1000000",
		doc: "Connections that have not opened an export yet; more are closed at once.",
		put: func(c *Config, v []string) error { return putInt(&c.NBD.MaxNegotiations, v[0], 1, 1_000_000) }},
	{key: "nbd.max_remote_connections", def: []string{"1024"}, want: "a number from 1 to 1000000",
		doc: "Connections from one IP address; more are closed at once.",
		put: func(c *Config, v []string) error { return putInt(&c.NBD.MaxRemoteConnections, v[0], 1, 1_000_000) }},
	{key: "nbd.handshake_timeout", def: []string{"10s"}, want: "a duration from 1s to 5m",
		doc: "The time a client has from connecting to the end of the negotiation.",
		put: func(c *Config, v []string) error {
			return putDuration(&c.NBD.HandshakeTimeout, v[0], time.Second, 5*time.Minute)
		}},
	{key: "nbd.stall_timeout", def: []string{"30s"}, want: "a duration from 1s to 1h",
		doc: "The time a client has to take over replies that are ready and to send what it has announced.",
		put: func(c *Config, v []string) error {
			return putDuration(&c.NBD.StallTimeout, v[0], time.Second, time.Hour)
		}},
	{key: "nbd.max_request", def: []string{"32MiB"}, want: "a size from 64KiB to 32MiB, a multiple of 64KiB",
		doc: "The data of one READ or WRITE.",
		put: func(c *Config, v []string) error {
			return putBytes(&c.NBD.MaxRequest, v[0], 64*kib, block.MaxRequestBytes, 64*kib)
		}},
	{key: "nbd.max_in_flight_requests", def: []string{"64"}, want: "a number from 1 to 65536",
		doc: "Commands of one connection that wait at once.",
		put: func(c *Config, v []string) error { return putInt(&c.NBD.MaxInFlightRequests, v[0], 1, 65536) }},
	{key: "nbd.max_in_flight_bytes", def: []string{"128MiB"}, want: "a size from 128KiB to 1TiB, at least twice nbd.max_request",
		doc: "The buffers of one connection's commands together.",
		put: func(c *Config, v []string) error {
			return putBytes(&c.NBD.MaxInFlightBytes, v[0], 128*kib, 1024*gib, 1)
		}},
	{key: "nbd.max_total_bytes", def: []string{"1GiB"}, want: "a size from 128KiB to 1TiB, at least nbd.max_in_flight_bytes",
		doc: "The buffers of all connections' commands together, and of replies that are not read. A connection holds at most half a MiB beside it.",
		put: func(c *Config, v []string) error { return putBytes(&c.NBD.MaxTotalBytes, v[0], 128*kib, 1024*gib, 1) }},
	{key: "nbd.slow_request", def: []string{"1s"}, want: "a duration from 1ms to 1h",
		doc: "Commands that take as long are logged, with where the time went; at most one a second after the first ten.",
		put: func(c *Config, v []string) error {
			return putDuration(&c.NBD.SlowRequest, v[0], time.Millisecond, time.Hour)
		}},

	{key: "tls.nbd", flag: "tls-nbd", def: []string{TLSOff}, want: "one of off, allow, require",
		doc: "TLS of NBD over TCP: allow lets clients choose, require refuses plaintext. Clients need a certificate of tls.ca_file.",
		put: func(c *Config, v []string) error { return putOneOf(&c.TLS.NBD, v[0], TLSOff, TLSAllow, TLSRequire) }},
	{key: "tls.api", flag: "tls-api", def: []string{TLSOff}, want: "one of off, require",
		doc: "TLS of the admin API over TCP. Clients need a certificate of tls.ca_file.",
		put: func(c *Config, v []string) error { return putOneOf(&c.TLS.API, v[0], TLSOff, TLSRequire) }},
	{key: "tls.ca_file", flag: "tls-ca", def: []string{""}, want: "an absolute path, or nothing without TLS",
		doc: "The authority whose client certificates are accepted (PEM). See slackerctl certs.",
		put: func(c *Config, v []string) error { return putOptionalPath(&c.TLS.CAFile, v[0]) }},
	{key: "tls.cert_file", flag: "tls-cert", def: []string{""}, want: "an absolute path, or nothing without TLS",
		doc: "The server's certificate (PEM). It is read again when it changes, and on SIGHUP.",
		put: func(c *Config, v []string) error { return putOptionalPath(&c.TLS.CertFile, v[0]) }},
	{key: "tls.key_file", flag: "tls-key", def: []string{""}, want: "an absolute path, or nothing without TLS",
		doc: "The key of the server's certificate (PEM), which only its owner and group may read.",
		put: func(c *Config, v []string) error { return putOptionalPath(&c.TLS.KeyFile, v[0]) }},

	{key: "access.rules", list: true, want: "rules such as \"cn=worker-* read+clone images/**\", or nothing",
		doc: "Who may do what with which volumes: IDENTITY PERMISSIONS VOLUMES. With rules, what none allows is refused; without, everybody\nwho can connect may do everything. IDENTITY: cn=GLOB or uri=GLOB of a certificate, uid=N or gid=N of a unix socket's peer,\nanonymous, any. PERMISSIONS: read, write, clone, admin, joined by '+'. VOLUMES: a name with '?', '*' and '**'.",
		put: func(c *Config, v []string) error {
			p, err := access.ParsePolicy(v)
			if err == nil {
				c.Access.Policy = p
			}
			return err
		}},

	{key: "log.level", flag: "log-level", def: []string{"info"}, want: "one of debug, info, warn, error",
		doc: "The least important messages that are logged.",
		put: func(c *Config, v []string) error {
			return putOneOf(&c.Log.Level, v[0], "debug", "info", "warn", "error")
		}},
	{key: "log.format", flag: "log-format", def: []string{"json"}, want: "one of json, console",
		doc: "json for programs, console for people.",
		put: func(c *Config, v []string) error { return putOneOf(&c.Log.Format, v[0], "json", "console") }},
}

// sections document the parts of the file.
var sections = map[string]string{
	"server": "Where the server works and listens.",
	"store":  "The store. Sizes take the units B, KiB, MiB, GiB, TiB; durations ms, s, m, h.",
	"gc":     "Giving space back, in the background.",
	"scrub":  "Verifying all data, in the background.",
	"nbd":    "What NBD clients can use up.",
	"tls":    "Encryption and client certificates.",
	"access": "Permissions.",
	"log":    "What is logged, on standard error.",
}

// envPrefix begins the variables that the server reads.
const envPrefix = "SLACKER_"

// FileEnv names the configuration file, as --config does.
const FileEnv = envPrefix + "CONFIG"

// otherEnv are variables with the prefix that are no settings: SLACKER_SERVER
// and SLACKER_TLS_CA, _CERT and _KEY tell the clients how to reach the server,
// SLACKER_CACHE_DIR, _SIZE and SLACKER_PREFETCH what they keep of it.
var otherEnv = map[string]bool{FileEnv: true, envPrefix + "SERVER": true,
	envPrefix + "CACHE_DIR": true, envPrefix + "CACHE_SIZE": true, envPrefix + "PREFETCH": true,
	envPrefix + "TLS_CA": true, envPrefix + "TLS_CERT": true, envPrefix + "TLS_KEY": true}

func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

// show is how a value is written in a message.
func show(values []string, list bool) string {
	if !list && len(values) == 1 {
		return strconv.Quote(values[0])
	}
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}
