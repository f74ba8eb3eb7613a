package image

import (
	"context"
	"crypto/tls"
	"slices"
	"time"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/block"
)

// ExportOptions says what to export and where to.
type ExportOptions struct {
	// Source is a snapshot, VOLUME@SNAPSHOT, or a volume. A volume that is
	// written meanwhile is exported as no one moment of it.
	Source string
	// Dest is the file to make.
	Dest string
	// Format is one of [ExportFormats]; empty is raw.
	Format string
	Client slackerv1connect.AdminServiceClient
	// NBDAddr is the server's NBD address; empty is the first that it states.
	NBDAddr string
	// TLS gives the configuration of TCP connections; nil is without TLS.
	TLS      func() (*tls.Config, error)
	Progress Progress
	// Force replaces a file that is there.
	Force bool

	open func(ctx context.Context, addr, export string) (device, error) // tests only; nil dials
}

// Export writes a snapshot or volume to a file. The file appears when it is
// complete and synced; when Export fails nothing of it is left.
func Export(ctx context.Context, o ExportOptions) (Result, error) {
	started := time.Now()
	if err := o.check(); err != nil {
		return Result{}, err
	}
	addr, err := o.locate(ctx)
	if err != nil {
		return Result{}, err
	}
	out, err := createPartial(o.Dest, o.Force)
	if err != nil {
		return Result{}, err
	}
	res := Result{Format: o.Format}
	progress := serialize(o.Progress)
	if o.Format == FormatQcow2 {
		err = exportQcow2(ctx, addr, o.Source, out, &res, progress)
	} else {
		err = o.exportRaw(ctx, addr, out, &res, progress)
	}
	if err != nil {
		out.discard()
		return Result{}, block.Wrap(block.IO, err, "export "+o.Source)
	}
	if err := out.publish(); err != nil {
		return Result{}, err
	}
	res.Took = time.Since(started)
	return res, nil
}

func (o *ExportOptions) check() error {
	if o.Client == nil {
		return block.Errorf(block.Internal, "export %s: no client of the server given", o.Source)
	}
	if o.Dest == "" {
		return block.Errorf(block.Invalid, "export %s: no destination given: want a file name", o.Source)
	}
	if o.Format == "" || o.Format == FormatAuto {
		o.Format = FormatRaw
	}
	if !slices.Contains(ExportFormats(), o.Format) {
		return unknownFormat("export", o.Format, ExportFormats())
	}
	if volume, _, err := block.SplitSnapshot(o.Source); err == nil && volume != "" {
		return nil
	}
	return block.CheckVolumeName(o.Source)
}

// locate makes sure that the source exists, and returns where to read it.
func (o *ExportOptions) locate(ctx context.Context) (addr string, err error) {
	if volume, snapshot, splitErr := block.SplitSnapshot(o.Source); splitErr == nil {
		_, err = o.Client.GetSnapshot(ctx, connect.NewRequest(&slackerv1.GetSnapshotRequest{Volume: volume, Snapshot: snapshot}))
	} else {
		_, err = o.Client.GetVolume(ctx, connect.NewRequest(&slackerv1.GetVolumeRequest{Name: o.Source}))
	}
	if err != nil {
		return "", rpcError(err, "export "+o.Source)
	}
	if o.NBDAddr != "" {
		return o.NBDAddr, nil
	}
	status, err := o.Client.GetStatus(ctx, connect.NewRequest(&slackerv1.GetStatusRequest{}))
	if err != nil {
		return "", rpcError(err, "export "+o.Source)
	}
	return nbdAddress("", status.Msg.GetNbdAddresses())
}

// exportRaw writes a sparse file: holes and zeroes are not read at all.
func (o *ExportOptions) exportRaw(ctx context.Context, addr string, out *partialFile, res *Result, progress Progress) (err error) {
	open := o.open
	if open == nil {
		open = dialer(false, o.TLS)
	}
	dev, err := open(ctx, addr, o.Source)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := dev.Close(); err == nil {
			err = block.Wrap(block.IO, closeErr, "close the connection")
		}
	}()
	res.SizeBytes = dev.SizeBytes()
	res.SourceBytes = res.SizeBytes
	if res.SizeBytes == 0 || res.SizeBytes > block.MaxVolumeBytes {
		return block.Errorf(block.Invalid, "the server says it has %d bytes, want 1 to %d", res.SizeBytes, uint64(block.MaxVolumeBytes))
	}
	if err := out.f.Truncate(int64(res.SizeBytes)); err != nil {
		return writeError(out.f.Name(), err)
	}
	res.WrittenBytes, err = readContent(ctx, dev, out.f, progress)
	return err
}
