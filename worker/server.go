package worker

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// maxNBDAddresses bounds the addresses a server may name.
const maxNBDAddresses = 64

// apiTimeout bounds one call of the admin API.
const apiTimeout = 30 * time.Second

// listTimeout bounds what a listing waits for the server: what is attached here is
// shown without it too.
const listTimeout = 3 * time.Second

const maxAttachmentIDBytes = 128

// isAttachmentID reports whether an id is fit for file names, sysfs and log
// lines. (A regular expression would be compiled each time a process starts.)
func isAttachmentID(id string) bool {
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return id != "" && len(id) <= maxAttachmentIDBytes
}

// fillFrom takes over what the server says of an attachment.
func (s *state) fillFrom(a *slackerv1.Attachment) error {
	switch {
	case !isAttachmentID(a.GetId()):
		return block.Errorf(block.Invalid, "attach %s: the server gives the attachment the id %.140q", s.Target, a.GetId())
	case a.GetSizeBytes() == 0 || a.GetSizeBytes() > block.MaxVolumeBytes:
		return block.Errorf(block.Invalid, "attach %s: the server says its size is %d bytes, want 1 to %d", s.Target, a.GetSizeBytes(), uint64(block.MaxVolumeBytes))
	case a.GetExportName() == "" || len(a.GetExportName()) > nbdclient.MaxExportNameBytes/2:
		return block.Errorf(block.Invalid, "attach %s: the server gives an export name of %d bytes", s.Target, len(a.GetExportName()))
	case len(a.GetNbdAddresses()) == 0 || len(a.GetNbdAddresses()) > maxNBDAddresses:
		return block.Errorf(block.Unavailable, "attach %s: the server names %d NBD addresses, want 1 to %d: it needs --nbd-listen", s.Target, len(a.GetNbdAddresses()), maxNBDAddresses)
	}
	addrs, err := reachable(a.GetNbdAddresses(), s.Server)
	if err != nil {
		return err
	}
	s.AttachmentID, s.ExportName, s.SizeBytes = a.GetId(), a.GetExportName(), a.GetSizeBytes()
	s.NBDAddresses, s.Generation, s.Base = addrs, a.GetGeneration(), baseFrom(a)
	return nil
}

// attachAtServer gets an attachment. One that this worker has at the server
// without knowing of it is what a kill left between the server's answer and
// the state file: it is dropped first.
func (w *Worker) attachAtServer(ctx context.Context, s *state, takeover bool) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	request := &slackerv1.AttachRequest{Target: s.Target, Worker: s.Worker, ReadOnly: s.ReadOnly, Takeover: takeover}
	answer, err := w.API.Attach(ctx, connect.NewRequest(request))
	if err != nil && block.Is(api.FromConnect(err), block.Busy) {
		dropped, derr := w.dropOrphans(ctx, s.Target)
		if derr != nil {
			return derr
		}
		if dropped > 0 {
			answer, err = w.API.Attach(ctx, connect.NewRequest(request))
		}
	}
	if err != nil {
		return api.FromConnect(err)
	}
	return s.fillFrom(answer.Msg)
}

// dropOrphans detaches what this worker has of target at the server. The
// caller holds the lock of the target and has no attachment of it.
func (w *Worker) dropOrphans(ctx context.Context, target string) (int, error) {
	mine, err := w.atServer(ctx, target)
	if err != nil {
		return 0, err
	}
	for _, a := range mine {
		if err := w.detachAtServer(ctx, a.GetId()); err != nil {
			return 0, err
		}
	}
	return len(mine), nil
}

// atServer lists the attachments that the server has of this worker.
func (w *Worker) atServer(ctx context.Context, target string) ([]*slackerv1.Attachment, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	answer, err := w.API.ListAttachments(ctx, connect.NewRequest(&slackerv1.ListAttachmentsRequest{Target: target, Worker: w.Worker}))
	if err != nil {
		return nil, block.Wrap(block.Internal, api.FromConnect(err), "list attachments")
	}
	var mine []*slackerv1.Attachment
	for _, a := range answer.Msg.GetAttachments() {
		if a.GetWorker() == w.Worker && (target == "" || a.GetTarget() == target) {
			mine = append(mine, a)
		}
	}
	return mine, nil
}

// confirmAtServer asks whether the attachment still holds.
func (w *Worker) confirmAtServer(ctx context.Context, s *state) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := w.API.Attach(ctx, connect.NewRequest(&slackerv1.AttachRequest{Target: s.Target, Worker: s.Worker, ReadOnly: s.ReadOnly, AttachmentId: s.AttachmentID}))
	if err != nil {
		return block.Wrap(block.Internal, api.FromConnect(err), "confirm the attachment of "+s.Target)
	}
	return nil
}

// detachAtServer ends an attachment; one that is gone already is fine.
func (w *Worker) detachAtServer(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := w.API.Detach(ctx, connect.NewRequest(&slackerv1.DetachRequest{AttachmentId: id}))
	if err == nil {
		return nil
	}
	if err := api.FromConnect(err); !block.Is(err, block.NotFound) && !block.Is(err, block.Fenced) {
		return block.Wrap(block.Internal, err, "detach "+id)
	}
	return nil
}

// cloneAtServer makes a volume that starts as a snapshot.
func (w *Worker) cloneAtServer(ctx context.Context, from, name string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	volume, snapshot, err := block.SplitSnapshot(from)
	if err == nil {
		_, err = w.API.CloneSnapshot(ctx, connect.NewRequest(&slackerv1.CloneSnapshotRequest{Volume: volume, Snapshot: snapshot, NewVolume: name}))
	}
	if err != nil {
		return block.Wrap(block.Internal, api.FromConnect(err), "clone "+from)
	}
	return nil
}

// deleteAtServer deletes a volume that was made just now.
func (w *Worker) deleteAtServer(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if _, err := w.API.DeleteVolume(ctx, connect.NewRequest(&slackerv1.DeleteVolumeRequest{Name: name})); err != nil {
		return block.Wrap(block.Internal, api.FromConnect(err), "delete the clone "+name+" again")
	}
	return nil
}
