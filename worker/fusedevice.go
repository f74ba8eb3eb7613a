package worker

import (
	"fmt"
	"log"
	"os"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// fuseDevice is the descriptor over which the kernel speaks to whoever serves a
// FUSE file system, and what it said first. The kernel ends the file system
// when the last descriptor closes, so a standby holds one too.
type fuseDevice struct {
	file *os.File
	init fuse.InitIn
	// maxWrite is what the kernel was told; it holds as long as the mount.
	maxWrite int
}

// canResend: the kernel hands out again what a dead server had taken and not
// answered (Linux 6.9). Without that a file system cannot change its server.
func (d *fuseDevice) canResend() bool { return d.init.Flags64()&fuse.CAP_HAS_RESEND != 0 }

// mountFuse mounts a file system at dir, which nobody serves yet.
func mountFuse(dir string) (*fuseDevice, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), fuseMaxWrite)
	if err := unix.Mount("slacker", dir, "fuse.slacker", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		return nil, block.Errorf(block.IO, "mount FUSE at %s: %w", dir, err)
	}
	return &fuseDevice{file: os.NewFile(uintptr(fd), "/dev/fuse"), maxWrite: fuseMaxWrite}, nil
}

// serve makes a server of fs that has exchanged its first words with the
// kernel, and does not serve yet. A device that was served before has had that
// exchange, which the kernel does not repeat: the server then has it with us.
func (d *fuseDevice) serve(fs *fuseFS) (*fuse.Server, error) {
	before := d.init.Major != 0
	fd, peer, err := -1, -1, error(nil)
	if before {
		fd, peer, err = d.rehearse()
		defer func() { _ = unix.Close(peer) }()
	} else {
		fd, err = unix.FcntlInt(d.file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		return nil, block.Errorf(block.IO, "serve FUSE: %w", err)
	}
	server, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite: d.maxWrite, MaxBackground: fuseBacklog, CongestionThreshold: fuseBacklog,
		FsName: "slacker", Name: "slacker", DisableXAttrs: true, DisableSplice: true, ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		Logger: log.New(os.Stderr, "fuse: ", log.LstdFlags),
	})
	if err != nil {
		return nil, block.Errorf(block.IO, "serve FUSE: %w", err)
	}
	if before {
		// From here on the server's descriptor is the kernel's.
		err = unix.Dup3(int(d.file.Fd()), fd, unix.O_CLOEXEC)
	}
	if err != nil {
		return nil, block.Errorf(block.IO, "serve FUSE: %w", err)
	}
	d.init = *server.KernelSettings()
	return server, nil
}

// rehearse returns a descriptor from which the kernel's first message can be
// read, and its peer, where the answer goes.
func (d *fuseDevice) rehearse() (fd, peer int, err error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, err
	}
	message := d.init
	message.Length = uint32(unsafe.Sizeof(message))
	if _, err := unix.Write(ends[1], initBytes(&message)); err != nil {
		_ = unix.Close(ends[0])
		return -1, ends[1], err
	}
	return ends[0], ends[1], nil
}

// initBytes are the bytes of the kernel's first message, as the kernel sent it.
func initBytes(m *fuse.InitIn) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(m)), unsafe.Sizeof(*m))
}

// resend asks the kernel for every request that a former server has taken and
// not answered. They come with their numbers marked, so that an answer of that
// server, were there one, would not be taken for ours.
func (d *fuseDevice) resend() error {
	message := struct {
		length uint32
		notify int32
		unique uint64
	}{16, -int32(fuse.NOTIFY_RESEND), 0} // the kernel counts upward
	_, err := unix.Write(int(d.file.Fd()), unsafe.Slice((*byte)(unsafe.Pointer(&message)), unsafe.Sizeof(message)))
	if err != nil {
		return block.Errorf(block.IO, "ask FUSE for what was in flight: %w", err)
	}
	return nil
}
