package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockBytes = 4096
	// stampBytes at the head of each block hold its number; the rest of every
	// block is pattern.
	stampBytes = 8
	// sampleEvery is how many operations share one measured latency and one
	// comparison of all bytes; the stamps of every block are always compared.
	sampleEvery = 64
	// bulkBytes is how much a read of small replies takes at once.
	bulkBytes = 256 << 10
)

var pattern = func() (p [blockBytes]byte) {
	for k := range p {
		p[k] = byte(k>>8) ^ byte(k) | 1
	}
	return p
}()

// paint fills whole blocks as the disk has them from offBytes on.
func paint(p []byte, offBytes uint64) {
	for i := 0; i < len(p); i += blockBytes {
		copy(p[i:], pattern[:])
	}
	stamp(p, offBytes)
}

func stamp(p []byte, offBytes uint64) {
	for i := 0; i < len(p); i += blockBytes {
		be.PutUint64(p[i:], offBytes/blockBytes+uint64(i/blockBytes))
	}
}

// examine compares the stamps, and all bytes when whole is set.
func examine(p []byte, offBytes uint64, whole bool) error {
	for i := 0; i < len(p); i += blockBytes {
		want := offBytes/blockBytes + uint64(i/blockBytes)
		if got := be.Uint64(p[i:]); got != want {
			return fmt.Errorf("read block %d: got the contents of block %#x", want, got)
		}
		if whole && !bytes.Equal(p[i+stampBytes:i+blockBytes], pattern[stampBytes:]) {
			return fmt.Errorf("read block %d: wrong contents", want)
		}
	}
	return nil
}

// slot is a place for one request in flight.
type slot struct {
	cookie, offBytes uint64
	cmd              uint16
	busy, sampled    bool
	sent             time.Time
}

// stream is one connection under load. One thread drives it; after newStream it
// allocates nothing.
type stream struct {
	d      *drive
	fd     int
	slots  []slot
	busy   int
	out    []byte // requests, each of outStep bytes, with painted payloads
	step   int
	queued int // bytes of out to send
	in     []byte
	filled int
}

// drive is the state that the streams of one measurement share.
type drive struct {
	l         load
	units     uint64 // requests that fit on the disk
	next, seq uint64
	random    *rand.Rand
	over      bool // no new operations
	count     int
	sent      int
	latencies []time.Duration
}

func newStream(d *drive, fd int) *stream {
	s := &stream{d: d, fd: fd, slots: make([]slot, d.l.depth), step: requestBytes}
	slack := bulkBytes
	if d.l.bytes >= 64<<10 {
		slack = blockBytes // what is left of a read is moved: keep it short
	}
	s.in = make([]byte, replyBytes+d.l.bytes+slack)
	if d.l.write {
		s.step += d.l.bytes
	}
	s.out = make([]byte, d.l.depth*s.step)
	if d.l.write {
		for i := range d.l.depth {
			paint(s.out[i*s.step+requestBytes:(i+1)*s.step], 0)
		}
	}
	return s
}

// issue queues an operation in a slot.
func (s *stream) issue(i int) {
	d := s.d
	at := d.next % d.units
	d.next++
	if !d.l.sequential {
		at = d.random.Uint64N(d.units)
	}
	c := &s.slots[i]
	c.offBytes, c.cmd = at*uint64(d.l.bytes), cmdRead
	d.sent++
	if c.sampled = d.sent%sampleEvery == 1; c.sampled {
		c.sent = time.Now()
	}
	if d.l.write {
		c.cmd = cmdWrite
		stamp(s.out[s.queued+requestBytes:s.queued+s.step], c.offBytes)
	}
	s.put(i, c.offBytes, uint32(d.l.bytes))
	s.queued += s.step
}

// flush queues the flush of the write in a slot; the depth is one.
func (s *stream) flush(i int) {
	s.slots[i].cmd = cmdFlush
	s.put(i, 0, 0)
	s.queued += requestBytes
}

// finish sends a flush on a stream at rest and awaits its reply. It counts for
// nothing.
func (s *stream) finish() error {
	over, count := s.d.over, s.d.count
	s.d.over = true
	s.slots[0].sampled = false
	s.flush(0)
	if err := s.push(); err != nil {
		return err
	}
	for s.busy > 0 {
		if err := s.pull(); err != nil {
			return err
		}
	}
	s.d.over, s.d.count = over, count
	return nil
}

func (s *stream) put(i int, offBytes uint64, lengthBytes uint32) {
	c := &s.slots[i]
	s.d.seq++
	c.cookie, c.busy = uint64(i)<<48|s.d.seq&(1<<48-1), true
	s.busy++
	putRequest(s.out[s.queued:], c.cmd, c.cookie, offBytes, lengthBytes)
}

// push sends what is queued in one call.
func (s *stream) push() error {
	n := s.queued
	s.queued = 0
	return writeFull(s.fd, s.out[:n])
}

// pull reads once, and goes on reading within a reply that is not complete,
// then handles all replies and sends what follows on them.
func (s *stream) pull() error {
	n, err := readSome(s.fd, s.in[s.filled:])
	if err != nil {
		return err
	}
	s.filled += n
	done := 0
	for s.filled-done >= replyBytes {
		used, err := s.reply(s.in[done:s.filled])
		if err != nil {
			return err
		}
		if used == 0 {
			break
		}
		done += used
	}
	s.filled = copy(s.in, s.in[done:s.filled])
	return s.push()
}

// reply handles the reply at the head of b and returns its length, or 0 when
// it is not complete.
func (s *stream) reply(b []byte) (int, error) {
	magic, errno, cookie := be.Uint32(b), be.Uint32(b[4:]), be.Uint64(b[8:])
	i := int(cookie >> 48)
	if magic != simpleMagic || i >= len(s.slots) || !s.slots[i].busy || s.slots[i].cookie != cookie {
		return 0, fmt.Errorf("reply: magic %#x, cookie %#x, which is not in flight", magic, cookie)
	}
	c := &s.slots[i]
	if errno != 0 {
		return 0, fmt.Errorf("command %d at byte %d: error %d", c.cmd, c.offBytes, errno)
	}
	used := replyBytes
	if c.cmd == cmdRead {
		if used += s.d.l.bytes; len(b) < used {
			return 0, nil
		}
		if err := examine(b[replyBytes:used], c.offBytes, c.sampled); err != nil {
			return 0, err
		}
	}
	c.busy = false
	s.busy--
	if c.cmd == cmdWrite && s.d.l.flush {
		s.flush(i)
		return used, nil
	}
	s.d.count++
	if c.sampled && len(s.d.latencies) < cap(s.d.latencies) {
		s.d.latencies = append(s.d.latencies, time.Since(c.sent))
	}
	if !s.d.over {
		s.issue(i)
	}
	return used, nil
}

// run keeps all streams busy until the time is over and drains them. It holds
// its thread: one thread serves all connections, so that the client disturbs
// the server in the same way under each load.
func (d *drive) run(streams []*stream, until time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, s := range streams {
		for i := range s.slots {
			s.issue(i)
		}
		if err := s.push(); err != nil {
			return err
		}
	}
	if len(streams) == 1 {
		for s := streams[0]; s.busy > 0; d.over = !time.Now().Before(until) {
			if err := s.pull(); err != nil {
				return err
			}
		}
		return nil
	}
	return d.runMany(streams, until)
}

func (d *drive) runMany(streams []*stream, until time.Time) error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	defer func() { _ = unix.Close(ep) }()
	for i, s := range streams {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	events := make([]unix.EpollEvent, len(streams))
	for left := len(streams); left > 0; d.over = !time.Now().Before(until) {
		n, err := unix.EpollWait(ep, events, -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			s := streams[e.Fd]
			if err := s.pull(); err != nil {
				return err
			}
			if s.busy == 0 {
				left--
			}
		}
	}
	return nil
}
