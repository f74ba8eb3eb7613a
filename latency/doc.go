// Package latency counts how long things take, in buckets from 10 us to 30 s,
// so cheaply that it may be done for every command of a connection.
package latency
