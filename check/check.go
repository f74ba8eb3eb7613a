package check

import (
	"context"
	"fmt"
	"slices"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
	"github.com/slackerd/slacker/segment"
)

// The kinds of damage.
const (
	Catalog = "catalog"
	Map     = "map"
	Counter = "counter"
	Twice   = "named twice"
	Entry   = "entry"
	Segment = "segment"
	Replay  = "replay point"
	Data    = "data"
	Journal = "journal"
)

// MaxDamages bounds how many damages one check reports; a last one says how
// many more there are.
const MaxDamages = 1000

// Damage is one thing that is wrong.
type Damage struct {
	Kind   string
	Object string // what is hit: a segment, a layer and its blocks, a counter
	Detail string
	// Affected are the volumes and snapshots (VOLUME@SNAPSHOT) that see what is
	// hit, sorted. Empty when nobody does, or when everybody may.
	Affected []string
}

func (d Damage) String() string {
	s := fmt.Sprintf("%s: %s: %s", d.Kind, d.Object, d.Detail)
	if len(d.Affected) > 0 {
		s += fmt.Sprintf(" (seen by %v)", d.Affected)
	}
	return s
}

// Options say what to check.
type Options struct {
	Tree *cow.Tree
	Log  *segment.Log
	// Flush makes every change so far durable in the log and in the map.
	Flush func(context.Context) error
	// Data wants every live block to be read and verified.
	Data bool
	// Throttle, when set, is called before that many bytes are read, and waits
	// to bound the rate.
	Throttle func(ctx context.Context, bytes int) error
	// Progress, when set, is told how far the check is.
	Progress func(done, total uint64, unit string)
	// Orphan, when set, is told of a segment that nothing needs.
	Orphan func(segment.Info)
}

// walk is one check.
type walk struct {
	o       Options
	part    *part // nil: everything
	audit   *cow.Audit
	forest  *forest
	live    map[block.SegmentID]int64 // entries, by the segment they name
	torn    map[cow.MapID]bool        // maps that could not be read in full
	damages []Damage
	more    int
}

// Run checks a store and returns what is damaged. An error means that the check
// could not be finished, not that something is damaged. It may run beside
// everything that the store does.
func Run(ctx context.Context, o Options) ([]Damage, error) { return run(ctx, o, nil, nil) }

// run is Run of everything, or of a part. seen, when set, is called at the end.
func run(ctx context.Context, o Options, p *part, seen func(*walk)) (damages []Damage, err error) {
	if o.Progress == nil {
		o.Progress = func(uint64, uint64, string) {}
	}
	if o.Throttle == nil {
		o.Throttle = func(context.Context, int) error { return nil }
	}
	if o.Orphan == nil {
		o.Orphan = func(segment.Info) {}
	}
	if err := o.Flush(ctx); err != nil {
		return nil, block.Wrap(block.IO, err, "check")
	}
	audit, err := o.Tree.Audit(ctx)
	if err != nil {
		if block.Is(err, block.Corrupt) {
			return []Damage{{Kind: Catalog, Object: "catalog", Detail: err.Error()}}, nil
		}
		return nil, block.Wrap(block.IO, err, "check")
	}
	defer func() {
		if cerr := audit.Close(); err == nil {
			err = cerr
		}
	}()
	w := &walk{o: o, part: p, audit: audit, live: map[block.SegmentID]int64{}, torn: map[cow.MapID]bool{}}
	w.forest = newForest(audit)
	w.catalog()
	for _, step := range []func(context.Context) error{w.journal, w.maps, w.segments, w.replay} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	if seen != nil {
		seen(w)
	}
	return w.result(), nil
}

func (w *walk) report(kind, object string, affected []string, format string, args ...any) {
	if len(w.damages) == MaxDamages {
		w.more++
		return
	}
	w.damages = append(w.damages, Damage{Kind: kind, Object: object, Detail: fmt.Sprintf(format, args...), Affected: affected})
}

func (w *walk) result() []Damage {
	if w.more > 0 {
		w.damages = append(w.damages, Damage{Kind: w.damages[0].Kind, Object: "store", Detail: fmt.Sprintf("%d more damages are not listed", w.more)})
	}
	return slices.Clip(w.damages)
}
