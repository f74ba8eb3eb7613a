// Package soak ends everything there is of Slacker, again and again, under
// volumes in use: fio with verify, redis that syncs every command, sqlite, and a
// prober that reads back each block it writes and notes how long it waited.
// The server is in a network namespace of its own behind a veth pair. No I/O may
// fail, nothing acknowledged may be lost; the pauses are printed.
//
// TestSoak runs each event once (go test), make soak as many rounds as ROUNDS
// says, and prints a table.
package soak
