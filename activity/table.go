package activity

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/nbdserver"
	"go.uber.org/zap"
)

// Identity says what a connection works on.
type Identity struct {
	// Key tells volumes and snapshots apart, also when they are renamed.
	Key                string
	Target             string // VOLUME or VOLUME@SNAPSHOT, as it is called now
	Attachment, Worker string // empty without an attachment
}

// Options configure a Table.
type Options struct {
	// Identify returns what tells who uses a device, for as long as the device
	// is open; ok is false for a device that does not say.
	Identify func(dev nbdserver.Device) (who func() Identity, ok bool)
	// Slow is how long a command takes that is logged; 0 logs none.
	Slow   time.Duration
	Logger *zap.Logger
	// Now is the clock of the log's rate and of when a connection was opened; nil
	// is time.Now.
	Now func() time.Time
}

// Table knows the connections. Its methods may run concurrently.
type Table struct {
	o    Options
	slow *slowLog

	opened, closed, refused atomic.Uint64

	mu      sync.Mutex
	conns   map[*Connection]struct{}
	targets map[string]*target
	gone    Totals // of the connections that have closed
}

// target sums the connections of a volume or snapshot that have closed while
// others stayed.
type target struct {
	open int
	gone Totals
}

var _ nbdserver.Metrics = (*Table)(nil)

// New returns an empty table.
func New(o Options) *Table {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Table{o: o, slow: newSlowLog(o.Logger, o.Now), conns: map[*Connection]struct{}{}, targets: map[string]*target{}}
}

// ConnectionOpened counts an accepted connection.
func (t *Table) ConnectionOpened() { t.opened.Add(1) }

// ConnectionClosed counts the end of one.
func (t *Table) ConnectionClosed() { t.closed.Add(1) }

// ConnectionRefused counts one over the limit.
func (t *Table) ConnectionRefused() { t.refused.Add(1) }

// ExportOpened adds a connection.
func (t *Table) ExportOpened(conn nbdserver.Conn, export string, dev nbdserver.Device) nbdserver.Recorder {
	c := &Connection{table: t, conn: conn, opened: t.o.Now()}
	if t.o.Identify != nil {
		if who, ok := t.o.Identify(dev); ok {
			c.who = who
		}
	}
	if c.who == nil {
		c.who = func() Identity { return Identity{Key: "export " + export, Target: export} }
	}
	c.key = c.who().Key
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[c] = struct{}{}
	if t.targets[c.key] == nil {
		t.targets[c.key] = &target{}
	}
	t.targets[c.key].open++
	return c
}

func (t *Table) remove(c *Connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.conns[c]; !ok {
		return
	}
	delete(t.conns, c)
	c.addTo(&t.gone)
	at := t.targets[c.key]
	if at.open--; at.open == 0 {
		delete(t.targets, c.key)
		return
	}
	c.addTo(&at.gone)
}

// Row is what the connections to a volume or snapshot do.
type Row struct {
	Target      string
	Connections int // open now
	InFlight    uint64
	Totals      Totals
}

// Other is the Target of the row that sums those over the limit of a snapshot.
// No volume is called so.
const Other = "(other)"

// Snapshot is the activity at a moment.
type Snapshot struct {
	Connections, Opened, Refused uint64
	Slow                         uint64 // commands that took too long, logged or not
	InFlight                     uint64
	Totals                       Totals // since the server started
	Rows                         []Row  // in the order of their names
}

// Snapshot sums up, with at most maxRows rows and one of Other.
func (t *Table) Snapshot(maxRows int) Snapshot {
	conns, s, gone := t.state()
	// By name and not by key: of a deleted volume a connection may be left when
	// another has its name.
	rows := map[string]*Row{}
	for _, c := range conns {
		who, r := c.who(), c.row()
		at := rows[who.Target]
		if at == nil {
			at = &Row{Target: who.Target}
			rows[who.Target] = at
		}
		if g := gone[c.key]; g != nil {
			at.Totals.Add(g)
			delete(gone, c.key)
		}
		at.add(&r)
		s.Totals.Add(&r.Totals)
		s.InFlight += r.InFlight
	}
	other := Row{Target: Other}
	for i, name := range slices.Sorted(maps.Keys(rows)) {
		if i < maxRows {
			s.Rows = append(s.Rows, *rows[name])
		} else {
			other.add(rows[name])
		}
	}
	if other.Connections > 0 {
		s.Rows = append(s.Rows, other)
	}
	return s
}

// Arrived counts the commands that have arrived so far, at all connections. It is
// quicker than Snapshot.
func (t *Table) Arrived() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.gone.Count()
	for c := range t.conns {
		n += c.arrived.Load()
	}
	return n
}

// state takes out what is under the lock: the connections, sums of closed ones.
func (t *Table) state() (conns []*Connection, s Snapshot, gone map[string]*Totals) {
	gone = map[string]*Totals{}
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.conns {
		conns = append(conns, c)
	}
	for key, at := range t.targets {
		sum := at.gone
		gone[key] = &sum
	}
	s.Totals = t.gone
	s.Opened, s.Refused, s.Slow = t.opened.Load(), t.refused.Load(), t.slow.seen.Load()
	s.Connections = s.Opened - min(t.closed.Load(), s.Opened)
	return conns, s, gone
}

// ConnectionRow is what one connection does.
type ConnectionRow struct {
	Row
	Conn   nbdserver.Conn
	Who    Identity
	Opened time.Time
}

// Connections returns what each connection does, in the order of their numbers:
// the first limit of them, and the sum of the others, whose Target is Other.
func (t *Table) Connections(limit int) (rows []ConnectionRow, other Row) {
	other.Target = Other
	conns, _, _ := t.state()
	slices.SortFunc(conns, func(a, b *Connection) int { return cmp.Compare(a.conn.ID, b.conn.ID) })
	for i, c := range conns {
		r := c.row()
		if i >= limit {
			other.add(&r)
			continue
		}
		who := c.who()
		r.Target = who.Target
		rows = append(rows, ConnectionRow{Row: r, Conn: c.conn, Who: who, Opened: c.opened})
	}
	return rows, other
}

func (c *Connection) row() Row {
	r := Row{Connections: 1}
	// What arrives is read last: then it is never less than what is done.
	c.addTo(&r.Totals)
	r.InFlight = c.arrived.Load() - r.Totals.Count()
	return r
}

func (r *Row) add(o *Row) {
	r.Connections += o.Connections
	r.InFlight += o.InFlight
	r.Totals.Add(&o.Totals)
}
