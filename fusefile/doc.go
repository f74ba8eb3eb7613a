// Package fusefile shows one file, the export of an NBD session, as a FUSE file
// system, so that a loop device can be put on it. It speaks to the kernel
// itself, since the path of a request is what this package is for.
//
// Nouns:
//
//   - [Device]: the descriptor of /dev/fuse over which the kernel speaks to
//     whoever serves a file system. It outlives its server when somebody else
//     has it open too, and then another process can go on: the kernel hands out
//     again what the first had taken and not answered ([Device.Resend]).
//   - [Server]: serves one file over a device.
//   - operation: one request of the kernel, from its arrival to the answer.
//
// The path of a read: one goroutine reads requests from the device and submits
// them to the session, as many as are there, and then has them sent by one
// system call. Whoever receives the replies of an NBD connection answers the
// kernel: the same goroutine while requests are small, else one of the connection.
// None of them waits for another, and nothing is allocated.
//
// Invariants:
//
//  1. Every request is answered once. One that cannot be understood is answered
//     with an error, and nothing of it is used before its length was checked.
//  2. A write is answered after the server has answered it, a sync after the
//     server has flushed: the kernel's fsync means the server's FLUSH.
//  3. The reader never waits for the server, but for the rest of a reply that has
//     begun to arrive, so that requests which the kernel sends while the server
//     is away are all under way when it is back.
//  4. The kernel's descriptor is the only one there is: no clone of it, whose end
//     would fail what was read through it.
//
// Wire format: version 7.31 or later of the kernel's protocol (linux/fuse.h), in
// the byte order of the machine.
package fusefile
