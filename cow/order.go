package cow

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// orderedFS makes a file durable by name before Pebble's marker names it.
// Pebble syncs the directory after both only, and so leaves it to the file
// system that a crash does not keep the marker alone.
type orderedFS struct{ vfs.FS }

func (o orderedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(o.PathBase(name), "marker.") {
		d, err := o.OpenDir(o.PathDir(name))
		if err != nil {
			return nil, err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return nil, err
		}
	}
	return o.FS.Create(name, c)
}

// Unwrap returns the file system below, for Pebble.
func (o orderedFS) Unwrap() vfs.FS { return o.FS }
