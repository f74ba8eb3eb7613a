package block

import (
	"errors"
	"fmt"
	"io/fs"
)

// Kind classifies an error. The set is closed: each kind maps to one NBD errno
// (nbdserver), one RPC code (api) and one exit status (the commands), in one
// table each.
type Kind uint8

// The kinds of errors.
const (
	// Internal is a fault of the program itself; it is what an error that
	// carries no kind counts as.
	Internal Kind = iota
	// NotFound: no volume, snapshot or attachment of that name.
	NotFound
	// Exists: the name is taken.
	Exists
	// Busy: in use by somebody else; the text names the holder.
	Busy
	// Invalid: the request is malformed or out of range.
	Invalid
	// NoSpace: the store has no room for it.
	NoSpace
	// ReadOnly: a write to something immutable.
	ReadOnly
	// Corrupt: stored data failed verification.
	Corrupt
	// IO: the storage below failed.
	IO
	// Fenced: the attachment or connection has been replaced by a newer one.
	Fenced
	// Permission: the caller may not do this.
	Permission
	// Unsupported: this host or build cannot do it; the text says what is missing.
	Unsupported
	// Unavailable: the server is not there, or is shutting down.
	Unavailable
)

var kindNames = [...]string{"internal error", "not found", "already exists", "busy", "invalid", "no space",
	"read-only", "corrupt", "I/O error", "fenced", "permission denied", "unsupported", "unavailable"}

// Kinds lists every kind, for tables and tests.
func Kinds() []Kind {
	ks := make([]Kind, len(kindNames))
	for i := range ks {
		ks[i] = Kind(i)
	}
	return ks
}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Error is an error with a kind. Its text stands alone: it names the
// operation, the object, what was wanted and what came, and its cause.
type Error struct {
	Kind Kind
	Text string
	Err  error // the cause, whose text Text already holds, or nil
}

func (e *Error) Error() string { return e.Text }
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an error of kind k. As with fmt.Errorf, %w names the cause.
func Errorf(k Kind, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: k, Text: err.Error(), Err: errors.Unwrap(err)}
}

// Wrap gives err the kind k and puts text before it; nil stays nil. An error
// that has a kind already keeps it.
func Wrap(k Kind, err error, text string) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		k = e.Kind
	}
	return &Error{Kind: k, Text: text + ": " + err.Error(), Err: err}
}

// KindOf returns the kind of err, Internal when it carries none. It must not
// be called with nil.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// KindOfFile returns the kind of an error that the operating system gave for a
// file.
func KindOfFile(err error) Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrPermission):
		return Permission
	}
	return IO
}

// Is reports whether err is not nil and of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }
