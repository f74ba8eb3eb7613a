package measure

import (
	"fmt"
	"slices"
	"time"
)

// Matrix says what to measure over one link: every image with every driver.
type Matrix struct {
	Kind    Kind
	Link    string
	Images  []string
	Drivers []string
	Rounds  int
	Starts  []int // at once, for Scale
}

// Records are the measurements of a matrix, with nothing measured, in the order in
// which they are made.
func (m Matrix) Records() []Record {
	var all []Record
	add := func(image string, turn, round, n int) {
		for _, driver := range order(m.Drivers, turn) {
			all = append(all, Record{Kind: m.Kind, Image: image, Driver: driver, Link: m.Link, Round: round, N: n})
		}
	}
	if m.Kind == Scale {
		for _, image := range m.Images {
			for turn, n := range m.Starts {
				add(image, turn, 0, n)
			}
		}
		return all
	}
	for round := range m.Rounds {
		for n, image := range m.Images {
			if m.Kind == LongRun && !slices.Contains(LongRunImages(), image) {
				continue
			}
			add(image, round+n, round, 0)
		}
	}
	return all
}

// order is the drivers in another order for each turn.
func order(drivers []string, turn int) []string {
	if len(drivers) == 0 {
		return nil
	}
	n := turn % len(drivers)
	return append(slices.Clone(drivers[n:]), drivers[:n]...)
}

// Missing are those of the records that the log has not.
func (l *Log) Missing(all []Record) []Record {
	var some []Record
	for _, r := range all {
		if !l.Has(r) {
			some = append(some, r)
		}
	}
	return some
}

// took is how long a measurement took with all that is around it.
func (r Record) took() float64 {
	if r.Wall > 0 {
		return r.Wall
	}
	return r.Pull + r.Run + r.Again + r.Push + 2 // records of old, without
}

// Expected is about how long measurements will take, by what is known of others: of
// the same kind, image, driver and link; or else of any image.
func Expected(todo, known []Record) time.Duration {
	exact, alike := map[string][]float64{}, map[string][]float64{}
	key := func(r Record) string { r.Round = 0; return r.key() }
	kin := func(r Record) string { return fmt.Sprintf("%s %s %d", r.Kind, r.Link, r.N) }
	for _, r := range known {
		if r.Error == "" {
			exact[key(r)] = append(exact[key(r)], r.took())
			alike[kin(r)] = append(alike[kin(r)], r.took())
		}
	}
	sum := 0.0
	for _, r := range todo {
		v := exact[key(r)]
		if len(v) == 0 {
			v = alike[kin(r)]
		}
		if len(v) == 0 {
			v = []float64{unknownSeconds}
		}
		sum += mean(v)
	}
	return time.Duration(sum * float64(time.Second))
}

// unknownSeconds is what a measurement takes of which nothing like it is known.
const unknownSeconds = 6

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}
