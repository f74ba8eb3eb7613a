package nbdserver

import (
	"context"
	"math/bits"
	"sync"

	"golang.org/x/sync/semaphore"
)

// headBytes is the room before the data of a buffer, for a reply header that
// ends where the data begins.
const headBytes = 64

// Buffers come in powers of two between these.
const (
	minBufferBits = 12 // 4 KiB
	maxBufferBits = 25 // 32 MiB, block.MaxRequestBytes
)

// buffer is a pooled piece of memory: headBytes and then data. It is owned by
// whoever holds the pointer, and given back with release.
type buffer struct {
	mem   []byte
	class int
	// from and to delimit what the sender writes.
	from, to int
	held     *budget // what its size was taken from, or nil
}

var pools [maxBufferBits - minBufferBits + 1]sync.Pool

// newBuffer returns a buffer with room for nBytes of data, at most 32 MiB.
func newBuffer(nBytes int) *buffer {
	class := max(bits.Len(uint(max(nBytes, 1)-1)), minBufferBits) - minBufferBits
	if b, ok := pools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{mem: make([]byte, headBytes+1<<(class+minBufferBits)), class: class}
}

// data returns the first n bytes of the data.
func (b *buffer) data(n int) []byte { return b.mem[headBytes : headBytes+n : headBytes+n] }

// room returns what the buffer's size counts for in budgets.
func (b *buffer) room() int64 { return int64(len(b.mem)) }

// setHead puts a header before n bytes of data.
func (b *buffer) setHead(head []byte, n int) {
	b.from, b.to = headBytes-len(head), headBytes+n
	copy(b.mem[b.from:headBytes], head)
}

func (b *buffer) wire() []byte { return b.mem[b.from:b.to] }

func (b *buffer) release() {
	if b.held != nil {
		b.held.give(b.room())
		b.held = nil
	}
	b.from, b.to = 0, 0
	pools[b.class].Put(b)
}

// budget bounds the memory of one connection's commands within that of the
// server.
type budget struct{ own, total *semaphore.Weighted }

// buffer waits for memory and returns a buffer that gives it back when
// released.
func (m *budget) buffer(ctx context.Context, nBytes int) (*buffer, error) {
	b := newBuffer(nBytes)
	if err := m.own.Acquire(ctx, b.room()); err != nil {
		b.release()
		return nil, err
	}
	if err := m.total.Acquire(ctx, b.room()); err != nil {
		m.own.Release(b.room())
		b.release()
		return nil, err
	}
	b.held = m
	return b, nil
}

// tryBuffer is buffer that returns nil instead of waiting.
func (m *budget) tryBuffer(nBytes int) *buffer {
	b := newBuffer(nBytes)
	if !m.own.TryAcquire(b.room()) {
		b.release()
		return nil
	}
	if !m.total.TryAcquire(b.room()) {
		m.own.Release(b.room())
		b.release()
		return nil
	}
	b.held = m
	return b
}

func (m *budget) give(n int64) {
	m.total.Release(n)
	m.own.Release(n)
}
