package worker

import (
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// relay returns a socket for the kernel whose bytes go over conn, which speaks
// TLS; the kernel's NBD client cannot. When either side ends so does the other,
// so that the kernel sees a dead connection as it does without TLS. The relay
// dies with this process: the next monitor replaces all sockets.
func relay(conn net.Conn) (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		_ = conn.Close()
		return nil, block.Errorf(block.IO, "make a socket pair: %w", err)
	}
	kernel, ours := os.NewFile(uintptr(fds[0]), "kernel"), os.NewFile(uintptr(fds[1]), "relay")
	near, err := net.FileConn(ours)
	_ = ours.Close() // near has a descriptor of its own
	if err != nil {
		_ = kernel.Close()
		_ = conn.Close()
		return nil, block.Errorf(block.IO, "make a socket pair: %w", err)
	}
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // however it ends, both are done
		_ = to.Close()
		_ = from.Close()
	}
	go pass(conn, near)
	go pass(near, conn)
	return kernel, nil
}
