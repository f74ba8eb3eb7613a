package apiserver

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// progressEvery is the least time between two progress events of one stream.
const progressEvery = 100 * time.Millisecond

// damagePerEvent bounds the damage in one event, so that no message grows with
// the damage.
const damagePerEvent = 500

// GetStatus describes the server and its store.
func (s *Server) GetStatus(ctx context.Context, _ *connect.Request[slackerv1.GetStatusRequest]) (*connect.Response[slackerv1.Status], error) {
	st, err := s.store.Status(ctx)
	if err != nil {
		return refuse[slackerv1.Status](err)
	}
	out := &slackerv1.Status{
		Version: s.opts.Version, DataDir: s.opts.DataDir, Started: timestamp(s.opts.Started),
		FormatVersion: st.FormatVersion, NbdAddresses: s.opts.NBDAddresses,
		Volumes: count(st.Volumes), Snapshots: count(st.Snapshots),
		Attachments: count(st.Attachments), Connections: count(st.Connections),
		DataBytes: st.DataBytes, SegmentBytes: st.SegmentBytes, ReclaimableBytes: st.ReclaimableBytes,
		CapacityBytes: st.CapacityBytes, FreeBytes: st.FreeBytes, ReserveBytes: st.ReserveBytes, Short: st.Short,
	}
	if s.opts.Upgrader != nil {
		out.Upgrade = s.opts.Upgrader.LastUpgrade()
	}
	if st.Fault != nil {
		out.ReadOnly, out.Fault = true, st.Fault.Error()
	}
	return respond(out, nil)
}

func count(n int) uint64 { return uint64(max(n, 0)) } //nolint:gosec // not negative

// Check verifies the store, and streams progress, then what it found.
func (s *Server) Check(ctx context.Context, r *connect.Request[slackerv1.CheckRequest], stream *connect.ServerStream[slackerv1.CheckEvent]) error {
	events := newEvents(ctx, stream.Send, s.opts.Now)
	defer events.cancel()
	damage, err := s.opts.Checker.Check(events.ctx, r.Msg.GetData(), func(done, total uint64, unit string) {
		events.progress(&slackerv1.CheckEvent{Done: done, Total: total, Unit: unit}, done == total)
	})
	if err != nil {
		return api.ToConnect(err)
	}
	for len(damage) > damagePerEvent {
		if err := events.send(&slackerv1.CheckEvent{Damage: damageMessages(damage[:damagePerEvent])}); err != nil {
			return err
		}
		damage = damage[damagePerEvent:]
	}
	return events.send(&slackerv1.CheckEvent{Damage: damageMessages(damage), Finished: true})
}

func damageMessages(damage []Damage) []*slackerv1.Damage {
	out := make([]*slackerv1.Damage, 0, len(damage))
	for _, d := range damage {
		out = append(out, &slackerv1.Damage{Kind: d.Kind, Object: d.Object, Detail: d.Detail, Affected: d.Affected})
	}
	return out
}

// CollectGarbage gives space back, and streams progress, then what it did.
func (s *Server) CollectGarbage(ctx context.Context, r *connect.Request[slackerv1.CollectGarbageRequest], stream *connect.ServerStream[slackerv1.CollectGarbageEvent]) error {
	events := newEvents(ctx, stream.Send, s.opts.Now)
	defer events.cancel()
	freed, itemErrors, err := s.opts.Collector.Collect(events.ctx, r.Msg.GetDryRun(), func(step string, done, total uint64, unit string) {
		events.progress(&slackerv1.CollectGarbageEvent{Step: step, Done: done, Total: total, Unit: unit}, done == total)
	})
	if err != nil {
		return api.ToConnect(err)
	}
	return events.send(&slackerv1.CollectGarbageEvent{FreedBytes: freed, Errors: itemErrors, Finished: true})
}

// events sends the events of one stream. Its ctx ends when the client is gone,
// so that the work does too.
type events[T any] struct {
	ctx    context.Context
	cancel context.CancelFunc
	now    func() time.Time

	mu   sync.Mutex // orders Send, which takes no concurrent calls
	out  func(*T) error
	next time.Time
}

func newEvents[T any](ctx context.Context, out func(*T) error, now func() time.Time) *events[T] {
	e := &events[T]{out: out, now: now}
	e.ctx, e.cancel = context.WithCancel(ctx)
	return e
}

// progress sends ev unless one has been sent just now; last is always sent.
func (e *events[T]) progress(ev *T, last bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if !last && now.Before(e.next) {
		return
	}
	e.next = now.Add(progressEvery)
	if err := e.out(ev); err != nil {
		e.cancel()
	}
}

func (e *events[T]) send(ev *T) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.out(ev)
}
