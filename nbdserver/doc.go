// Package nbdserver serves block devices over the Network Block Device
// protocol. It knows nothing of volumes: it serves what a [Backend] opens.
//
// Nouns, as in the protocol document (NetworkBlockDevice/nbd, doc/proto.md):
//
//   - option: a request of the negotiation (the handshake);
//   - command: a request of the transmission phase; its cookie names it in the
//     reply;
//   - export: what a client asks for by name; a [Device] is one open export.
//
// A connection is one goroutine that reads and, where nothing has to be waited
// for, also executes; commands that may wait (a read that misses, FLUSH, FUA,
// TRIM, ...) go to a bounded set of goroutines of that connection, so that
// replies go out of order. Replies gather in a batch that is written when the
// read buffer is empty or the batch is full. A long READ of a device that is a
// [Lender] goes from the page cache to the socket by way of a pipe, without a copy.
//
// Invariants:
//
//  1. Every length from the network is compared with a named limit ([Limits] or
//     a constant) before it is used, and what a connection can hold in memory
//     is bounded: by its buffers, its commands in flight and their bytes.
//  2. A command reaches the device only with off+length within its size, aligned
//     to its minimum, writable if it writes, and no longer than its maximum if
//     it carries data.
//  3. The payload of a refused command is read and dropped: the stream stays in
//     step. A stream that cannot be in step any more is closed.
//  4. A success header goes out only after the data of its reply is at hand.
//  5. A FLUSH calls Device.Flush after it was received, so it covers every write
//     that was answered before.
//  6. After disconnect or an error of kind Fenced or Unavailable nothing more is
//     executed or answered: the connection closes. ESHUTDOWN is never sent,
//     since the Linux client turns it into an I/O error.
//  7. Device.Close is called once, after every call has returned.
//  8. Nothing that came in plaintext counts after STARTTLS: no byte is read
//     ahead, and what was negotiated is forgotten.
//  9. Who only connects, is slow, or floods is bounded by [Limits]: connections
//     at once, from one address and without an export; time to negotiate, TLS
//     handshake included; time to send what was announced and to take replies.
//  10. An answer to a large WRITE waits for one more command at most, and only for
//     bytes of it that are in the socket already.
//
// # Wire format
//
// All integers are big endian. Handshake: the server sends NBDMAGIC (8),
// IHAVEOPT (8), flags (2); the client flags (4). Then options and replies:
//
//	option:  IHAVEOPT 8 | id 4 | length 4 | data
//	reply:   magic 8    | id 4 | type 4   | length 4 | data
//
// Transmission:
//
//	command: 25609513 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 | data of a WRITE
//	simple:  67446698 4 | errno 4 | cookie 8 | data of a READ
//	chunk:   668e33ef 4 | flags 2 | type 2 | cookie 8 | length 4 | payload
//
// Chunks (structured replies), once negotiated, answer READ, BLOCK_STATUS and
// every error; a success without data stays a simple reply. With extended
// headers all are of 32 bytes, every reply is chunks, and that data follows a
// command is said by its flag PAYLOAD_LEN, or by its being a WRITE:
//
//	command: 21e41c71 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 8 | payload
//	chunk:   6e8a278c 4 | flags 2 | type 2 | cookie 8 | offset of the command 8 | length 8 | payload
//
// Payloads of chunks, by type; flag 1 marks the last chunk of a reply:
//
//	0 none:          nothing
//	1 data:          offset 8 | data
//	2 hole:          offset 8 | length 4
//	5 status:        context 4 | (length 4 | state 4)...
//	6 status (long): context 4 | count 4 | (length 8 | state 8)...
//	8001 error:      errno 4 | length 2 | text
//
// The payload of a BLOCK_STATUS that asks for some contexts: length 8 | context
// 4...; a context's id is its place in SET_META_CONTEXT's reply, from 1.
//
// [PROTOCOL.md] says for each feature and rule which test holds it.
//
// A server can hand its connections over to another (Handover, Adopt), in the
// same process or in one that has got the sockets. A connection is handed over
// between two commands only: everything taken from its socket is answered, what
// was read of the next command goes along, and the payload of a command that
// has begun is awaited. The other server closes it if the export is not what the
// client was told. Connections with TLS and those that negotiate are not handed
// over but closed.
//
// [PROTOCOL.md]: https://github.com/slackerd/slacker/blob/main/nbdserver/PROTOCOL.md
package nbdserver
