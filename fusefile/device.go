package fusefile

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

// Limits.
const (
	// MaxWriteBytes is the largest read or write that a new mount gets from the
	// kernel.
	MaxWriteBytes = 1 << 20
	// maxKnownWriteBytes bounds what a device that another version of this
	// program mounted may have been told.
	maxKnownWriteBytes = 32 << 20
	// backlog is how many requests the kernel has under way at once.
	backlog = 256
)

// Settings are what was agreed on with the kernel when it sent its first
// message. They hold as long as the mount; a server that goes on with a device
// needs them.
type Settings struct {
	MaxWriteBytes int  `json:"max_write_bytes"`
	CanResend     bool `json:"can_resend"`
}

// Device is the descriptor over which the kernel speaks to the server of a file
// system.
type Device struct {
	File     *os.File
	Settings Settings
	fd       int  // of File
	greeted  bool // the kernel's first message has been answered
}

// Mount mounts a file system at dir, which nobody serves yet.
func Mount(dir string) (*Device, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d", fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), MaxWriteBytes)
	if err := unix.Mount("slacker", dir, "fuse.slacker", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		return nil, block.Errorf(block.IO, "mount FUSE at %s: %w", dir, err)
	}
	return &Device{File: os.NewFile(uintptr(fd), "/dev/fuse"), fd: fd, Settings: Settings{MaxWriteBytes: MaxWriteBytes}}, nil
}

// Resume returns the device of a mount that another process has served.
func Resume(file *os.File, s Settings) (*Device, error) {
	if s.MaxWriteBytes < block.Size || s.MaxWriteBytes > maxKnownWriteBytes {
		return nil, block.Errorf(block.Invalid, "resume a FUSE device whose writes have up to %d bytes, want %d to %d", s.MaxWriteBytes, block.Size, maxKnownWriteBytes)
	}
	return &Device{File: file, fd: int(file.Fd()), Settings: s, greeted: true}, nil
}

// Resend asks the kernel for every request that a former server has taken and
// not answered (Linux 6.9). They come with their numbers marked, so that an
// answer of that server, were there one, would not be taken for ours.
func (d *Device) Resend() error {
	var message [outHeaderBytes]byte
	binary.NativeEndian.PutUint32(message[0:], outHeaderBytes)
	binary.NativeEndian.PutUint32(message[4:], notifyResend)
	if _, err := unix.Write(d.fd, message[:]); err != nil {
		return block.Errorf(block.IO, "ask FUSE for what was in flight: %w", err)
	}
	return nil
}

// greet reads the kernel's first message and answers it.
func (d *Device) greet() error {
	if d.greeted {
		return nil
	}
	buf := make([]byte, d.bufferBytes())
	n, err := d.read(buf, true)
	if err != nil {
		return err
	}
	h, body, err := parse(buf[:n])
	if err != nil {
		return err
	}
	if h.opcode != opInit || len(body) < initMinBytes {
		return block.Errorf(block.IO, "the kernel's first FUSE message is request %d with %d bytes", h.opcode, len(body))
	}
	major, minor := binary.NativeEndian.Uint32(body), binary.NativeEndian.Uint32(body[4:])
	if major != protoMajor || minor < protoMinMinor {
		_ = d.answerError(h.unique, unix.EPROTO) // the error below says more
		return block.Errorf(block.Unsupported, "the kernel speaks FUSE %d.%d, want at least %d.%d", major, minor, protoMajor, protoMinMinor)
	}
	offered := uint64(binary.NativeEndian.Uint32(body[12:]))
	if offered&flagInitExt != 0 && len(body) >= initMinBytes+4 {
		offered |= uint64(binary.NativeEndian.Uint32(body[16:])) << 32
	}
	agreed := offered & (flagAsyncRead | flagBigWrites | flagAsyncDIO | flagMaxPages | flagInitExt | flagHasResend)
	d.Settings.CanResend = agreed&flagHasResend != 0
	d.greeted = true
	return d.answer(h.unique, &initOut{Major: protoMajor, Minor: min(minor, protoMinor), MaxReadahead: binary.NativeEndian.Uint32(body[8:]),
		Flags: uint32(agreed), Flags2: uint32(agreed >> 32), MaxBackground: backlog, CongestionThreshold: backlog, TimeGran: 1,
		MaxWrite: uint32(d.Settings.MaxWriteBytes), MaxPages: uint16(d.Settings.MaxWriteBytes / os.Getpagesize())})
}

// bufferBytes is what the largest request needs. The kernel refuses to fill less.
func (d *Device) bufferBytes() int { return d.Settings.MaxWriteBytes + 4096 }

// errGone says that the file system has been unmounted, errNothing that no
// request waits.
const (
	errGone    = unix.ENODEV
	errNothing = unix.EAGAIN
)

// read reads one request. Without wait it returns errNothing when there is none.
func (d *Device) read(p []byte, wait bool) (int, error) {
	for {
		n, err := unix.Read(d.fd, p)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR, unix.ENOENT: // ENOENT: it was withdrawn meanwhile
		case unix.EAGAIN:
			if !wait {
				return 0, errNothing
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
				return 0, err
			}
		default:
			return 0, err
		}
	}
}
