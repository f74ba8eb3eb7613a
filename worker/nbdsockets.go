package worker

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A monitor that takes over has no descriptors of the sockets that the kernel
// uses, and the kernel tells the death of one only at the moment. So monitors write
// down the addresses of their sockets, and a new one asks the host's list of TCP
// sockets which of them live (invariant 9).

// connState is TCP_ESTABLISHED in /proc/net/tcp: all others are of connections
// that an end has closed.
const connEstablished = "01"

// wire is one TCP connection: its ends.
type wire struct{ local, remote netip.AddrPort }

// wireOf returns the ends of a TCP socket; ok is false for any other.
func wireOf(f *os.File) (w wire, ok bool) {
	local, err := unix.Getsockname(int(f.Fd()))
	if err != nil {
		return w, false
	}
	remote, err := unix.Getpeername(int(f.Fd()))
	if err != nil {
		return w, false
	}
	var isTCP [2]bool
	w.local, isTCP[0] = addrPort(local)
	w.remote, isTCP[1] = addrPort(remote)
	return w, isTCP[0] && isTCP[1]
}

func addrPort(a unix.Sockaddr) (netip.AddrPort, bool) {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), true //nolint:gosec // a port
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), true //nolint:gosec // a port
	}
	return netip.AddrPort{}, false
}

// saveWires notes the connections of a target, by slot; the zero wire is unknown.
func (d store) saveWires(target string, wires []wire) error {
	var b strings.Builder
	for _, w := range wires {
		fmt.Fprintf(&b, "%s %s\n", w.local, w.remote)
	}
	return os.WriteFile(d.path(keyOf(target), socketsSuffix), []byte(b.String()), 0o600)
}

// loadWires returns what saveWires noted of n slots; the zero wire is unknown.
func (d store) loadWires(target string, n int) []wire {
	wires := make([]wire, n)
	b, err := os.ReadFile(d.path(keyOf(target), socketsSuffix))
	if err != nil {
		return wires
	}
	slot := 0
	for line := range strings.Lines(string(b)) {
		if slot == n {
			break
		}
		local, remote, _ := strings.Cut(strings.TrimSpace(line), " ")
		var w wire
		var lerr, rerr error
		w.local, lerr = netip.ParseAddrPort(local)
		w.remote, rerr = netip.ParseAddrPort(remote)
		if lerr == nil && rerr == nil {
			wires[slot] = w
		}
		slot++
	}
	return wires
}

// aliveWires returns the TCP connections of this network namespace that neither
// end has closed.
func aliveWires() (map[wire]bool, error) {
	alive := map[wire]bool{}
	var errs []error
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 4 || fields[3] != connEstablished {
				continue
			}
			local, lok := parseProcAddr(fields[1])
			remote, rok := parseProcAddr(fields[2])
			if lok && rok {
				alive[wire{local, remote}] = true
			}
		}
		_ = f.Close()
	}
	if len(errs) == 2 { // a host without IPv6 lacks one
		return nil, errors.Join(errs...)
	}
	return alive, nil
}

// parseProcAddr reads an address as /proc/net/tcp has it: words of four bytes in
// the order of the host, which is little endian here, and the port.
func parseProcAddr(text string) (netip.AddrPort, bool) {
	addr, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(addr)
	p, perr := hex.DecodeString(port)
	if err != nil || perr != nil || len(p) != 2 || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p[0])<<8|uint16(p[1])), ok
}
