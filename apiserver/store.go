package apiserver

import (
	"context"
	"time"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/volume"
)

// Store is what the server administers. The text of its errors reaches the
// user as it is, and their kind decides the code. Everything that changes
// something is atomic, and durable when it returns. Methods run concurrently.
type Store interface {
	Create(ctx context.Context, name string, sizeBytes uint64) (volume.Info, error)
	List(ctx context.Context, prefix string) ([]volume.Info, error)
	Get(ctx context.Context, name string) (volume.Info, error)
	Space(ctx context.Context, target string) (volume.Space, error)
	Resize(ctx context.Context, name string, sizeBytes uint64) (volume.Info, error)
	Rename(ctx context.Context, name, newName string) (volume.Info, error)
	Delete(ctx context.Context, name string, withSnapshots bool) (deleted []string, err error)
	DeleteUnused(ctx context.Context, name string, since time.Time) (deleted []string, err error)
	WouldFree(ctx context.Context, target string, withSnapshots bool, also ...string) (bytes uint64, deleted []string, err error)

	Snapshot(ctx context.Context, volume, snapshot string) (volume.SnapshotInfo, error)
	Publish(ctx context.Context, volume, target string) (volume.SnapshotInfo, error)
	Snapshots(ctx context.Context, volume string) ([]volume.SnapshotInfo, error)
	GetSnapshot(ctx context.Context, volume, snapshot string) (volume.SnapshotInfo, error)
	DeleteSnapshot(ctx context.Context, volume, snapshot string) error
	Rollback(ctx context.Context, volume, snapshot string) (volume.Info, error)
	Clone(ctx context.Context, volume, snapshot, newVolume string) (volume.Info, error)

	BeginImport(ctx context.Context, volume, snapshot string, sizeBytes uint64) (importID string, a volume.AttachmentInfo, err error)
	FinishImport(ctx context.Context, importID string) (volume.SnapshotInfo, error)
	AbortImport(ctx context.Context, importID string) error

	Attach(ctx context.Context, r volume.AttachRequest) (volume.AttachmentInfo, error)
	Detach(ctx context.Context, attachmentID string) error
	// AttachmentTarget and ImportTarget say what an id is about.
	AttachmentTarget(id string) (target string, writable bool, err error)
	ImportTarget(importID string) (target string, err error)
	Attachments(ctx context.Context, target, worker string) ([]volume.AttachmentInfo, error)
	Dirty(ctx context.Context, attachmentID, baseID string, offBytes uint64) ([]volume.Changed, error)
	// BaseTarget names the base of an attachment, if it has that identity.
	BaseTarget(attachmentID, baseID string) (target string, err error)
	ReadBase(ctx context.Context, attachmentID, baseID string, runs []uint64, p []byte) error
	Trace(baseID string, kind volume.TraceKind) []byte
	PutTrace(ctx context.Context, attachmentID, baseID string, kind volume.TraceKind, trace []byte) error

	Status(ctx context.Context) (volume.Status, error)
}

// Damage is one fault that a check found.
type Damage struct {
	Kind     string   // what is wrong, in a few words that do not vary
	Object   string   // where: a segment, a layer, a key
	Detail   string   // what was wanted and what was found
	Affected []string // VOLUME and VOLUME@SNAPSHOT whose data it touches
}

// Checker verifies the store. With data it also reads every live block.
// Finding damage is no error.
type Checker interface {
	Check(ctx context.Context, data bool, progress func(done, total uint64, unit string)) ([]Damage, error)
}

// Collector gives space back. itemErrors are those that did not stop it.
type Collector interface {
	Collect(ctx context.Context, dryRun bool, progress func(step string, done, total uint64, unit string)) (freedBytes uint64, itemErrors []string, err error)
	// Garbage says what a collection would free and what nothing refers to.
	Garbage(ctx context.Context) (reclaimableBytes uint64, orphans []Orphan, err error)
}

// Orphan is something that nothing refers to. Collected says that the collector
// takes it.
type Orphan struct {
	Kind, Object, Detail string
	Bytes                uint64
	Collected            bool
}

// ScrubState is how far a scrub is and what it found.
type ScrubState struct {
	Running                 bool
	Started, Finished       time.Time
	DoneBlocks, TotalBlocks uint64
	Runs                    uint64
	Damage                  []Damage
	More                    uint64
	Problem                 string
}

// Upgrader replaces the server's program by the one that is installed.
type Upgrader interface {
	// Upgrade begins an upgrade once the installed program has accepted the
	// configuration, and returns its version.
	Upgrade(ctx context.Context) (installed string, err error)
	// LastUpgrade is the last one of this process, nil if there was none.
	LastUpgrade() *slackerv1.Upgrade
}

// Scrubber verifies the store in the background.
type Scrubber interface {
	StartScrub(ctx context.Context) error
	StopScrub(ctx context.Context) error
	ScrubState(ctx context.Context) ScrubState
}
