package block

import (
	"context"
	"time"
)

// Stage is a place where an operation on a device may wait.
type Stage uint8

// The stages, in the order in which a change passes them.
const (
	// StageRoom: too many changes wait to enter the map.
	StageRoom Stage = iota
	// StageRange: earlier changes hold the range.
	StageRange
	// StagePages: pages of the extent map are looked up.
	StagePages
	// StageAppend: the log takes the data.
	StageAppend
	// StageSync: the log is made durable.
	StageSync
	// StageData: data is read from segments.
	StageData
	stages
)

var stageNames = [stages]string{"room", "range", "pages", "append", "sync", "data"}

func (s Stage) String() string { return stageNames[s] }

// Stages lists every stage.
func Stages() []Stage {
	all := make([]Stage, stages)
	for i := range all {
		all[i] = Stage(i)
	}
	return all
}

// Waits says how long one operation spent in each stage. It belongs to the
// goroutine that runs the operation. Of a nil Waits nothing is measured, and
// no clock is read.
type Waits struct{ spent [stages]time.Duration }

// Reset forgets what was measured.
func (w *Waits) Reset() {
	if w != nil {
		w.spent = [stages]time.Duration{}
	}
}

// In returns what was spent in a stage.
func (w *Waits) In(s Stage) time.Duration {
	if w == nil {
		return 0
	}
	return w.spent[s]
}

// Begin returns the time, for End.
func (w *Waits) Begin() time.Time {
	if w == nil {
		return time.Time{}
	}
	return time.Now()
}

// End counts the time since began to a stage and returns the time, with which
// the next stage begins.
func (w *Waits) End(s Stage, began time.Time) time.Time {
	if w == nil {
		return time.Time{}
	}
	now := time.Now()
	w.spent[s] += now.Sub(began)
	return now
}

type waitsKey struct{}

// WithWaits returns a context whose operations are measured in w, one at a
// time.
func WithWaits(ctx context.Context, w *Waits) context.Context {
	return context.WithValue(ctx, waitsKey{}, w)
}

// WaitsOf returns where the operations of ctx are measured, or nil.
func WaitsOf(ctx context.Context) *Waits {
	w, _ := ctx.Value(waitsKey{}).(*Waits)
	return w
}
