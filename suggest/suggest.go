// Package suggest finds what somebody may have meant who misspelt a name.
package suggest

import "strings"

// Nearest returns the name that is at most a third of want's letters away from
// it, or else the only one that begins with it; or nothing.
func Nearest(want string, names []string) string {
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
