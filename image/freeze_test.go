package image

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

// frozenThing notes what becomes of it.
type frozenThing struct {
	log     []string
	freezes int
	failAt  int // the freezing that fails
}

func (f *frozenThing) freeze() (func() error, error) {
	f.freezes++
	if f.freezes == f.failAt {
		return nil, errors.New("freeze")
	}
	f.log = append(f.log, "freeze")
	return func() error {
		f.log = append(f.log, "thaw")
		return nil
	}, nil
}

// TestWhileFrozen: what is frozen is always thawed, nobody waits frozen for the value,
// and fn is called while it is frozen or not at all.
func TestWhileFrozen(t *testing.T) {
	failed := errors.New("fn")
	for name, c := range map[string]struct {
		late, never bool // when the value comes
		failAt      int
		fn          error
		want        []string
		err         bool
	}{
		"it is there":       {want: []string{"freeze", "fn 7", "thaw"}},
		"fn fails":          {fn: failed, want: []string{"freeze", "fn 7", "thaw"}, err: true},
		"no freezing":       {failAt: 1, err: true},
		"it comes late":     {late: true, want: []string{"freeze", "thaw", "late", "freeze", "fn 7", "thaw"}},
		"late and fn fails": {late: true, fn: failed, want: []string{"freeze", "thaw", "late", "freeze", "fn 7", "thaw"}, err: true},
		"late, no freezing": {late: true, failAt: 2, want: []string{"freeze", "thaw", "late"}, err: true},
		"the time is over":  {never: true, want: []string{"freeze", "thaw", "late"}, err: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &frozenThing{failAt: c.failAt}
				value := make(chan int, 1)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.late || c.never {
					go func() {
						synctest.Wait()
						f.log = append(f.log, "late")
						if c.never {
							cancel()
							return
						}
						value <- 7
					}()
				} else {
					value <- 7
				}
				err := whileFrozen(ctx, f.freeze, value, func(v int) error {
					f.log = append(f.log, "fn "+string(rune('0'+v)))
					return c.fn
				})
				if (err != nil) != c.err || !slices.Equal(f.log, c.want) {
					t.Errorf("%v, %v, want %v", f.log, err, c.want)
				}
			})
		})
	}
}
