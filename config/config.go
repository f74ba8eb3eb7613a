package config

import (
	"time"

	"github.com/slackerd/slacker/access"
)

// Config is a complete, valid configuration.
type Config struct {
	Server Server
	Store  Store
	GC     GC
	Scrub  Scrub
	NBD    NBD
	TLS    TLS
	Access Access
	Log    Log
}

// Words of tls.nbd and tls.api.
const (
	TLSOff     = "off"
	TLSAllow   = "allow"
	TLSRequire = "require"
)

// TLS says where connections are encrypted, and with what.
type TLS struct {
	NBD string // TLSOff, TLSAllow or TLSRequire
	API string // TLSOff or TLSRequire
	// PEM files; absolute paths, or empty without TLS.
	CAFile, CertFile, KeyFile string
}

// Access says who may do what.
type Access struct {
	// Policy is nil when there are no rules: then everybody may do everything.
	Policy *access.Policy
}

// Server says where the server works and listens.
type Server struct {
	DataDir   string
	NBDListen []Address
	// NBDAdvertise is what workers are told to connect to; empty: NBDListen.
	NBDAdvertise []Address
	APIListen    []Address
	// AllowInsecureListen permits addresses beyond the loopback interface.
	AllowInsecureListen bool
	// ShutdownTimeout bounds a clean shutdown.
	ShutdownTimeout time.Duration
	// Pprof serves Go's profiler at /debug/pprof/ on the API addresses.
	Pprof bool
}

// Store sizes the store. Sizes are bytes.
type Store struct {
	SegmentSize    int64
	SpareSegments  int64
	ReserveSize    int64
	MapCacheSize   int64
	PageCacheSize  int64
	CommitInterval time.Duration
}

// GC tunes the garbage collector.
type GC struct {
	// CleanBelow is the percentage of live blocks below which a segment is
	// emptied.
	CleanBelow int64
	Interval   time.Duration
}

// Scrub says how the store is verified in the background.
type Scrub struct {
	Every time.Duration // 0: only when told
	Rate  int64         // bytes a second; 0: no bound
}

// NBD bounds what NBD clients can use up. Sizes are bytes.
type NBD struct {
	MaxConnections       int64
	MaxNegotiations      int64
	MaxRemoteConnections int64
	HandshakeTimeout     time.Duration
	StallTimeout         time.Duration
	MaxRequest           int64
	MaxInFlightRequests  int64
	MaxInFlightBytes     int64
	MaxTotalBytes        int64
	SlowRequest          time.Duration // commands that take as long are logged
}

// Log says what is logged and how.
type Log struct {
	Level  string
	Format string
}
