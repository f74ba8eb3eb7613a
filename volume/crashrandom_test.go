package volume

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

var (
	crashSeed = flag.Uint64("crash.seed", 0, "run the crash matrix of random operations with this seed only")
	crashRuns = flag.Int("crash.runs", 3, "how many seeds the crash matrix of random operations runs")
)

const crashSteps = 25

// randomly does random operations, of which a crash may interrupt each.
func (c *script) randomly(rng *rand.Rand) error {
	if err := c.start(); err != nil {
		return err
	}
	if err := c.create("v0"); err != nil {
		return err
	}
	for i := range crashSteps {
		if err := c.randomStep(rng, i); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func (c *script) randomStep(rng *rand.Rand, i int) error {
	var volumes, snaps []string
	for _, name := range sorted(c.e.cells) {
		if strings.Contains(name, "@") {
			snaps = append(snaps, name)
		} else {
			volumes = append(volumes, name)
		}
	}
	if len(volumes) == 0 {
		return c.create(fmt.Sprintf("v%d", i+1))
	}
	v := volumes[rng.IntN(len(volumes))]
	switch k := rng.IntN(100); {
	case k < 40:
		n := 1 + rng.IntN(60)
		return c.write(v, rng.IntN(crashBlocks-n), n, rng.IntN(4) == 0)
	case k < 50:
		return c.flush(v)
	case k < 62:
		return c.snapshot(v, fmt.Sprintf("s%d", i))
	case k < 70:
		return c.collect()
	case k < 76:
		return c.s.Flush(context.Background())
	case k < 80:
		return c.reopen()
	case k < 84 && !strings.Contains(strings.Join(snaps, " "), v+"@"):
		return c.deleteVolume(v)
	case len(snaps) == 0:
		return c.create(fmt.Sprintf("v%d", i+1))
	}
	of, snap, _ := strings.Cut(snaps[rng.IntN(len(snaps))], "@")
	switch k := rng.IntN(10); {
	case k < 5:
		return c.clone(of, snap, fmt.Sprintf("c%d", i))
	case k < 8:
		return c.deleteSnapshot(of, snap)
	default:
		return c.rollback(of, snap)
	}
}

// TestCrashMatrixOfRandomRuns cuts the power before operations of random runs
// (V1, V2).
func TestCrashMatrixOfRandomRuns(t *testing.T) {
	every := sampled(17, 37)
	if *crashFull {
		every = 1
	}
	first, n := uint64(1), *crashRuns
	if *crashSeed != 0 {
		first, n = *crashSeed, 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		crashMatrix(t, seed, every, func(c *script) error { return c.randomly(rand.New(rand.NewPCG(seed, 5))) })
	}
}
