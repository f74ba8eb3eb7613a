package apiserver

import (
	"context"
	"runtime"
	"sync"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/volume"
)

const (
	// maxBaseBytes and maxBaseRuns bound one ReadBase.
	maxBaseBytes = 1 << 20
	maxBaseRuns  = 512
)

// baseReads is how many ReadBase work at once; others wait their turn, so that
// clients that fetch ahead leave most of the machine to the others.
var baseReads = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))

var encoders = sync.Pool{New: func() any {
	// One goroutine's work; the fastest level: see docs/ARCHITECTURE.md.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		panic(err) // of options that are constant
	}
	return e
}}

var plainBuffers = sync.Pool{New: func() any { return new([maxBaseBytes]byte) }}

// ReadBase reads blocks of the base of an attachment.
func (s *Server) ReadBase(ctx context.Context, r *connect.Request[slackerv1.ReadBaseRequest]) (*connect.Response[slackerv1.ReadBaseResponse], error) {
	m := r.Msg
	n, err := baseBytes(m)
	if err != nil {
		return refuse[slackerv1.ReadBaseResponse](err)
	}
	select {
	case baseReads <- struct{}{}:
		defer func() { <-baseReads }()
	case <-ctx.Done():
		return refuse[slackerv1.ReadBaseResponse](block.Errorf(block.Unavailable, "read base: %w", context.Cause(ctx)))
	}
	buf := plainBuffers.Get().(*[maxBaseBytes]byte)
	defer plainBuffers.Put(buf)
	if err := s.store.ReadBase(ctx, m.GetAttachmentId(), m.GetBaseId(), m.GetRuns(), buf[:n]); err != nil {
		return refuse[slackerv1.ReadBaseResponse](err)
	}
	e := encoders.Get().(*zstd.Encoder)
	defer encoders.Put(e)
	return respond(&slackerv1.ReadBaseResponse{Zstd: e.EncodeAll(buf[:n], make([]byte, 0, n/2))}, nil)
}

// baseBytes checks a request and returns how many bytes it is about.
func baseBytes(m *slackerv1.ReadBaseRequest) (n uint64, err error) {
	if err := checkBase("read base", m.GetAttachmentId(), m.GetBaseId()); err != nil {
		return 0, err
	}
	runs := m.GetRuns()
	if len(runs) == 0 || len(runs)%2 != 0 || len(runs) > 2*maxBaseRuns {
		return 0, block.Errorf(block.Invalid, "read base: %d numbers: want an offset and a length each of 1 to %d runs", len(runs), maxBaseRuns)
	}
	for i := 1; i < len(runs); i += 2 {
		if runs[i] > maxBaseBytes-n {
			return 0, block.Errorf(block.Invalid, "read base: more than %d bytes", maxBaseBytes)
		}
		n += runs[i]
	}
	return n, nil
}

func checkBase(what, attachmentID, baseID string) error {
	if err := checkText(what+": attachment id", attachmentID); err != nil {
		return err
	}
	return checkText(what+": base", baseID)
}

// PutTrace keeps what a start of an attachment has read and opened of its base.
func (s *Server) PutTrace(ctx context.Context, r *connect.Request[slackerv1.PutTraceRequest]) (*connect.Response[slackerv1.PutTraceResponse], error) {
	m := r.Msg
	err := checkBase("put trace", m.GetAttachmentId(), m.GetBaseId())
	blocks, files := len(m.GetTrace()) > 0, len(m.GetFiles()) > 0
	if err == nil && (blocks || !files) {
		_, err = boottrace.Decode(m.GetTrace())
	}
	if err == nil && files {
		_, err = boottrace.DecodeFiles(m.GetFiles())
	}
	if err == nil && blocks {
		err = s.store.PutTrace(ctx, m.GetAttachmentId(), m.GetBaseId(), volume.TraceOfBlocks, m.GetTrace())
	}
	if err == nil && files {
		err = s.store.PutTrace(ctx, m.GetAttachmentId(), m.GetBaseId(), volume.TraceOfFiles, m.GetFiles())
	}
	return respond(&slackerv1.PutTraceResponse{}, err)
}
