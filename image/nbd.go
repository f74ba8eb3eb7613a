package image

import (
	"context"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// device is what an import writes to and an export reads from: an open export.
// Methods may be called by many goroutines.
type device interface {
	SizeBytes() uint64
	ReadAt(ctx context.Context, p []byte, offBytes uint64) error
	WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error
	Flush(ctx context.Context) error
	// BlockStatus describes a prefix of the range, at least one run.
	BlockStatus(ctx context.Context, offBytes, lengthBytes uint64) ([]nbdclient.Extent, error)
	Close() error
}

// conn is a device on one connection.
type conn struct{ *nbdclient.Conn }

func (c conn) SizeBytes() uint64 { return c.Info().SizeBytes }
func (c conn) Close() error      { return c.Disconnect() }

// dialPlain opens an export by its plain name, on one connection.
func dialPlain(ctx context.Context, addr, export string) (device, error) {
	c, err := nbdclient.Dial(ctx, addr, export, nbdclient.DefaultOptions())
	if err != nil {
		return nil, err
	}
	return conn{c}, nil
}

// dialSlot opens the export of an attachment, slot 0, first incarnation.
func dialSlot(ctx context.Context, addr, export string) (device, error) {
	return dialPlain(ctx, addr, export+".0.1")
}

// nbdAddress picks the address asked for, or the first that the server states.
func nbdAddress(asked string, stated []string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	if len(stated) == 0 {
		return "", block.Errorf(block.Unavailable, "the server states no NBD address: want one given, as in tcp://HOST:10809")
	}
	return stated[0], nil
}
