// Package activity counts what NBD connections do, so cheaply that it may be
// done for every command, and adds it up when somebody asks.
//
// Nouns:
//
//   - connection: the counters of one NBD connection, an nbdserver.Recorder.
//   - table: all open connections, and sums of those that have closed.
//   - totals: counts by command since something began; they only grow.
//
// Invariants:
//
//  1. A command costs a few atomic additions to memory of its own connection:
//     no lock, no allocation but the first time, no clock.
//  2. The totals of the server and of a volume never shrink while they exist:
//     a connection that closes leaves its counts to both.
//  3. A volume is in the table only while a connection to it is open, so the
//     table is bounded by the connections and not by the volumes that exist. A
//     snapshot of it, and a list of connections, have a bounded number of rows.
//  4. The log of slow requests has a bounded rate; what it leaves out is
//     counted.
package activity
