package worker

import (
	"context"
	"path/filepath"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/blockcache"
	"github.com/slackerd/slacker/fusefile"
	"github.com/slackerd/slacker/lazy"
)

// Where blocks are kept, and how many.
const (
	DefaultCacheDir   = "/var/cache/slacker"
	DefaultCacheBytes = 1 << 30
	maxBaseIDBytes    = 128
)

// base is the snapshot that an attachment starts from, as the server told.
type base struct {
	ID        string `json:"id"`
	SizeBytes uint64 `json:"size_bytes"`
	Clean     bool   `json:"clean"` // nothing was written since, when it was attached
}

// baseFrom takes over what the server says of the base; one that makes no sense is
// none.
func baseFrom(a *slackerv1.Attachment) *base {
	b := a.GetBase()
	if b == nil || b.GetId() == "" || len(b.GetId()) > maxBaseIDBytes || b.GetSizeBytes() > block.MaxVolumeBytes {
		return nil
	}
	return &base{b.GetId(), b.GetSizeBytes(), b.GetClean()}
}

// useCache says in the state where blocks are kept.
func (w *Worker) useCache(s *state) {
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
	d.volume, err = lazy.New(d.session, lazy.Options{Base: b, Clean: began && s.Base.Clean, Dirty: d.dirty, Log: d.log})
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
	client, err := api.NewTLSClient(d.state.Server, d.state.secure())
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	answer, err := client.GetDirty(ctx, connect.NewRequest(&slackerv1.GetDirtyRequest{AttachmentId: d.state.AttachmentID, BaseId: d.state.Base.ID, OffsetBytes: offBytes}))
	if err != nil {
		return nil, 0, api.FromConnect(err)
	}
	return answer.Msg.GetRuns(), answer.Msg.GetEndBytes(), nil
}

// close ends the session and the cache.
func (d *fuseDaemon) close() error {
	err := d.session.Close()
	if d.volume != nil {
		err = joinLine(err, d.volume.Close())
	}
	return err
}
