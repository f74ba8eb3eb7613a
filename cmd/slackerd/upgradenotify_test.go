package main

import (
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUpgradeTellsTheServiceManager: to systemd an upgrade is a reload. The process
// that says so, and the one that is ready afterwards, is the main process it knows.
func TestUpgradeTellsTheServiceManager(t *testing.T) {
	dir := shortDir(t)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	raw, err := socket.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := command(t, serveArgs(filepath.Join(dir, "data"))...)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+socket.LocalAddr().String())
	p := startServer(t, cmd)
	// next returns the next state that has the prefix, and wants it to be of the process.
	next := func(prefix string) string {
		t.Helper()
		buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
		for {
			_ = socket.SetReadDeadline(time.Now().Add(patience))
			n, oobn, _, _, err := socket.ReadMsgUnix(buf, oob)
			if err != nil {
				t.Fatalf("waiting for %s: %v\n%s", prefix, err, p.text())
			}
			if !strings.HasPrefix(string(buf[:n]), prefix) {
				continue
			}
			messages, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil || len(messages) != 1 {
				t.Fatalf("credentials of %s: %v", prefix, err)
			}
			cred, err := unix.ParseUnixCredentials(&messages[0])
			if err != nil || int(cred.Pid) != p.cmd.Process.Pid {
				t.Errorf("%s is said by process %+v (%v), want the main process %d", prefix, cred, err, p.cmd.Process.Pid)
			}
			return string(buf[:n])
		}
	}
	next("READY=1")
	if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	text := next("RELOADING=1")
	_, after, _ := strings.Cut(text, "MONOTONIC_USEC=")
	usec, _, _ := strings.Cut(after, "\n")
	if n, err := strconv.ParseUint(usec, 10, 64); err != nil || n == 0 {
		t.Errorf("the reload says %q, want the monotonic time in microseconds", text)
	}
	next("READY=1")
	p.create("v")
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
