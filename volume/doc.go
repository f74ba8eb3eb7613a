// Package volume is the store: volumes, snapshots, clones and attachments over
// the extent map (cow) and the log of segments (segment).
package volume
