package worker

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// reachable turns the NBD addresses that a server names into those that this
// host can use. A server that listens on every address, or on its own loopback
// behind a forwarded port, names addresses that mean something to itself only:
// there the host of its admin API, at server, is put in. Sockets of another
// host are left out.
func reachable(addrs []string, server string) ([]string, error) {
	host := "127.0.0.1"
	u, err := url.Parse(server)
	if err == nil && u.Scheme != "unix" && u.Hostname() != "" {
		host = u.Hostname()
	}
	remote := host != "localhost" && !isLoopback(host)
	var out []string
	for _, a := range addrs {
		addr, err := nbdclient.ParseAddr(a)
		if err != nil {
			return nil, err
		}
		if addr.Network == "unix" {
			if !remote {
				out = append(out, a)
			}
			continue
		}
		theirs, port, err := net.SplitHostPort(addr.Address)
		if err != nil {
			return nil, block.Errorf(block.Invalid, "NBD address %q: %w", a, err)
		}
		ip, err := netip.ParseAddr(theirs)
		if (err == nil && ip.IsUnspecified()) || (remote && (theirs == "localhost" || isLoopback(theirs))) {
			theirs = host
		}
		out = append(out, "tcp://"+net.JoinHostPort(theirs, port))
	}
	if len(out) == 0 {
		return nil, block.Errorf(block.Unavailable, "the server at %s names no NBD address that this host can reach (%s): it needs --nbd-listen tcp://HOST:PORT", server, strings.Join(addrs, ", "))
	}
	return out, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
