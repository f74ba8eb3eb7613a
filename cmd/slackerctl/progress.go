package main

import (
	"fmt"
	"math"
	"time"

	"github.com/schollz/progressbar/v3"
)

const barEvery = 100 * time.Millisecond

// progress shows how far something is on standard error: a bar on a terminal,
// a line per phase and per tenth of it elsewhere, nothing with --json or --quiet.
type progress struct {
	a     *app
	show  bool
	bars  bool
	bar   *progressbar.ProgressBar
	phase string
	tenth uint64 // the last told
	total uint64
}

func (a *app) newProgress() *progress {
	return &progress{a: a, show: !a.json && !a.quiet, bars: a.terminal(a.stderr)}
}

// bytes is update for package image.
func (p *progress) bytes(phase string, doneBytes, totalBytes uint64) {
	p.update(phase, doneBytes, totalBytes, "bytes")
}

// update tells that done of total units of a phase are done; total is 0 where
// it is not known.
func (p *progress) update(phase string, done, total uint64, unit string) {
	if !p.show {
		return
	}
	phase, unit = oneLine(phase), oneLine(unit)
	begins := phase != p.phase
	p.phase = phase
	if p.bars {
		p.draw(begins, done, total, unit)
		return
	}
	p.tell(begins, done, total, unit)
}

func (p *progress) tell(begins bool, done, total uint64, unit string) {
	if total == 0 {
		if begins {
			line(p.a.stderr, p.phase)
			p.tenth = 0
		}
		return
	}
	tenth := uint64(float64(done) / float64(total) * 10)
	if !begins && tenth <= p.tenth {
		return
	}
	p.tenth = tenth
	amount := fmt.Sprintf("%d of %d %s", done, total, unit)
	if unit == "bytes" {
		amount = fmt.Sprintf("%s of %s", bytesText(done), bytesText(total))
	}
	line(p.a.stderr, fmt.Sprintf("%s: %d%%, %s", p.phase, tenth*10, amount))
}

func (p *progress) draw(begins bool, done, total uint64, unit string) {
	limit := int64(-1) // not known: a spinner
	if total > 0 {
		limit = int64(min(total, math.MaxInt64)) //nolint:gosec // bounded just there
	}
	switch {
	case begins || p.bar == nil:
		p.finish()
		p.bar = progressbar.NewOptions64(limit, progressbar.OptionSetWriter(p.a.stderr), progressbar.OptionSetDescription(p.phase),
			progressbar.OptionShowBytes(unit == "bytes"), progressbar.OptionUseIECUnits(true), progressbar.OptionThrottle(barEvery),
			progressbar.OptionSetSpinnerChangeInterval(0), progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(30), progressbar.OptionShowCount())
	case total != p.total:
		p.bar.ChangeMax64(limit)
	}
	p.total = total
	n := int64(min(done, math.MaxInt64)) //nolint:gosec // bounded just there
	if limit >= 0 {
		n = min(n, limit)
	}
	_ = p.bar.Set64(n) // a terminal that is gone does not stop the work
}

// finish takes the bar away. It may be called again.
func (p *progress) finish() {
	if p.bar != nil {
		_ = p.bar.Clear() // as above
		_ = p.bar.Exit()
		p.bar = nil
	}
}
