package worker

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/blockcache"
	"github.com/slackerd/slacker/boottrace"
	"github.com/slackerd/slacker/fusefile"
	"github.com/slackerd/slacker/lazy"
)

// Where blocks are kept, and how many.
const (
	DefaultCacheDir   = "/var/cache/slacker"
	DefaultCacheBytes = 1 << 30
	maxBaseIDBytes    = 128
	// maxFetchBytes bounds what a frame of the server unpacks to.
	maxFetchBytes = 1 << 20
	// tellTimeout bounds how long a detach waits for the server to take the trace.
	tellTimeout = 2 * time.Second
)

// base is the snapshot that an attachment starts from, as the server told.
type base struct {
	ID        string `json:"id"`
	SizeBytes uint64 `json:"size_bytes"`
	Clean     bool   `json:"clean"` // nothing was written since, when it was attached
	// Trace is what to read ahead, encoded (package boottrace).
	Trace []byte `json:"trace,omitempty"`

	files  []byte // see [Attached]; not kept
	target string // likewise
}

// baseFrom takes over what the server says of the base; one that makes no sense is
// none.
func baseFrom(a *slackerv1.Attachment) *base {
	b := a.GetBase()
	if b == nil || b.GetId() == "" || len(b.GetId()) > maxBaseIDBytes || b.GetSizeBytes() > block.MaxVolumeBytes {
		return nil
	}
	trace := b.GetTrace()
	if len(trace) > boottrace.MaxBytes {
		trace = nil
	}
	files := b.GetFiles()
	if len(files) > boottrace.MaxFilesBytes {
		files = nil
	}
	return &base{b.GetId(), b.GetSizeBytes(), b.GetClean(), trace, files, b.GetTarget()}
}

// useCache says in the state where blocks are kept.
func (w *Worker) useCache(s *state) {
	s.Prefetch = w.Prefetch
	if s.CacheDir, s.CacheBytes = w.CacheDir, w.CacheBytes; s.CacheDir != "" {
		return
	}
	s.CacheDir = DefaultCacheDir
	if w.StateDir != DefaultStateDir {
		s.CacheDir = filepath.Join(w.StateDir, "cache")
	}
}

// export is what the file system shows: the session, or a cache before it. Of a
// process that takes over, began is false: the one before it has written.
func (d *fuseDaemon) export(began bool) (fusefile.Export, fusefile.Batch) {
	plain := d.session.NewBatch()
	if d.state.Base == nil || d.state.CacheBytes == 0 {
		return d.session, plain
	}
	if err := d.openCache(began); err != nil {
		d.log.Warn("no cache: every read goes to the server", zap.Error(err))
		return d.session, plain
	}
	return d.volume, d.volume.NewBatch()
}

func (d *fuseDaemon) openCache(began bool) error {
	s := d.state
	cache, err := blockcache.Open(s.CacheDir, s.CacheBytes)
	if err != nil {
		return err
	}
	b, err := cache.Base(s.Server, s.Base.ID, s.Base.SizeBytes)
	if err != nil {
		return err
	}
	o := lazy.Options{Base: b, Clean: began && s.Base.Clean, Dirty: d.dirty, Log: d.log}
	if d.server, err = api.NewBulkClient(s.Server, s.secure()); err != nil {
		return joinIf(err, b.Close)
	}
	if s.Prefetch {
		o.Fetch = d.fetchBase
	}
	if s.Prefetch && len(s.Base.Trace) > 0 {
		if o.Trace, err = boottrace.Decode(s.Base.Trace); err != nil {
			d.log.Warn("no boot trace is followed", zap.Error(err))
		}
	}
	d.volume, err = lazy.New(d.session, o)
	return joinIf(err, b.Close)
}

// joinIf undoes something after an error.
func joinIf(err error, undo func() error) error {
	if err == nil {
		return nil
	}
	return joinLine(err, undo())
}

// dirty asks the server what was written since the base, see lazy.Options.
func (d *fuseDaemon) dirty(ctx context.Context, offBytes uint64) ([]uint64, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	answer, err := d.server.GetDirty(ctx, connect.NewRequest(&slackerv1.GetDirtyRequest{AttachmentId: d.state.AttachmentID, BaseId: d.state.Base.ID, OffsetBytes: offBytes}))
	if err != nil {
		return nil, 0, api.FromConnect(err)
	}
	return answer.Msg.GetRuns(), answer.Msg.GetEndBytes(), nil
}

// decoder is of one call at a time; a frame tells more than was asked for at its
// own cost.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxFetchBytes), zstd.WithDecodeAllCapLimit(true))
})

// fetchBase reads blocks of the base, see lazy.Options.
func (d *fuseDaemon) fetchBase(ctx context.Context, runs []boottrace.Run, p []byte) error {
	request := &slackerv1.ReadBaseRequest{AttachmentId: d.state.AttachmentID, BaseId: d.state.Base.ID}
	for _, r := range runs {
		request.Runs = append(request.Runs, r.First*block.Size, r.Count*block.Size)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	answer, err := d.server.ReadBase(ctx, connect.NewRequest(request))
	if err != nil {
		return api.FromConnect(err)
	}
	unpack, err := decoder()
	if err != nil {
		return block.Errorf(block.Internal, "read base: %w", err)
	}
	got, err := unpack.DecodeAll(answer.Msg.GetZstd(), p[:0])
	if err != nil || len(got) != len(p) {
		return block.Errorf(block.Unavailable, "read base: got %d bytes, want %d: %w", len(got), len(p), err)
	}
	return nil
}

// tellTrace tells the server what the start has read, if that is news.
func (d *fuseDaemon) tellTrace() {
	if d.volume == nil || d.told || !d.state.Prefetch {
		return
	}
	d.told = true
	news := d.volume.News()
	if len(news) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
	defer cancel()
	_, err := d.server.PutTrace(ctx, connect.NewRequest(&slackerv1.PutTraceRequest{AttachmentId: d.state.AttachmentID, BaseId: d.state.Base.ID, Trace: boottrace.Encode(news)}))
	if err != nil {
		d.log.Info("the server does not keep what this start has read", zap.Error(api.FromConnect(err)))
	}
}

// TellFiles tells the server which files of its snapshot a start of what is attached
// has opened, for those who attach another clone.
func (w *Worker) TellFiles(ctx context.Context, a *Attached, files []byte) error {
	if a.baseID == "" {
		return block.Errorf(block.NotFound, "%s: what it was made of is not known, or nothing is to be told", a.Target)
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	_, err := w.API.PutTrace(ctx, connect.NewRequest(&slackerv1.PutTraceRequest{AttachmentId: a.AttachmentID, BaseId: a.baseID, Files: files}))
	return api.FromConnect(err)
}

// close ends the session and the cache.
func (d *fuseDaemon) close() error {
	d.tellTrace()
	err := d.session.Close()
	if d.volume != nil {
		err = joinLine(err, d.volume.Close())
	}
	return err
}
