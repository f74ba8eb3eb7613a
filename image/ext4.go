package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
)

const (
	ext4InodeBytes    = 256
	ext4BytesPerInode = 16384 // mke2fs's own choice for file systems of this size
	// ext4Features are stated in full, so that the host's mke2fs.conf does not
	// matter. The checksum seed lets a clone change its UUID without rewriting
	// metadata.
	ext4Features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,metadata_csum," +
		"metadata_csum_seed,sparse_super,large_file,huge_file,dir_nlink,extra_isize"
	// ext4Options leave no work to do at the first mount.
	ext4Options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
	// sizeStep rounds a size that is chosen here.
	sizeStep = 64 << 20
	// spareBytes is the least room for growth that is chosen.
	spareBytes = 1 << 30
)

// inventory is what a directory holds.
type inventory struct {
	dataBytes   uint64 // in whole blocks, without holes
	sourceBytes uint64 // the sizes of files
	inodes      uint64
	extentMeta  uint64 // bytes for the extent trees of files in many pieces
	names       uint64 // bytes of directory entries
	root        unix.Stat_t
}

// takeInventory walks dir.
func takeInventory(ctx context.Context, dir string) (*inventory, error) {
	inv := &inventory{}
	if err := unix.Stat(dir, &inv.root); err != nil {
		return nil, openError(dir, err)
	}
	linked := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return openError(path, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return openError(path, err)
		}
		if st.Dev != inv.root.Dev {
			return block.Errorf(block.Invalid, "%s: another file system is mounted at %s: want a directory without mounts, or a tar archive of it", dir, path)
		}
		inv.names += 8 + (uint64(len(d.Name()))+3)/4*4
		if st.Nlink > 1 && !d.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		return inv.add(path, st)
	})
	return inv, err
}

// add counts one inode.
func (inv *inventory) add(path string, st unix.Stat_t) error {
	if inv.inodes++; inv.inodes > maxFiles {
		return block.Errorf(block.Invalid, "%s is one of more than %d files: that is more than can be imported", path, maxFiles)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		inv.dataBytes += block.Size
	case unix.S_IFLNK:
		inv.sourceBytes += uint64(st.Size)
		if st.Size >= 60 { // a longer target does not fit in the inode
			inv.dataBytes += block.Size
		}
	case unix.S_IFREG:
		if st.Size > maxFileBytes {
			return block.Errorf(block.Invalid, "%s has %d bytes: want at most %d", path, st.Size, int64(maxFileBytes))
		}
		inv.sourceBytes += uint64(st.Size)
		if st.Blocks*512 >= st.Size {
			inv.dataBytes += (uint64(st.Size) + block.Size - 1) / block.Size * block.Size
			inv.extentMeta += uint64(st.Size) >> 17 // a block of the tree for a few hundred extents
			return nil
		}
		return inv.addSparse(path)
	}
	// Attributes may need a block of their own.
	if n, err := unix.Llistxattr(path, nil); err == nil && n > 0 {
		inv.dataBytes += block.Size
	}
	return nil
}

// addSparse counts the data of a file with holes.
func (inv *inventory) addSparse(path string) error {
	c, err := openRaw(path)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }() // read only
	for off := uint64(0); off < c.sizeBytes(); {
		start, end, err := c.nextData(off)
		if err != nil {
			return err
		}
		inv.dataBytes += (end+block.Size-1)/block.Size*block.Size - start/block.Size*block.Size
		inv.extentMeta += 16
		off = end
	}
	inv.extentMeta += block.Size
	return nil
}

// content is what the files need without the file system's own structures.
func (inv *inventory) content() uint64 {
	return inv.dataBytes + 2*inv.names + inv.extentMeta + inv.inodes*ext4InodeBytes
}

// inodeCount is how many inodes a file system of that size gets.
func (inv *inventory) inodeCount(sizeBytes uint64) uint64 {
	return max(sizeBytes/ext4BytesPerInode, inv.inodes+inv.inodes/8+64)
}

// ext4JournalBytes is the journal that mke2fs makes.
func ext4JournalBytes(sizeBytes uint64) uint64 {
	switch {
	case sizeBytes < 128<<20:
		return 4 << 20
	case sizeBytes < 1<<30:
		return 16 << 20
	case sizeBytes < 2<<30:
		return 32 << 20
	case sizeBytes < 16<<30:
		return 64 << 20
	case sizeBytes < 32<<30:
		return 128 << 20
	case sizeBytes < 64<<30:
		return 256 << 20
	}
	return 1 << 30
}

// leastBytes is a size that is sure to hold the files.
func (inv *inventory) leastBytes() uint64 {
	const fixed = 8 << 20 // superblocks, descriptors, room for more descriptors, lost+found
	size := uint64(16 << 20)
	for range 64 { // the overhead depends on the size, and grows slower than it
		need := inv.content() + inv.content()/64 + inv.inodeCount(size)*ext4InodeBytes + ext4JournalBytes(size) + fixed + size/256
		if need <= size {
			break
		}
		size = (need + 1<<20 - 1) >> 20 << 20
	}
	return size
}

// chooseSize settles the size of the file system.
func (inv *inventory) chooseSize(asked uint64, source string) (uint64, error) {
	least, content := inv.leastBytes(), inv.content()
	if asked != 0 {
		if asked < least {
			return 0, block.Errorf(block.Invalid, "%s has %d bytes in %d files, too much for a volume of %d bytes: want a size of at least %d (%d MiB)",
				source, inv.sourceBytes, inv.inodes, asked, least, least>>20)
		}
		return asked, nil
	}
	size := (max(2*content, content+spareBytes, least) + sizeStep - 1) / sizeStep * sizeStep
	if size > block.MaxVolumeBytes {
		return 0, block.Errorf(block.Invalid, "%s has %d bytes: that is more than a volume of %d bytes holds", source, inv.sourceBytes, uint64(block.MaxVolumeBytes))
	}
	return size, nil
}

// makeExt4 makes an ext4 image of the files in dir, in a sparse temporary file.
func (w *workspace) makeExt4(ctx context.Context, dir string, inv *inventory, sizeBytes uint64) (path string, err error) {
	tool, err := findTool("mke2fs", "e2fsprogs")
	if err != nil {
		return "", err
	}
	if path, err = w.path("ext4.img"); err != nil {
		return "", err
	}
	if err := w.checkRoom(inv.content()); err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", openError(path, err)
	}
	err = f.Truncate(int64(sizeBytes))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", writeError(path, err)
	}
	w.progress(PhaseMkfs, 0, inv.sourceBytes)
	// Absolute, since mke2fs would take a name that begins with - for an option.
	if dir, err = filepath.Abs(dir); err != nil {
		return "", openError(dir, err)
	}
	cmd := exec.CommandContext(ctx, tool, "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(block.Size), "-m", "0",
		"-I", strconv.Itoa(ext4InodeBytes), "-N", strconv.FormatUint(inv.inodeCount(sizeBytes), 10),
		"-O", ext4Features, "-E", ext4Options, "-d", dir, path)
	cmd.WaitDelay = 5 * time.Second
	if err := runTool(ctx, cmd, func(string) {}); err != nil {
		return "", block.Wrap(block.IO, err, "make an ext4 file system of "+dir)
	}
	if err := fixRoot(ctx, path, inv.root); err != nil {
		return "", err
	}
	w.progress(PhaseMkfs, inv.sourceBytes, inv.sourceBytes)
	return path, nil
}

// checkRoom refuses to begin what will not fit among the temporary files.
func (w *workspace) checkRoom(bytes uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(w.dir, &st); err != nil {
		return block.Errorf(block.IO, "free space of %s: %w", w.parent, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < bytes+minFreeBytes {
		return block.Errorf(block.NoSpace, "temporary files: %s has %d bytes free, want %d: give a directory with more room",
			w.parent, free, bytes+minFreeBytes)
	}
	return nil
}

// fixRoot gives the root directory its owner, mode and time, which mke2fs
// before 1.47.1 does not take over.
func fixRoot(ctx context.Context, image string, root unix.Stat_t) error {
	tool, err := findTool("debugfs", "e2fsprogs")
	if err != nil {
		return err
	}
	var script strings.Builder
	set := func(field string, value uint64) { fmt.Fprintf(&script, "set_inode_field <2> %s %d\n", field, value) }
	fmt.Fprintf(&script, "set_inode_field <2> mode 0%o\n", unix.S_IFDIR|root.Mode&0o7777)
	set("uid", uint64(root.Uid))
	set("gid", uint64(root.Gid))
	fmt.Fprintf(&script, "set_inode_field <2> mtime @%d\n", root.Mtim.Sec)
	cmd := exec.CommandContext(ctx, tool, "-w", "-f", "-", image)
	cmd.Stdin, cmd.WaitDelay = strings.NewReader(script.String()), 5*time.Second
	if err := runTool(ctx, cmd, func(string) {}); err != nil {
		return block.Wrap(block.IO, err, "set the root directory's owner and mode")
	}
	return nil
}
