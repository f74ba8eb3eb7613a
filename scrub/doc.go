// Package scrub verifies a store in the background: every live block against its
// checksum, the log, the map and the catalog. It reads no faster than it is told
// and goes on after a restart where it was.
//
// Nouns: a scrub is one pass over all segments, in order of age. A slice is a part
// of it, after which its state is kept in the store.
//
// Invariants:
//
//	U1  What a scrub found is known until the next one begins, also after a
//	    restart, and is logged when it is found.
//	U2  A restart repeats at most one slice. Segments that are made while a scrub
//	    runs are newer and so read as well; blocks that the cleaner moves are.
package scrub
