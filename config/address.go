package config

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/slackerd/slacker/block"
)

const addressWanted = "one or more of tcp://HOST:PORT and unix:///PATH"

// maxUnixPathBytes is what the kernel takes (sun_path, less its final zero).
const maxUnixPathBytes = 107

// Address is where to listen. Network and Addr are as in net.Listen.
type Address struct {
	Network string // tcp or unix
	Addr    string // HOST:PORT or an absolute path
}

func (a Address) String() string { return a.Network + "://" + a.Addr }

// Loopback reports whether only this machine can reach the address. A name is
// not resolved: of names, only localhost counts.
func (a Address) Loopback() bool {
	if a.Network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(a.Addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// AnyPort reports whether the system picks the port.
func (a Address) AnyPort() bool { return a.Network == "tcp" && strings.HasSuffix(a.Addr, ":0") }

// ParseAddress reads tcp://HOST:PORT or unix:///PATH. Port 0 lets the system
// pick one; an empty host means all interfaces.
func ParseAddress(s string) (Address, error) {
	bad := func(why string) (Address, error) {
		return Address{}, block.Errorf(block.Invalid, "address %.200q: %s: want tcp://HOST:PORT or unix:///PATH", s, why)
	}
	network, addr, ok := strings.Cut(s, "://")
	if !ok {
		return bad("it has no tcp:// or unix:// in front")
	}
	switch network {
	case "tcp":
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return bad("it has no HOST:PORT")
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return bad("the port is no number from 0 to 65535")
		}
		if strings.ContainsAny(host, "/ \t\n?#@") {
			return bad("the host is no name and no IP address")
		}
		return Address{"tcp", net.JoinHostPort(host, strconv.FormatUint(n, 10))}, nil
	case "unix":
		if !filepath.IsAbs(addr) || strings.ContainsRune(addr, 0) {
			return bad("the path is not absolute")
		}
		if len(addr) > maxUnixPathBytes {
			return bad("the path is longer than " + strconv.Itoa(maxUnixPathBytes) + " bytes")
		}
		return Address{"unix", filepath.Clean(addr)}, nil
	}
	return bad("the scheme is neither tcp nor unix")
}
