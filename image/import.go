package image

import (
	"context"
	"crypto/tls"
	"time"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// Formats of sources and destinations.
const (
	FormatAuto          = "auto"           // import: found out by [Detect]
	FormatRaw           = "raw"            // a disk image, byte for byte
	FormatQcow2         = "qcow2"          // QEMU's disk image, version 2 or 3
	FormatTar           = "tar"            // files, also compressed with gzip, bzip2, xz or zstd
	FormatDir           = "dir"            // a directory's files
	FormatDockerArchive = "docker-archive" // what docker save writes
	FormatOCI           = "oci"            // an OCI image layout: a directory or a tar file of it
)

// Formats lists what [Import] reads.
func Formats() []string {
	return []string{FormatAuto, FormatRaw, FormatQcow2, FormatTar, FormatDir, FormatDockerArchive, FormatOCI}
}

// ExportFormats lists what [Export] writes.
func ExportFormats() []string { return []string{FormatRaw, FormatQcow2} }

// Phases of an import or export, as Progress names them.
const (
	PhaseRead   = "read"   // standard input, or a compressed archive, goes into a temporary file
	PhaseUnpack = "unpack" // files go into the staging directory
	PhaseMkfs   = "mkfs"   // an ext4 image is made of them
	PhaseWrite  = "write"  // data goes to the server
	PhaseExport = "export" // data comes from the server
	PhasePack   = "pack"   // files go into a layer
)

// Progress is told how far a phase is. total is 0 where it is not known. It is
// never called by two goroutines at once, and must return soon.
type Progress func(phase string, doneBytes, totalBytes uint64)

// ImportOptions says what to import and where to.
type ImportOptions struct {
	// Source is a path, or "-" for standard input (raw and tar only).
	Source string
	// Format is one of [Formats]; empty is auto.
	Format string
	// Target is the snapshot to make, as VOLUME@SNAPSHOT.
	Target string
	// SizeBytes is the size of the volume. 0 chooses: the size of a disk image,
	// or for files room for as much again, and at least 1 GiB more.
	SizeBytes uint64
	// Image says which image of an archive with several to take: a tag, a
	// reference or a digest. Empty takes the only one.
	Image string
	// Platform picks from a multi-platform image, as in linux/arm64. Empty is
	// linux and this machine's architecture.
	Platform string
	Client   slackerv1connect.AdminServiceClient
	// NBDAddr is the server's NBD address; empty is the first that it states.
	NBDAddr string
	// TLS gives the configuration of TCP connections; nil is without TLS.
	TLS      func() (*tls.Config, error)
	Progress Progress
	// TempDir is where archives are unpacked and file systems are made; it
	// needs room for about twice the content. Empty is os.TempDir.
	TempDir string

	open func(ctx context.Context, addr, export string) (device, error) // tests only; nil dials
}

// Result says what an import or export did.
type Result struct {
	Format      string // what the source was taken for, or the destination's format
	SizeBytes   uint64 // of the volume or snapshot
	SourceBytes uint64 // size of the disk image, or the bytes of files and directories
	// WrittenBytes counts the bytes that went to the server, or, for an export,
	// that were read from it.
	WrittenBytes uint64
	// PaddedBytes were added to make the size a multiple of a block.
	PaddedBytes uint64
	Files       uint64 // files, directories and links, where the source held any
	// Image names what was taken from an archive, and Config is its
	// configuration (JSON, verified), where the source was a container image.
	Image    string
	Config   []byte
	Warnings []string // what could not be kept, one line each
	Took     time.Duration
}

// abortTimeout bounds telling the server that an import is off.
const abortTimeout = 10 * time.Second

// Import makes the snapshot o.Target of the source. When it fails nothing of
// it is left on the server or here. Errors carry a block.Kind.
func Import(ctx context.Context, o ImportOptions) (Result, error) {
	started := time.Now()
	if err := o.check(); err != nil {
		return Result{}, err
	}
	volume, snapshot, err := block.SplitSnapshot(o.Target)
	if err != nil {
		return Result{}, err
	}
	if err := refuseExisting(ctx, o.Client, volume, snapshot); err != nil {
		return Result{}, err
	}
	work, err := newWorkspace(o.TempDir, o.Progress)
	if err != nil {
		return Result{}, err
	}
	res, err := o.importWith(ctx, work, volume, snapshot)
	if closeErr := work.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return Result{}, err
	}
	res.Took = time.Since(started)
	return res, nil
}

func (o *ImportOptions) check() error {
	if o.Client == nil {
		return block.Errorf(block.Internal, "import %s: no client of the server given", o.Target)
	}
	if o.Source == "" {
		return block.Errorf(block.Invalid, "import %s: no source given: want a file, a directory or - for standard input", o.Target)
	}
	if o.SizeBytes%block.Size != 0 || o.SizeBytes > block.MaxVolumeBytes {
		return block.Errorf(block.Invalid, "import %s: size %d: want a multiple of %d of at most %d bytes",
			o.Target, o.SizeBytes, block.Size, uint64(block.MaxVolumeBytes))
	}
	if o.Format == "" {
		o.Format = FormatAuto
	}
	for _, f := range Formats() {
		if f == o.Format {
			return nil
		}
	}
	return unknownFormat("import", o.Format, Formats())
}

// importWith opens the source as content and writes that to a new volume.
func (o *ImportOptions) importWith(ctx context.Context, work *workspace, volume, snapshot string) (res Result, err error) {
	src, err := o.openSource(ctx, work, &res)
	if err != nil {
		return res, err
	}
	defer func() { _ = src.close() }() // read only
	if err := o.fit(src, &res); err != nil {
		return res, err
	}
	begun, err := o.Client.BeginImport(ctx, connect.NewRequest(&slackerv1.BeginImportRequest{
		Volume: volume, Snapshot: snapshot, SizeBytes: res.SizeBytes}))
	if err != nil {
		return res, rpcError(err, "import "+o.Target)
	}
	id := begun.Msg.GetImportId()
	if err := o.fill(ctx, src, begun.Msg.GetAttachment(), &res, work.progress); err != nil {
		return res, o.abort(ctx, id, err)
	}
	_, err = o.Client.FinishImport(ctx, connect.NewRequest(&slackerv1.FinishImportRequest{ImportId: id}))
	if err != nil {
		return res, o.abort(ctx, id, rpcError(err, "finish import of "+o.Target))
	}
	return res, nil
}

// openSource makes content of the source, by its format.
func (o *ImportOptions) openSource(ctx context.Context, work *workspace, res *Result) (content, error) {
	path, err := work.spoolStdin(ctx, o.Source)
	if err != nil {
		return nil, err
	}
	if res.Format = o.Format; o.Format == FormatAuto {
		if res.Format, err = Detect(path); err != nil {
			return nil, err
		}
	}
	switch res.Format {
	case FormatRaw:
		return openRaw(path)
	case FormatQcow2:
		return openQcow2(path)
	default:
		return o.openFiles(ctx, work, path, res)
	}
}

// fit settles the size of the volume.
func (o *ImportOptions) fit(src content, res *Result) error {
	if res.Files == 0 {
		res.SourceBytes = src.sizeBytes()
	}
	size := src.sizeBytes()
	if size == 0 {
		return block.Errorf(block.Invalid, "import %s: %s is empty: want at least %d bytes", o.Target, o.Source, block.Size)
	}
	if size > block.MaxVolumeBytes {
		return block.Errorf(block.Invalid, "import %s: %s has %d bytes: want at most %d", o.Target, o.Source, size, uint64(block.MaxVolumeBytes))
	}
	padded := (size + block.Size - 1) / block.Size * block.Size
	res.PaddedBytes = padded - size
	res.SizeBytes = padded
	if o.SizeBytes == 0 {
		return nil
	}
	if o.SizeBytes < padded {
		return block.Errorf(block.Invalid, "import %s: %s has %d bytes and does not fit in the %d asked for: want a size of at least %d",
			o.Target, o.Source, size, o.SizeBytes, padded)
	}
	res.SizeBytes = o.SizeBytes
	return nil
}

// fill writes src to the staging volume and makes it durable.
func (o *ImportOptions) fill(ctx context.Context, src content, at *slackerv1.Attachment, res *Result, progress Progress) (err error) {
	addr, err := nbdAddress(o.NBDAddr, at.GetNbdAddresses())
	if err != nil {
		return err
	}
	open := o.open
	if open == nil {
		open = dialer(true, o.TLS)
	}
	dev, err := open(ctx, addr, at.GetExportName())
	if err != nil {
		return block.Wrap(block.Unavailable, err, "import "+o.Target)
	}
	defer func() {
		if closeErr := dev.Close(); err == nil {
			err = block.Wrap(block.IO, closeErr, "import "+o.Target)
		}
	}()
	if dev.SizeBytes() < res.SizeBytes {
		return block.Errorf(block.Internal, "import %s: the staging volume has %d bytes, want %d", o.Target, dev.SizeBytes(), res.SizeBytes)
	}
	res.WrittenBytes, err = writeContent(ctx, dev, src, progress)
	if err != nil {
		return block.Wrap(block.IO, err, "import "+o.Target)
	}
	return block.Wrap(block.IO, dev.Flush(ctx), "import "+o.Target+": flush")
}

// abort tells the server to forget the import, also when ctx is done, and
// returns cause.
func (o *ImportOptions) abort(ctx context.Context, id string, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	_, err := o.Client.AbortImport(ctx, connect.NewRequest(&slackerv1.AbortImportRequest{ImportId: id}))
	if err == nil || block.Is(api.FromConnect(err), block.NotFound) {
		return cause
	}
	return block.Wrap(block.KindOf(cause), cause, "the import could not be aborted either ("+err.Error()+"), the server drops it by itself; the cause")
}
