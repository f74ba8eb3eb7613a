package nbdserver

import (
	"context"

	"github.com/slackerd/slacker/access"
)

// Device is what a connection serves: one open export. It knows nothing of
// NBD. A Device belongs to one connection, but its methods may run
// concurrently with each other. Every implementation passes [nbdtest.Conform].
//
// Offsets and lengths are bytes; the server has already checked that
// off+length lies within Info().SizeBytes, that a write goes to a writable
// device, that offsets and lengths are multiples of Info().MinBlockBytes, that
// lengths are not 0 and that those of reads and writes (what carries data)
// respect Info().MaxRequestBytes.
//
// Ordering and durability: what has returned is visible to every later call
// on any Device of the same export. When Flush, or a call with fua set,
// returns nil, everything that returned before it was called, on any Device of
// the export (for fua: that call's own data), survives a crash. Each aligned
// 4 KiB block is old or new after a crash.
//
// Errors carry a block.Kind; the table in errors.go maps it to an errno. After
// an error of a write the range holds old or new data, block by block.
type Device interface {
	Info() Info

	// ReadAt fills p or fails. p is the server's and is not kept.
	ReadAt(ctx context.Context, p []byte, offBytes uint64) error
	// ReadNow is ReadAt for data that can be had without waiting for a disk:
	// it returns false, having read nothing, when it would have to wait.
	ReadNow(p []byte, offBytes uint64) (bool, error)
	// WriteAt writes p, which is the server's and is not kept.
	WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error
	Flush(ctx context.Context) error
	// Settle is called before writes are answered, once for many: what has
	// returned must outlive the server's process from then on, though not a
	// crash of the machine. It must not wait for a disk.
	Settle() error
	// StartFlush is called after writes were answered to a client that is taken to
	// flush next, if it does nothing else first. It may begin with what Flush will
	// have to do, and must not wait for it.
	StartFlush()
	// Trim discards; the range reads as zeroes afterwards.
	Trim(ctx context.Context, offBytes, lengthBytes uint64, fua bool) error
	// WriteZeroes makes the range read as zeroes. With noHole the caller asks
	// for the space to stay allocated; a thin device may have none to allocate.
	WriteZeroes(ctx context.Context, offBytes, lengthBytes uint64, noHole, fua bool) error
	// Cache is a hint to have the range at hand.
	Cache(ctx context.Context, offBytes, lengthBytes uint64) error
	// Extents appends to dst the allocation of at most maxExtents runs that
	// start at offBytes and end at or before off+length; at least one.
	Extents(ctx context.Context, dst []Extent, offBytes, lengthBytes uint64, maxExtents int) ([]Extent, error)
	// Close ends the use of the device. No call is in progress or follows.
	Close() error
}

// Extent is a run of bytes of one allocation state.
type Extent struct {
	LengthBytes uint64
	// Hole: no space is allocated. Zero: reads as zeroes.
	Hole, Zero bool
}

// Info describes an open export. Sizes are bytes. It does not change while the
// Device is open.
type Info struct {
	SizeBytes   uint64
	ReadOnly    bool
	Description string
	// MinBlockBytes is a power of two from 1 to 64 KiB; PreferredBlockBytes a
	// power of two of at least it and 512; MaxRequestBytes a multiple of it.
	MinBlockBytes, PreferredBlockBytes, MaxRequestBytes uint32
	// FastZero: WriteZeroes costs no more than metadata.
	FastZero bool
}

// Backend finds the devices that a server offers.
type Backend interface {
	// Open opens the export of that name for one connection. disconnect may be
	// called by the backend at any time, from any goroutine, also before Open
	// returns: it makes the server close the connection without serving
	// another request; the backend uses it when the connection is replaced.
	Open(ctx context.Context, name string, conn Conn, disconnect func(reason error)) (Device, error)
	// List returns the exports to show to a client, in order.
	List(ctx context.Context, conn Conn) ([]Export, error)
}

// ContextBackend is a Backend whose exports have metadata contexts of their own,
// beside base:allocation, in namespaces of their own.
type ContextBackend interface {
	Backend
	// Contexts returns the contexts of an export that match a query: that of this
	// very name; for a query that ends in a colon whatever the backend wants to
	// show of them, which may be such queries again; for "" the same of all. A
	// query that it does not know matches nothing.
	Contexts(ctx context.Context, export, query string, conn Conn) ([]string, error)
}

// ContextDevice is a Device of a ContextBackend.
type ContextDevice interface {
	Device
	// Context opens one of the contexts that Contexts named. It is called before
	// the first command of the connection. What is open ends with the Device.
	Context(ctx context.Context, name string) (MetaContext, error)
}

// MetaContext answers what a metadata context says of an open export.
type MetaContext interface {
	// Status is Device.Extents for the context.
	Status(ctx context.Context, dst []Status, offBytes, lengthBytes uint64, maxExtents int) ([]Status, error)
}

// Status is a run of bytes and what a metadata context says of it.
type Status struct {
	LengthBytes uint64
	Flags       uint32
}

// Conn describes the connection an export is opened for.
type Conn struct {
	ID     uint64 // unique within the server
	Remote string // the peer's address, for logs
	// Identity is who the peer has proved to be.
	Identity access.Identity
	// InfoOnly: the client only asks about the export (NBD_OPT_INFO). The
	// device is closed at once, without I/O; nothing should be replaced for it.
	InfoOnly bool
}

// Export is one row of a listing.
type Export struct{ Name, Description string }
