// Package nbdclient speaks the client side of NBD, the network block device
// protocol, from user space.
//
// Nouns:
//
//   - [Conn]: one connection to one export, after the handshake. Requests of
//     many goroutines are in flight on it at once and are answered in any order.
//   - [Session]: one export over several connections, its slots, each of which
//     is replaced when it dies. A caller of a Session sees a dead server as a
//     pause, not as an error.
//   - slot: the place of one connection in a Session.
//   - batch: sends what one goroutine submits, several requests in a system call.
//     While they are small it receives the replies too; see turn.go.
//   - incarnation: the number of a slot's connection; it only grows, also over
//     restarts of the program.
//
// Invariants:
//
//  1. A length, offset or count that comes from the server is compared with a
//     named limit and with the request it answers before it is used.
//  2. A Conn that has seen a violation of the protocol, or a partial write, is
//     dead: every request on it fails with block.Unavailable, none is sent again
//     on it.
//  3. A buffer given to a request is not touched once the request has returned.
//  4. A Session sends a request again only after the slot it was in flight on
//     has a new connection that the server has accepted. By then the server has
//     fenced the old one, so that a write held there can no longer land after
//     the repeated one, or after a later write that overtook it.
//  5. An answer of the server, good or bad, is final: only requests that lost
//     their connection, or that the server refused for shutting down, are sent
//     again.
//
// The wire format is the fixed newstyle handshake with NBD_OPT_GO, structured
// replies where the server has them, the meta context base:allocation, and
// compact requests (28 bytes, big endian). It does not ask for extended headers:
// no caller has ranges beyond 4 GiB, and each command and reply would be 4 to 16
// bytes longer. Constants and headers that go-nbd
// has come from its protocol package; the others are in proto.go.
package nbdclient
