package nbdclient

import (
	"net"
	"strings"

	"github.com/slackerd/slacker/block"
)

// Addr is where a server listens.
type Addr struct {
	Network string // "tcp" or "unix"
	Address string // HOST:PORT, or a path
}

func (a Addr) String() string { return a.Network + "://" + a.Address }

// ParseAddr reads tcp://HOST:PORT or unix:///PATH.
func ParseAddr(s string) (Addr, error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return Addr{}, block.Errorf(block.Invalid, "NBD address %q: want an absolute path, as in unix:///run/slacker/nbd.sock", s)
		}
		return Addr{"unix", path}, nil
	}
	hostport, ok := strings.CutPrefix(s, "tcp://")
	if !ok {
		return Addr{}, block.Errorf(block.Invalid, "NBD address %q: want tcp://HOST:PORT or unix:///PATH", s)
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || host == "" || port == "" {
		return Addr{}, block.Errorf(block.Invalid, "NBD address %q: want tcp://HOST:PORT", s)
	}
	return Addr{"tcp", hostport}, nil
}
