// Package access says who somebody is and what that one may do with which
// volumes.
//
// Nouns:
//
//   - [Identity]: who is at the other end of a connection: the subject of a
//     verified client certificate, the user of a unix socket, or nobody known.
//   - [Permission]: read, write, clone or admin.
//   - [Rule]: "IDENTITY PERMISSIONS VOLUMES", such as
//     "cn=worker-* read+clone images/**".
//   - [Policy]: the rules of a server.
//
// IDENTITY is cn=GLOB (the common name of a certificate), uri=GLOB (one of its
// URI names), uid=N or gid=N (of a unix socket's peer; gid is its primary
// group), anonymous, or any. PERMISSIONS are joined by '+'. VOLUMES is a GLOB on
// the volume's name, which also holds for its snapshots. In a GLOB '?' and '*'
// stand for what is within one part of a name, '**' for anything.
//
//	read    open and attach read-only, see it in lists, its snapshots and space
//	write   read; also open and attach for writing, take over, make snapshots
//	clone   read; also be the source of a clone
//	admin   everything: also create, delete, rename, grow, roll back, import,
//	        delete snapshots, and be the name of a new clone
//
// What concerns the server as a whole (check, garbage collection, profiles, and
// every call that this version knows no rule for) needs admin on '**'.
//
// Invariants:
//
//	A1  With a policy, what no rule allows is refused.
//	A2  Rules only add: their order has no meaning.
//	A3  A refusal names the identity, what it wanted and the volume. It says the
//	    same whether or not the volume exists.
//	A4  A certificate counts only if its chain was verified.
package access
