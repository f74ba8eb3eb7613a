// Package worker makes volumes into block devices of this host, and mounts
// them: attach, detach, list.
//
// Nouns:
//
//   - target: VOLUME or VOLUME@SNAPSHOT. A worker attaches a target at most once.
//   - driver: how the target becomes a device. "nbd" is the kernel's client: no
//     user process is in the data path, a monitor only replaces dead sockets.
//     With TLS, which the kernel does not speak, the monitor is the kernel's server
//     (package relay) and has a session with the real one.
//     "fuse" is a daemon that shows the target as the one file of a FUSE file
//     system, with a loop device on it; it works where the kernel has no nbd.
//   - state: what is known of one attached target, a JSON file in the state
//     directory, named by a hash of the target.
//   - agent: the background process of an attachment (monitor or daemon).
//   - word: what tells an agent to begin. It is launched ahead of it, since the
//     start of a process is the longest part of an attach, and waits.
//   - standby: a second process of each agent that holds what must not close
//     with it (its lock, /dev/fuse) and takes its place when it ends. Each keeps
//     the other alive; the standby of an agent that just took over is new.
//
// Invariants:
//
//  1. The state file is on disk before the server or the kernel is touched, and
//     is removed after everything else is gone. So whatever a kill leaves is
//     found again by the state file, or, for an attachment that the server made
//     but nobody wrote down, by its target and worker at the server.
//  2. One process at a time changes a target: it holds the lock of the target,
//     which the kernel drops when the process dies.
//  3. Kernel objects are found by what the kernel says of them (backing file,
//     backend identifier, mountinfo), never by a number remembered from before.
//  4. An agent or its standby is alive if and only if its lock file is locked. An agent whose
//     state file has gone, or belongs to a later attach, ends by itself. One that
//     was launched touches nothing before its word, and ends without it.
//  5. Attach either returns a working device or leaves nothing behind. Undoing
//     is the same code as detach, every step of which may be repeated.
//  6. mkfs runs only on a device whose first and last MiB are zero, or on one
//     that a former mkfs of this worker left unfinished, if the generation says
//     that nobody else has had the volume since.
//  7. A device outlives its agent: whatever ends the agent, but for a detach, its
//     standby goes on, and no I/O fails. A FUSE daemon that takes over sends
//     nothing to the server before the server has accepted a connection of every
//     slot, and only then asks the kernel for what was in flight: so the server
//     has fenced all that the dead daemon sent before it sees it again.
//  8. A state of an earlier boot (bootIDFile) is of no device of this kernel. It
//     starts no agent; detach, list --clean and a new attach end what the server
//     still has of it.
//  9. A monitor that takes over misses no death of a socket: it listens for those to
//     come, and then looks which of the sockets that the former one wrote down live.
//  10. A monitor that serves the kernel and takes over, too, sends nothing before the
//     server has accepted a connection of every slot. The kernel gets a socket in
//     place of a dead one once nothing that came over that is under way (R2).
package worker
