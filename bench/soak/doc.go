// Package soak ends everything there is of Slacker, again and again, under
// volumes in use: fio with verify, redis that syncs every command, sqlite, and a
// prober that reads back each block it writes and notes how long it waited.
// The server is in a network namespace of its own behind a veth pair. No I/O may
// fail, nothing acknowledged may be lost; the pauses are printed.
//
// TestSoak runs each event of the server and the network once (go test), make
// soak all of them as many rounds as ROUNDS says. A table ends it.
package soak
