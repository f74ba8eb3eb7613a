package latency

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Bounds are the upper ends of the buckets, from 10 us to 30 s; one
// more bucket holds what took longer. Each is at most 1.7 times the one before.
var Bounds = makeBounds()

// nBuckets counts the buckets, the last one without an end.
const nBuckets = 41

func makeBounds() (bounds [nBuckets - 1]time.Duration) {
	i := 0
	for decade := 10 * time.Microsecond; ; decade *= 10 {
		for _, tenth := range []time.Duration{10, 15, 20, 30, 50, 70} {
			bounds[i] = decade * tenth / 10
			if i++; i == len(bounds) {
				return bounds
			}
		}
	}
}

// firstBucket is, by the bit length of a number of nanoseconds, the first
// bucket that such a number can be in.
var firstBucket = func() (first [65]uint8) {
	for n := range first {
		least := uint64(0)
		if n > 0 {
			least = 1 << (n - 1)
		}
		for int(first[n]) < len(Bounds) && uint64(Bounds[first[n]]) < least {
			first[n]++
		}
	}
	return first
}()

// bucketOf returns the bucket of a latency.
func bucketOf(d time.Duration) int {
	n := uint64(max(d, 0))
	b := int(firstBucket[bits.Len64(n)])
	for b < len(Bounds) && n > uint64(Bounds[b]) {
		b++
	}
	return b
}

// Histogram counts latencies. Its zero value is empty. Its methods may run
// concurrently; adding is two atomic additions.
type Histogram struct {
	buckets [nBuckets]atomic.Uint64
	nanos   atomic.Uint64
}

// Add counts a latency.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	h.nanos.Add(uint64(max(d, 0)))
}

// AddTo adds what was counted to c.
func (h *Histogram) AddTo(c *Counts) {
	for i := range h.buckets {
		c.Buckets[i] += h.buckets[i].Load()
	}
	c.Sum += time.Duration(h.nanos.Load())
}

// Counts is what a Histogram has counted, at a moment.
type Counts struct {
	Buckets [nBuckets]uint64 // by Bounds
	Sum     time.Duration
}

// Add adds other counts.
func (c *Counts) Add(o *Counts) {
	for i, n := range o.Buckets {
		c.Buckets[i] += n
	}
	c.Sum += o.Sum
}

// Count returns how many latencies were counted.
func (c *Counts) Count() (n uint64) {
	for _, b := range c.Buckets {
		n += b
	}
	return n
}
