package volume

import (
	"context"

	"github.com/slackerd/slacker/block"
)

// ExportTarget returns what an export name leads to, and whether it would be
// opened for writing. Nothing is opened or fenced. Of an import it is the
// snapshot that is being made.
func (s *Store) ExportTarget(export string) (target string, writable bool, err error) {
	e, err := parseExport(export)
	if err != nil {
		return "", false, err
	}
	if e.attachment != "" {
		return s.AttachmentTarget(e.attachment)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, sn, err := s.find(e.target)
	if err != nil {
		return "", false, err
	}
	return e.target, sn == nil && s.writer(v) == nil, nil
}

// AttachmentTarget returns what an attachment is of, and whether it writes.
func (s *Store) AttachmentTarget(id string) (target string, writable bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.attachments[id]
	switch {
	case a == nil:
		return "", false, block.Errorf(block.NotFound, "no attachment %.64s: it was detached or taken over", id)
	case a.v.rec.Import != "":
		return a.v.rec.ImportTarget, true, nil
	}
	return s.attachmentInfo(a).Target, !a.rec.ReadOnly, nil
}

// ImportTarget returns the snapshot that an import makes.
func (s *Store) ImportTarget(id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.findImport(id)
	if err != nil {
		return "", err
	}
	return v.rec.ImportTarget, nil
}

// OpenReadOnly is Open for a connection that may not write.
func (s *Store) OpenReadOnly(_ context.Context, export, remote string, disconnect func(error)) (*Device, error) {
	return s.openDevice(export, &Device{remote: remote, disconnect: disconnect, readOnly: true})
}
