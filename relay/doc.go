// Package relay serves the kernel's NBD client at a socket pair out of an
// [nbdclient.Session]: for servers whose connections the kernel cannot have,
// since they speak TLS. The kernel sees one connection that does not end when the
// server is upgraded, killed or cut off. What was in flight is sent again by the
// session, as soon as the server has accepted the successor of the lost connection,
// and not by the kernel, whose timer would have to fire first.
//
// Nouns:
//
//   - [Link]: one socket that the kernel has, and the requests that came over it.
//   - operation: one request of the kernel, from its arrival to the answer.
//
// One goroutine reads the kernel's requests and submits them to the session, as many
// as are there; whoever receives the session's replies answers the kernel. So a
// request wakes no more threads than when bytes were passed on.
//
// Invariants:
//
//	R1  A request is answered once, after the session has its answer: a write after
//	    the server has answered it, one with FUA or a flush after the server has made
//	    durable what they cover. The order of answers and requests on the session's
//	    connections is free: the kernel sends a flush only after the answers to what
//	    it is to cover, and the server's flush covers all connections of an export.
//	R2  A link is drained when nothing that came over it is under way any more, to
//	    the server or back. No request is taken from the next link before: the kernel
//	    sends again what it had in flight on a socket that it has given up, and the
//	    first copy must not land after the second, or after a later write to the
//	    same blocks.
//	R3  A device has one link. With two sockets the kernel would send again over the
//	    other one, at once, what R2 has to hold back.
//	R4  A link that is paused has answered all that it has taken, whole requests
//	    only: another process can go on with its socket.
//	R5  What the requests of a link hold in memory is bounded; beyond that the kernel
//	    waits, as with a socket that is full.
//	R6  After a link was closed nothing is answered: a session that ends, or a
//	    process, must not look like an error of the disk.
//
// Wire format: the transmission phase of NBD with compact requests and simple
// replies, which is all that the kernel speaks; package nbdserver describes it.
package relay
