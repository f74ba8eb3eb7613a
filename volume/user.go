package volume

import "github.com/slackerd/slacker/block"

// User says what a device is open for.
type User struct {
	// Volume and Snapshot tell the device's object apart, also when the volume
	// is renamed.
	Volume             block.VolumeID
	Snapshot           string
	Target             string // VOLUME or VOLUME@SNAPSHOT, as it is called now
	Attachment, Worker string // empty without an attachment
}

// User describes who uses the device. It may be asked after Close too.
func (d *Device) User() User {
	u := User{Volume: d.v.id, Target: d.target()}
	if d.sn != nil {
		u.Snapshot = d.sn.rec.Name
	}
	if d.attachment != nil {
		u.Attachment, u.Worker = d.attachment.rec.ID, d.attachment.rec.Worker
	}
	return u
}
