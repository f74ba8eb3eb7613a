// Package rounds is what the comparisons share: contestants that take turns under
// one load after the other, the figures of each round, and tables of medians and
// of ratios that are formed within a round.
package rounds
