package main

import (
	"context"
	"strings"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
)

// failed is the error of a call about target, a volume, a snapshot or nothing;
// where target is not there it names the nearest that is.
func (a *app) failed(ctx context.Context, err error, target string) error {
	err = api.FromConnect(err)
	if !block.Is(err, block.NotFound) || target == "" {
		return err
	}
	isSnapshot := strings.Contains(target, "@")
	names, listErr := a.names(ctx, !isSnapshot, isSnapshot)
	if listErr != nil {
		return err // the error at hand says more than that there is no advice
	}
	near := nearest(target, names)
	if near == "" {
		return err
	}
	return &block.Error{Kind: block.NotFound, Text: err.Error() + "; did you mean " + near + "?", Err: err}
}

// nearest returns the name that is at most a third of want's letters away from
// it, or else the only one that begins with it; or nothing.
func nearest(want string, names []string) string {
	best, bestDistance := "", max(1, len(want)/3)+1
	var longer []string
	for _, name := range names {
		if name == want {
			continue
		}
		if strings.HasPrefix(name, want) {
			longer = append(longer, name)
		}
		if d := distance(strings.ToLower(want), strings.ToLower(name), bestDistance); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	if best == "" && len(longer) == 1 {
		return longer[0]
	}
	return best
}

// distance counts the letters to insert, delete or change to make b of a
// (Levenshtein); anything from limit on is as good as limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
