// Package volume is the store: volumes, snapshots, clones and attachments over
// the extent map (cow) and the log of segments (segment). It decides what a
// write, a flush and a snapshot wait for.
//
// A store is one directory:
//
//	LOCK          held while a process has the store open
//	map/          the extent map and the catalog (package cow)
//	catalog/      the journal of the catalog (package cow)
//	segments/     the log (package segment)
//	traces/       boot traces of snapshots, hints that may go (package boottrace)
//	BALLAST       occupies room that the map gets when the disk is full
//
// A write goes to the log, then into the pages in memory, and is answered. A
// flush makes the log durable. Behind that the committer moves durable changes
// into the map; opening a store replays the log from where the map ends.
//
// Invariants:
//
//	V1  A change enters the map only after its record is durable in the log,
//	    and in the order of the log. So the map never names bytes that a crash
//	    can take away, and the map is always the state after a prefix of the
//	    log (cow's M2).
//	V2  Snapshot, clone, create, delete, rename, resize and rollback are one
//	    synced commit each; a snapshot's data is durable before it.
//	V3  A layer takes changes only while it is the head of a volume: the gate
//	    of the volume is held for reading over every change, and for writing
//	    when the head is exchanged.
//	V4  A write commits only if its device is not fenced, which is checked
//	    behind the gate and the range lock. Fencing a device sets the mark and
//	    then passes the gate once for writing: after that nothing of it is in
//	    progress or can begin (contract C9).
//	V5  Writes to the same block take effect in the order in which they came.
//	V6  After a failed write or sync of the log or the map nothing more is
//	    acknowledged, until the store is opened anew.
//	V7  What was answered outlives this process: a client that goes on after
//	    the server was killed believes in its unflushed writes, as it would
//	    with a disk. (If the machine goes down, only flushed writes count.)
//	V10  A store may be left to a program that replaces this one in its process
//	    (Leave): everything answered is with the operating system, as V7 wants,
//	    and what is on disk is what a kill would leave. The other program opens it
//	    as after a crash; what it is told (where the log ends) saves it a search
//	    and is compared with what it finds.
//	V9  The log and the journal of the catalog tell all that the map has: every own
//	    entry of a layer, data or zero, is what the last record of the log says
//	    that is of the layer, or of one merged into it.
//	V8  Data is refused (NoSpace) while less than the reserve is free; reads,
//	    trims, deletes and collections go on. A write waits, with nothing locked,
//	    for as long as the collector can make room.
//	V11  A clone and the deletion of what is unused never both win: DeleteUnused
//	    looks for volumes whose origin it is, and for the last time there was one,
//	    and deletes, at one moment of the catalog.
package volume
