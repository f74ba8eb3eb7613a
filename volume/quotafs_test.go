package volume

import (
	"os"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// quotaFS is a file system on a disk of a certain size: what does not fit is
// refused as the kernel refuses it.
type quotaFS struct {
	vfs.FS
	q *quota
}

type quota struct {
	mu          sync.Mutex
	limit, used int64
	files       map[string]*int64 // what each file occupies
}

func newQuotaFS(fs vfs.FS, limit int64) quotaFS {
	return quotaFS{fs, &quota{limit: limit, files: map[string]*int64{}}}
}

// Unwrap returns the file system below.
func (f quotaFS) Unwrap() vfs.FS { return f.FS }

func (q *quota) file(name string) *int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.files[name] == nil {
		q.files[name] = new(int64)
	}
	return q.files[name]
}

func (q *quota) grow(size *int64, to int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	to = (to + 4095) / 4096 * 4096
	if to <= *size {
		return nil
	}
	if q.used+to-*size > q.limit {
		return &os.PathError{Op: "write", Path: "quota", Err: syscall.ENOSPC}
	}
	q.used += to - *size
	*size = to
	return nil
}

func (q *quota) remove(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.files[name]; s != nil {
		q.used -= *s
		delete(q.files, name)
	}
}

func (q *quota) rename(from, to string) {
	q.remove(to)
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.files[from]; s != nil {
		q.files[to] = s
		delete(q.files, from)
	}
}

// setLimit makes the disk of that size; with 0 it is full as it is.
func (q *quota) setLimit(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.limit = n; n == 0 {
		q.limit = q.used
	}
}

func (f quotaFS) wrap(name string, g vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &quotaFile{File: g, q: f.q, size: f.q.file(name)}, nil
}

func (f quotaFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.q.remove(name)
	g, err := f.FS.Create(name, c)
	return f.wrap(name, g, err)
}

func (f quotaFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	g, err := f.FS.OpenReadWrite(name, c, o...)
	return f.wrap(name, g, err)
}

func (f quotaFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	g, err := f.FS.ReuseForWrite(from, to, c)
	if err == nil {
		f.q.rename(from, to)
	}
	return f.wrap(to, g, err)
}

func (f quotaFS) Remove(name string) error {
	err := f.FS.Remove(name)
	if err == nil {
		f.q.remove(name)
	}
	return err
}

func (f quotaFS) Rename(from, to string) error {
	err := f.FS.Rename(from, to)
	if err == nil {
		f.q.rename(from, to)
	}
	return err
}

func (f quotaFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	f.q.mu.Lock()
	defer f.q.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: uint64(max(0, f.q.limit-f.q.used)), TotalBytes: uint64(f.q.limit), UsedBytes: uint64(f.q.used)}, nil
}

type quotaFile struct {
	vfs.File
	q    *quota
	size *int64
	at   int64 // of Write
}

func (f *quotaFile) Write(p []byte) (int, error) {
	if err := f.q.grow(f.size, f.at+int64(len(p))); err != nil {
		return 0, err
	}
	n, err := f.File.Write(p)
	f.at += int64(n)
	return n, err
}

func (f *quotaFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.q.grow(f.size, off+int64(len(p))); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *quotaFile) Preallocate(off, n int64) error {
	if err := f.q.grow(f.size, off+n); err != nil {
		return err
	}
	return f.File.Preallocate(off, n)
}
