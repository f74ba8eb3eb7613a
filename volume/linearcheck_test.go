package volume

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// effective returns the operations of a register up to a cut, as they can have
// taken effect: a call that was in progress at the cut, or failed, counts if
// somebody saw what it wrote; nothing of a replaced connection takes effect
// after that.
func (h *linear) effective(register int, c *linearCut, extra []*operation) (ops []*operation) {
	all := append(slices.Clone(h.ops), extra...)
	seen := map[tag]bool{}
	for _, o := range all {
		if o.kind == opCrash || o.kind == opRead && o.err == nil && o.ret < c.before {
			seen[o.got[0]], seen[o.got[1]] = true, true
		}
	}
	for _, o := range all {
		if o.kind != opFlush && o.register != register || o.call > c.after && o.kind != opCrash {
			continue
		}
		answered := o.err == nil && o.ret < c.before || o.kind == opCrash
		if !answered && (o.kind != opWrite || !seen[o.tag]) {
			continue
		}
		e := *o
		e.kept = answered && (o.kept || c.kind == 100) // V7
		if e.kind != opCrash {
			e.ret = min(o.ret, c.after)
		}
		if f := o.conn; f != nil && f.fenced != 0 && o.kind == opWrite {
			if o.call > f.fenced {
				h.fatalf("a write of a replaced connection took effect: %v, replaced at %d", o, f.fenced)
			}
			e.ret = min(e.ret, f.fenced)
		}
		ops = append(ops, &e)
	}
	return ops
}

// register is the state of the model: what the block holds, and whether a crash
// may leave what it did leave.
type register struct {
	now content
	may bool
}

func registerModel(left content) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{may: left == content{}} },
		Step: func(state, input, _ any) (bool, any) {
			r, o := state.(register), input.(*operation)
			switch o.kind {
			case opRead:
				return o.got == r.now, r
			case opFlush:
				r.may = r.now == left
			case opCrash:
				return r.may, r
			case opWrite:
				for i := range r.now {
					if o.halves[i] {
						r.now[i] = o.tag
					}
				}
				r.may = r.now == left || r.may && !o.kept
			}
			return true, r
		},
	}
}

// check wants the operations of each register to have an order that explains
// what was read, and what the crash left if there was one.
func (h *linear) check(what string, c *linearCut, extra []*operation) {
	h.t.Helper()
	for i := range linearBlocks {
		ops := h.effective(i, c, extra)
		if res := explain(ops); res != porcupine.Ok {
			least := reduce(ops, reduceTries, func(part []*operation) bool { return seenIsWritten(part) && explain(part) == porcupine.Illegal })
			h.fatalf("%s: block %d: no order explains it (%s):\n%s\n\nnor this part of it:\n%s", what, linearBlocks[i], res, linesOf(ops), linesOf(least))
		}
	}
}

// explain looks for an order of the operations of one register.
func explain(ops []*operation) porcupine.CheckResult {
	var left content
	calls := make([]porcupine.Operation, 0, len(ops))
	for _, o := range ops {
		if o.kind == opCrash {
			left = o.got
		}
		calls = append(calls, porcupine.Operation{Input: o, Call: o.call, Return: o.ret})
	}
	return porcupine.CheckOperationsTimeout(registerModel(left), calls, time.Minute)
}

// seenIsWritten reports whether everything that was read or left is written by
// an operation of the same part, so that the part is a history of its own.
func seenIsWritten(ops []*operation) bool {
	written := map[tag]bool{0: true}
	for _, o := range ops {
		if o.kind == opWrite {
			written[o.tag] = true
		}
	}
	return !slices.ContainsFunc(ops, func(o *operation) bool {
		return (o.kind == opRead || o.kind == opCrash) && !(written[o.got[0]] && written[o.got[1]])
	})
}

func linesOf(ops []*operation) string {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b *operation) int { return cmp.Compare(a.call, b.call) })
	lines := make([]string, len(ops))
	for i, o := range ops {
		lines[i] = o.String()
	}
	return strings.Join(lines, "\n")
}
