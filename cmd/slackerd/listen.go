package main

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/config"
)

// socketMode is of the unix sockets: owner and group may connect.
const socketMode = 0o660

// staleTimeout bounds the question whether somebody answers on a socket file.
const staleTimeout = time.Second

// sockets are the listeners of the server.
type sockets struct{ nbd, api []net.Listener }

// openSockets takes over the sockets that the program before or a service
// manager passed, and opens the configured ones of a kind that none was passed
// of.
func openSockets(c *config.Server, left *legacy) (s *sockets, err error) {
	s = &sockets{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	files := activation.Files(true)
	if left != nil {
		for _, fd := range left.NBD {
			files = append(files, os.NewFile(uintptr(fd), "nbd"))
		}
		for _, fd := range left.API {
			files = append(files, os.NewFile(uintptr(fd), "api"))
		}
	}
	if err := s.adopt(files); err != nil {
		return s, err
	}
	for _, kind := range []struct {
		listeners *[]net.Listener
		addresses []config.Address
	}{{&s.nbd, c.NBDListen}, {&s.api, c.APIListen}} {
		if len(*kind.listeners) > 0 {
			continue
		}
		for _, a := range kind.addresses {
			l, err := listen(a)
			if err != nil {
				return s, err
			}
			*kind.listeners = append(*kind.listeners, l)
		}
	}
	return s, nil
}

// adopt takes over passed sockets by their names, nbd and api.
func (s *sockets) adopt(files []*os.File) error {
	for _, f := range files {
		l, err := net.FileListener(f)
		err = errors.Join(err, f.Close())
		if err != nil {
			return block.Errorf(block.Invalid, "socket %q that was passed: want a listening stream socket: %w", f.Name(), err)
		}
		switch f.Name() {
		case "nbd":
			s.nbd = append(s.nbd, l)
		case "api":
			s.api = append(s.api, l)
		default:
			err := block.Errorf(block.Invalid, "socket %q passed by the service manager: want the name nbd or api (FileDescriptorName=)", f.Name())
			return errors.Join(err, l.Close())
		}
	}
	return nil
}

func (s *sockets) close() error {
	var errs []error
	for _, l := range append(s.nbd, s.api...) {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func listen(a config.Address) (net.Listener, error) {
	if a.Network == "unix" {
		if err := removeStale(a.Addr); err != nil {
			return nil, err
		}
		// The mode must hold from the first moment; nothing else makes files now.
		defer syscall.Umask(syscall.Umask(0o777 &^ socketMode))
	}
	l, err := net.Listen(a.Network, a.Addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, block.Errorf(block.Busy, "listen on %s: another process listens there", a)
	case errors.Is(err, fs.ErrPermission):
		return nil, block.Errorf(block.Permission, "listen on %s: %w", a, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, block.Errorf(block.NotFound, "listen on %s: there is no such directory: make it, or set RuntimeDirectory= in the unit", a)
	}
	return nil, block.Errorf(block.IO, "listen on %s: %w", a, err)
}

// removeStale removes the socket file of a server that is gone (D3).
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return block.Errorf(block.IO, "listen on unix://%s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return block.Errorf(block.Exists, "listen on unix://%s: there is a file that is no socket: want a path of its own", path)
	}
	c, err := net.DialTimeout("unix", path, staleTimeout)
	if err == nil {
		_ = c.Close()
		return block.Errorf(block.Busy, "listen on unix://%s: another process listens there", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return block.Errorf(block.Busy, "listen on unix://%s: somebody may be using it: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return block.Errorf(block.IO, "listen on unix://%s: remove the socket of a server that is gone: %w", path, err)
	}
	return nil
}

// addresses writes listeners as addresses.
func addresses(ls []net.Listener) []string {
	texts := make([]string, len(ls))
	for i, l := range ls {
		texts[i] = l.Addr().Network() + "://" + l.Addr().String()
	}
	return texts
}
