// Package stack starts a container stack for tests and benchmarks: an image
// registry, containerds of two versions, lazy-loading peers, all on loopback or
// in network namespaces, with roots of their own below one directory, and stops
// them again. scripts/stack.sh puts the programs into .cache/stack.
//
// Nouns:
//
//   - programs: the directory with the programs, see Programs.
//   - process: a program that was started here, with its log in a file.
//   - registry: Debian's docker-registry on a unix socket, behind a proxy on TCP
//     that counts what goes over it.
//   - containerd: one containerd with its own root, state and socket. No system
//     daemon is used and none is disturbed; only the sockets of shims and the
//     state of runc are where containerd's shims always put them, in
//     /run/containerd, named by the containerd's socket and by namespace and
//     container. Container ids should be unique on the machine.
//   - namespace: a network namespace that a process, a listener or a connection
//     lives in; empty is the one of the caller.
//
// Invariants:
//
//  1. Start returns a service that answers, or an error with the end of its log.
//  2. After Stop nothing runs that Start started (containers and shims too), and
//     nothing is mounted below its directory. Stop may be called again.
//  3. A process ends when the one that started it dies, however that dies.
package stack
