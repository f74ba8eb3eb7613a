// Package snapshotter is containerd's snapshotter on Slacker: what containerd
// calls snapshots are volumes and snapshots of a slackerd server, shared by all
// workers; only containers' working volumes belong to one.
//
// Nouns:
//
//   - chain: a stack of image layers, named by its OCI chain id. On the server
//     it is the snapshot PREFIX/chains/sha256-HEX@layer, of a volume that holds
//     nothing else.
//   - base: the empty file system that the lowest layer goes onto,
//     PREFIX/base/ext4-N-BYTES@layer.
//   - working volume: what an active snapshot or a view is on,
//     PREFIX/work/WORKER/STORE-RANDOM: a clone that this worker made.
//   - private snapshot: what was committed and is no chain, or may not be
//     published as one: PREFIX/work/WORKER/STORE-RANDOM@layer.
//   - place: the server's snapshot of a committed snapshot, a chain or private.
//   - record: what the store has of one of containerd's snapshots, by its key
//     or name.
//   - garbage: working volumes and private snapshots that no record needs.
//   - pin: a clone of a chain that each record of one has. It is never attached; it
//     tells the server that this worker has the chain.
//   - beat: an empty volume, PREFIX/work/WORKER/STORE-seen-RANDOM, of which the server
//     keeps when it was made: since then it has not heard of this store.
//   - stepping stone: a working volume whose content has just been committed and
//     which is still attached; the next layer goes onto it.
//   - spare: a clone that is attached and mounted before anybody asks, of a
//     chain that was just pulled or run: a container then starts without waiting
//     for that. Stones are stepping stones and spares.
//   - habit: the files that the last containers of a place have opened, and what of
//     them they have read. A hint: it is kept in memory, told to the server for other
//     workers, and read ahead in the place's spare or in a container that starts.
//
// What containerd is given is a bind mount of a directory where the snapshotter
// has mounted the ext4 of the working volume itself. So a commit knows when the
// data has left the page cache; a running container can be looked at read-only
// beside its writable mount, which ext4 on a device refuses; and the many short
// mounts of containerd cost no mount of ext4. The directory must be visible to
// containerd: both in the mount namespace of the host.
//
// Invariants:
//
//	N1  A chain appears on the server in one step (Publish) after everything
//	    written to it is durable there, so it is complete or absent. Where two
//	    workers make the same chain, the first is used by both and the other's
//	    goes away. Only what was unpacked under the chain's id is published.
//	N2  A committed record is written after its place exists on the server. A
//	    record never comes to mean another place.
//	N3  Deleted on the server are only volumes below this store's own
//	    PREFIX/work/WORKER/STORE-, that no record and no request in progress
//	    needs. Chains and bases are never deleted here.
//	N4  What becomes garbage is written down in the transaction that makes it so.
//	    What a kill leaves without that (a clone whose record was not written)
//	    is found by its name (N3).
//	N5  Content is committed only when nothing can write to it any more: the
//	    mount is gone, nobody has the device open, the device is synced; or else
//	    while its file system is frozen. A frozen one is thawed whatever comes.
//	    With the mount its directory goes, so that nobody writes beneath it.
//	N6  No request waits for the server longer than its timeout; what it began
//	    is undone, or left as garbage. Stat, Walk, Update and Remove do not ask
//	    the server at all.
//	N7  A stepping stone is used again only for a child of what was committed
//	    from it, while nothing else has it mounted.
//	N8  Usage of a committed snapshot is what its layer of the extent map holds,
//	    taken when the snapshot became known; that of an active one what its
//	    volume's newest layer holds now. Inodes are those in use, less those of its
//	    parent, by the superblock (of a mounted one by the kernel); what a layer
//	    removes can hide what it adds.
//	N9  A record of a chain has a pin, made before the record and garbage after it.
//	    Chains are pruned (by slackerctl image prune) only where no other volume's
//	    origin is the chain: no pin, no working volume, no clone of an admin. The
//	    server looks and deletes at one moment, so a pin that is made meanwhile
//	    either saves the chain or is refused as not found; then the chain counts as
//	    absent, and is unpacked or published anew.
//	N10  While a snapshotter runs and reaches the server its beat is younger than two
//	    hours (twice Options.Beat). An admin may release the pins, and other clones that hold
//	    nothing, of stores whose beat is old (slackerctl image workers); of one
//	    without a beat nothing is known. The release counts as a use of the chains,
//	    and with each beat a store pins anew what it has lost: so a prune of what
//	    nobody has used for an hour takes nothing from a worker that was away.
//	N11 What is read ahead, and who told of it, changes nothing but what is in memory:
//	    only regular files below the root of a working volume are opened, over no
//	    link and no mount, and without a trace in their times. The server is told
//	    of files of a place only that nobody has changed since the container began.
//	    While a file of a volume is open for this the volume's lock is held; who
//	    waits for that gets it after the piece at hand.
//
// The store is a bbolt file: bucket "meta" (format, what own volumes begin with), "snapshots"
// (key or name to record, JSON), "children" (parent, zero byte, child) and
// "garbage" (volume names). Format 1. It is synced by every transaction. All records
// are in memory too, as the last transaction that was synced left them.
package snapshotter
