package link

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/stack"
)

// Frames are read and written whole: a virtio_net_hdr and a packet.
const maxFrame = 10 + 65535

// queueBytes is how much waits for a slow link before frames are dropped.
const queueBytes = 1 << 20

// openTun makes a TUN device in a namespace, with segmentation offload.
func openTun(ns stack.Namespace) (f *os.File, err error) {
	err = ns.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(device)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return errors.Join(fmt.Errorf("make a TUN device: %w", err), unix.Close(fd))
		}
		offloads := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
		if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads); err != nil {
			return errors.Join(fmt.Errorf("set offloads of a TUN device: %w", err), unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), device) // non-blocking: Close ends reads
		return nil
	})
	return f, err
}

// frame is a packet under way.
type frame struct {
	data []byte
	due  time.Time
}

// pipe is one direction of a limited link.
type pipe struct {
	from, to *os.File
	line     line
	queue    chan frame
	free     sync.Pool
	done     sync.WaitGroup
}

func newPipe(s Spec, from, to *os.File) *pipe {
	p := &pipe{from: from, to: to, line: line{spec: s}, queue: make(chan frame, queueBytes/64)}
	p.free.New = func() any { b := make([]byte, maxFrame); return &b }
	p.done.Go(p.read)
	p.done.Go(p.write)
	return p
}

// read takes frames, and queues each with the time when it is due.
func (p *pipe) read() {
	defer close(p.queue)
	for {
		b := p.free.Get().(*[]byte)
		n, err := p.from.Read(*b)
		if err != nil {
			return // closed
		}
		due, ok := p.line.send(time.Now(), n)
		if !ok {
			p.free.Put(b)
			continue
		}
		p.queue <- frame{(*b)[:n], due}
	}
}

// write gives frames when they are due. Time is slept by the thread: the timers
// of the runtime are late by up to a millisecond when it is idle.
func (p *pipe) write() {
	for f := range p.queue {
		if d := time.Until(f.due); d > 0 {
			ts := unix.NsecToTimespec(int64(d))
			_ = unix.Nanosleep(&ts, nil) // a signal makes it short, which is no matter
		}
		_, _ = p.to.Write(f.data) // a device that goes down drops it
		b := f.data[:maxFrame]
		p.free.Put(&b)
	}
}

func (p *pipe) close() error {
	err := p.from.Close()
	p.done.Wait()
	return err
}

// line says when frames arrive at the far end of a link.
type line struct {
	spec Spec
	free time.Time // when the last frame will have been sent
}

// send tells when a frame of n bytes that comes now arrives, or that the queue is
// full.
func (l *line) send(now time.Time, n int) (due time.Time, ok bool) {
	start := l.free
	if start.Before(now) {
		start = now
	}
	onWire := func(n int64) time.Duration { return time.Duration(n * 8 * int64(time.Second) / l.spec.BitsPerS) }
	if start.Sub(now) > onWire(queueBytes) {
		return time.Time{}, false
	}
	l.free = start.Add(onWire(int64(n)))
	return l.free.Add(l.spec.RoundTrip / 2), true
}
