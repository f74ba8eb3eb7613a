package nbdclient

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
)

// submitAll submits requests as one batch and waits for all of them.
func submitAll(s *Session, requests ...*Request) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	b := s.NewBatch()
	for _, r := range requests {
		wg.Add(1)
		r.Done = func(_ *Request, err error) {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
			wg.Done()
		}
		b.Submit(r)
	}
	b.Send()
	wg.Wait()
	return errors.Join(errs...)
}

// block16 are 16 requests for neighbours of so many bytes.
func block16(op Op, from uint64, bytes int, data func(i int) []byte) []*Request {
	var rs []*Request
	for i := range 16 {
		rs = append(rs, &Request{Op: op, OffBytes: from + uint64(i*bytes), Data: data(i)})
	}
	return rs
}

func TestSubmit(t *testing.T) {
	f := newFakeServer(t)
	for _, size := range []int{512, 4096, copiedBytes, 32 << 10} {
		s := openTest(t, f.addr, sessionOptions(2))
		pattern := func(i int) []byte { return bytes.Repeat([]byte{byte(size>>8 + i + 1)}, size) }
		if err := submitAll(s, append(block16(OpWrite, 0, size, pattern), &Request{Op: OpFlush})...); err != nil {
			t.Fatal(err)
		}
		reads := block16(OpRead, 0, size, func(int) []byte { return make([]byte, size) })
		if err := submitAll(s, reads...); err != nil {
			t.Fatal(err)
		}
		for i, r := range reads {
			if !bytes.Equal(r.Data, pattern(i)) {
				t.Fatalf("%d bytes, request %d: wrong data", size, i)
			}
		}
	}
}

func TestSubmitRefuses(t *testing.T) {
	f := newFakeServer(t)
	s := openTest(t, f.addr, sessionOptions(1))
	for name, r := range map[string]*Request{
		"nothing":        {Op: OpRead},
		"beyond the end": {Op: OpRead, OffBytes: s.Info().SizeBytes - 511, Data: make([]byte, 512)},
		"far beyond":     {Op: OpWrite, OffBytes: 1<<64 - 512, Data: make([]byte, 512)},
		"too much":       {Op: OpWrite, Data: make([]byte, s.Info().MaxPayloadBytes+1)},
	} {
		if err := submitAll(s, r); !block.Is(err, block.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSubmitSurvivesEveryKindOfLoss(t *testing.T) {
	f := newFakeServer(t)
	var n atomic.Int64
	f.request = func(_ string, _ uint16, _ uint64) int {
		switch n.Add(1) % 37 {
		case 5:
			return dropConnection
		case 21:
			return answerShutdown
		}
		return serve
	}
	s := openTest(t, f.addr, sessionOptions(3))
	for round := range 12 {
		want := func(i int) []byte { return bytes.Repeat([]byte{byte(round<<4 | i)}, 1024) }
		if err := submitAll(s, block16(OpWrite, uint64(round)<<14, 1024, want)...); err != nil {
			t.Fatal(err)
		}
		reads := block16(OpRead, uint64(round)<<14, 1024, func(int) []byte { return make([]byte, 1024) })
		if err := submitAll(s, reads...); err != nil {
			t.Fatal(err)
		}
		for i, r := range reads {
			if !bytes.Equal(r.Data, want(i)) {
				t.Fatalf("round %d, request %d: wrong data", round, i)
			}
		}
	}
}

// TestSubmitDoesNotWait: a large write that the server does not read yet holds up
// nobody who submits.
func TestSubmitDoesNotWait(t *testing.T) {
	f := newFakeServer(t)
	var hold sync.WaitGroup
	hold.Add(1)
	f.request = func(string, uint16, uint64) int { hold.Wait(); return serve }
	o := sessionOptions(1)
	o.Conn.StallTimeout = 0 // it would end the wait
	s := openTest(t, f.addr, o)
	results := make(chan error, 2)
	submitted := make(chan struct{})
	want := bytes.Repeat([]byte{7}, 1<<20)
	go func() {
		defer close(submitted)
		b := s.NewBatch()
		done := func(_ *Request, err error) { results <- err }
		b.Submit(&Request{Op: OpFlush, Done: done})
		b.Send()
		b.Submit(&Request{Op: OpWrite, Data: want, Done: done})
	}()
	select {
	case <-submitted:
	case <-time.After(60 * time.Second):
		t.Error("it waits")
	}
	hold.Done()
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(want))
	if err := s.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("wrong data: %v", err)
	}
}

// TestSubmitAfterClose: what is submitted to a session that is over fails.
func TestSubmitAfterClose(t *testing.T) {
	f := newFakeServer(t)
	s := openTest(t, f.addr, sessionOptions(1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := submitAll(s, &Request{Op: OpRead, Data: make([]byte, 512)}); !block.Is(err, block.Unavailable) {
		t.Fatal(err)
	}
}
