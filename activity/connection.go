package activity

import (
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/latency"
	"github.com/slackerd/slacker/nbdserver"
)

// nCommands bounds the commands; the number that no command with an answer has
// stands for those that are not known.
const (
	nCommands = 8
	unknown   = int(nbdserver.CmdDisc)
)

// Commands names the commands by their index in [Totals].
var Commands = func() (names [nCommands]string) {
	for i := range names {
		names[i] = nbdserver.Command(i).String()
	}
	names[unknown] = "unknown"
	return names
}()

// Errnos are the results that are told apart, by their index; the last one
// also counts what is not known.
var Errnos = [...]nbdserver.Errno{nbdserver.EPERM, nbdserver.EINVAL, nbdserver.ENOSPC, nbdserver.EOVERFLOW, nbdserver.ENOTSUP, nbdserver.EIO}

// counters are those of one command of one connection.
type counters struct {
	took   latency.Histogram
	bytes  atomic.Uint64
	errors [len(Errnos)]atomic.Uint64
}

// Connection counts the commands of one connection.
type Connection struct {
	table    *Table
	conn     nbdserver.Conn
	who      func() Identity
	key      string
	opened   time.Time
	arrived  atomic.Uint64
	commands [nCommands]atomic.Pointer[counters]
}

var _ nbdserver.Recorder = (*Connection)(nil)

// Arrived counts a command as in flight.
func (c *Connection) Arrived() { c.arrived.Add(1) }

// Done counts a command.
func (c *Connection) Done(d nbdserver.Done) {
	cmd := int(d.Command)
	if cmd >= nCommands {
		cmd = unknown
	}
	n := c.commands[cmd].Load()
	if n == nil {
		n = c.begin(cmd)
	}
	n.took.Add(d.Took)
	if d.Result == nbdserver.OK {
		n.bytes.Add(d.LengthBytes)
	} else {
		n.errors[errnoIndex(d.Result)].Add(1)
	}
	if d.Took >= c.table.o.Slow && c.table.o.Slow > 0 {
		c.table.slow.report(c, d)
	}
}

// begin makes the counters of a command that comes for the first time.
func (c *Connection) begin(cmd int) *counters {
	c.commands[cmd].CompareAndSwap(nil, new(counters))
	return c.commands[cmd].Load()
}

func errnoIndex(e nbdserver.Errno) int {
	for i, known := range Errnos {
		if e == known {
			return i
		}
	}
	return len(Errnos) - 1
}

// Closed takes the connection out of the table.
func (c *Connection) Closed() { c.table.remove(c) }

// addTo adds what was counted to totals.
func (c *Connection) addTo(t *Totals) {
	for cmd := range c.commands {
		if n := c.commands[cmd].Load(); n != nil {
			n.addTo(&t[cmd])
		}
	}
}

func (n *counters) addTo(t *CommandTotals) {
	n.took.AddTo(&t.Took)
	for i := range n.errors {
		t.Errors[i] += n.errors[i].Load()
	}
	t.Bytes += n.bytes.Load()
}

// CommandTotals counts the commands of one kind.
type CommandTotals struct {
	Took   latency.Counts // also of those that failed
	Errors [len(Errnos)]uint64
	Bytes  uint64 // of those that succeeded
}

// Failed returns how many of them failed.
func (t *CommandTotals) Failed() (n uint64) {
	for _, e := range t.Errors {
		n += e
	}
	return n
}

// Totals counts commands by kind, see Commands.
type Totals [nCommands]CommandTotals

// Add adds other totals.
func (t *Totals) Add(o *Totals) {
	for i := range t {
		t[i].Took.Add(&o[i].Took)
		for e := range t[i].Errors {
			t[i].Errors[e] += o[i].Errors[e]
		}
		t[i].Bytes += o[i].Bytes
	}
}

// Count returns how many commands there were.
func (t *Totals) Count() (n uint64) {
	for i := range t {
		n += t[i].Took.Count()
	}
	return n
}
