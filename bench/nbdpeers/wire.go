package main

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	optionMagic     = 0x49484156454F5054
	optionReply     = 0x3e889045565a9
	requestMagic    = 0x25609513
	simpleMagic     = 0x67446698
	optionGo        = 7
	replyAck        = 1
	replyErrorBit   = 1 << 31
	cmdRead         = 0
	cmdWrite        = 1
	cmdDisc         = 2
	cmdFlush        = 3
	requestBytes    = 28
	replyBytes      = 16
	maxGreetingData = 64 << 10
)

var be = binary.BigEndian

// dial connects to an export on a unix socket and enters transmission with
// simple replies, as the Linux kernel's client does. The descriptor blocks: a
// wait is one system call, and no poller runs beside the server.
func dial(addr, export string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Connect(fd, &unix.SockaddrUnix{Name: strings.TrimPrefix(addr, "unix://")}); err == nil {
		err = negotiate(fd, export)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return fd, nil
}

func negotiate(fd int, export string) error {
	var greeting [18]byte
	if err := readFull(fd, greeting[:]); err != nil {
		return err
	}
	b := be.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	b = be.AppendUint64(b, optionMagic)
	b = be.AppendUint32(b, optionGo)
	b = be.AppendUint32(b, uint32(4+len(export)+2))
	b = be.AppendUint32(b, uint32(len(export)))
	b = append(b, export...)
	if err := writeFull(fd, be.AppendUint16(b, 0)); err != nil {
		return err
	}
	for {
		var head [20]byte
		if err := readFull(fd, head[:]); err != nil {
			return err
		}
		kind, n := be.Uint32(head[12:]), be.Uint32(head[16:])
		if be.Uint64(head[:]) != optionReply || n > maxGreetingData {
			return fmt.Errorf("option reply: got magic %#x and %d bytes", be.Uint64(head[:]), n)
		}
		data := make([]byte, n)
		if err := readFull(fd, data); err != nil {
			return err
		}
		if kind == replyAck {
			return nil
		}
		if kind&replyErrorBit != 0 {
			return fmt.Errorf("export %q is refused: %#x: %s", export, kind, data)
		}
	}
}

// putRequest writes a request header into b.
func putRequest(b []byte, cmd uint16, cookie, offBytes uint64, lengthBytes uint32) {
	be.PutUint32(b, requestMagic)
	be.PutUint16(b[4:], 0)
	be.PutUint16(b[6:], cmd)
	be.PutUint64(b[8:], cookie)
	be.PutUint64(b[16:], offBytes)
	be.PutUint32(b[24:], lengthBytes)
}

func readSome(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0:
			return 0, fmt.Errorf("read: the server closed the connection")
		default:
			return n, nil
		}
	}
}

func readFull(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := readSome(fd, p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func writeFull(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		p = p[n:]
	}
	return nil
}
