package segment

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// opFS calls before with the number of every operation that changes a file or
// a directory, just before it happens; an error stops the operation.
type opFS struct {
	vfs.FS
	n      atomic.Int64
	before func(n int, op, name string) error
	limit  int64 // allocated length of a segment file; 0: any
}

func (o *opFS) op(op, name string) error {
	n := int(o.n.Add(1))
	if o.before == nil {
		return nil
	}
	return o.before(n, op, name)
}

func (o *opFS) wrap(f vfs.File, err error, name string) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &opFile{File: f, fs: o, name: name}, nil
}

func (o *opFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := o.op("create", name); err != nil {
		return nil, err
	}
	f, err := o.FS.Create(name, c)
	return o.wrap(f, err, name)
}

func (o *opFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := o.FS.OpenReadWrite(name, c, opts...)
	return o.wrap(f, err, name)
}

func (o *opFS) OpenDir(name string) (vfs.File, error) {
	f, err := o.FS.OpenDir(name)
	return o.wrap(f, err, name)
}

func (o *opFS) Remove(name string) error {
	if err := o.op("remove", name); err != nil {
		return err
	}
	return o.FS.Remove(name)
}

type opFile struct {
	vfs.File
	fs   *opFS
	name string
}

func (f *opFile) WriteAt(p []byte, off int64) (int, error) {
	op := "write"
	if binary.LittleEndian.Uint64(p) == 0 {
		op = "zeros" // every header begins with a magic number
	}
	if end := off + int64(len(p)); f.fs.limit > 0 && end > f.fs.limit {
		return 0, fmt.Errorf("write to byte %d of %s: %d are allocated", end, f.name, f.fs.limit)
	}
	if err := f.fs.op(op, f.name); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *opFile) Preallocate(off, n int64) error {
	if err := f.fs.op("allocate", f.name); err != nil {
		return err
	}
	return f.File.Preallocate(off, n)
}

func (f *opFile) Sync() error {
	if err := f.fs.op("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *opFile) SyncData() error {
	if err := f.fs.op("syncdata", f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}
