package apiserver

import (
	"testing"

	"github.com/slackerd/slacker/access"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
)

// targets is a store of which only the targets of ids matter.
type targets struct{ Store }

func (targets) AttachmentTarget(id string) (string, bool, error) {
	if id == "ro" {
		return "v@s", false, nil
	}
	return "v", true, nil
}

func (targets) BaseTarget(id, _ string) (string, error) {
	if id == "hidden" {
		return "base@s", nil
	}
	return "v@s", nil
}

func (targets) ImportTarget(string) (string, error) { return "v@s", nil }

func permitsOf(t *testing.T, rules ...string) *permits {
	t.Helper()
	policy, err := access.ParsePolicy(rules)
	if err != nil {
		t.Fatal(err)
	}
	return &permits{&Server{store: targets{}, opts: Options{Access: policy}}}
}

// requests are one of each method, all about volume v, by what they need there.
func requests() map[access.Permission][]any {
	return map[access.Permission][]any{
		access.Read: {&slackerv1.GetVolumeRequest{Name: "v"}, &slackerv1.ListSnapshotsRequest{Volume: "v"}, &slackerv1.GetSnapshotRequest{Volume: "v"},
			&slackerv1.AttachRequest{Target: "v@s", ReadOnly: true}, &slackerv1.DetachRequest{AttachmentId: "ro"}, &slackerv1.GetDirtyRequest{AttachmentId: "ro"},
			&slackerv1.ReadBaseRequest{AttachmentId: "ro"}, &slackerv1.PutTraceRequest{AttachmentId: "ro"}},
		access.Write: {&slackerv1.CreateSnapshotRequest{Volume: "v"}, &slackerv1.AttachRequest{Target: "v"},
			&slackerv1.AttachRequest{Target: "v", ReadOnly: true, AttachmentId: "rw"}, &slackerv1.DetachRequest{AttachmentId: "rw"}, &slackerv1.GetDirtyRequest{AttachmentId: "rw"},
			&slackerv1.ReadBaseRequest{AttachmentId: "rw"}, &slackerv1.PutTraceRequest{AttachmentId: "rw"}},
		access.Admin: {&slackerv1.CreateVolumeRequest{Name: "v"}, &slackerv1.ResizeVolumeRequest{Name: "v"}, &slackerv1.RenameVolumeRequest{Name: "v", NewName: "v"},
			&slackerv1.DeleteVolumeRequest{Name: "v"}, &slackerv1.DeleteVolumeRequest{Name: "v", Also: []string{"v"}},
			&slackerv1.DeleteSnapshotRequest{Volume: "v"}, &slackerv1.RollbackVolumeRequest{Volume: "v"},
			&slackerv1.BeginImportRequest{Volume: "v"}, &slackerv1.FinishImportRequest{ImportId: "i"}, &slackerv1.AbortImportRequest{ImportId: "i"}},
	}
}

// TestEveryRequestNeeds: what is granted is allowed, what is not is refused.
func TestEveryRequestNeeds(t *testing.T) {
	for _, granted := range []access.Permission{access.Read, access.Write, access.Clone, access.Admin} {
		p := permitsOf(t, "uid=1 "+granted.String()+" v", "uid=2 admin w")
		for needed, rs := range requests() {
			for _, r := range rs {
				if err := p.check(access.OfUser(1, 1), r); (err == nil) != (granted&needed == needed) {
					t.Errorf("%T with %s: %v", r, granted, err)
				}
				if err := p.check(access.OfUser(2, 2), r); !block.Is(err, block.Permission) {
					t.Errorf("%T of somebody with rights elsewhere: %v", r, err)
				}
			}
		}
	}
}

func TestCloneNeedsBothSides(t *testing.T) {
	r := &slackerv1.CloneSnapshotRequest{Volume: "v", Snapshot: "s", NewVolume: "n"}
	for rules, ok := range map[[2]string]bool{
		{"any clone v", "any admin n"}: true, {"any clone v", "any write n"}: false, {"any read v", "any admin n"}: false, {"any admin n", "any write v"}: false,
	} {
		if err := permitsOf(t, rules[:]...).check(access.Identity{}, r); (err == nil) != ok {
			t.Errorf("%v: %v", rules, err)
		}
	}
}

func TestPublishNeedsBothSides(t *testing.T) {
	r := &slackerv1.PublishRequest{Volume: "v", NewVolume: "n", NewSnapshot: "s"}
	for rules, ok := range map[[3]string]bool{
		{"any clone v", "any write v", "any admin n"}: true, {"any clone v", "any read v", "any admin n"}: false,
		{"any write v", "any read v", "any admin n"}: false, {"any clone v", "any write v", "any write n"}: false,
	} {
		if err := permitsOf(t, rules[:]...).check(access.Identity{}, r); (err == nil) != ok {
			t.Errorf("%v: %v", rules, err)
		}
	}
}

func TestListsShowWhatMayBeRead(t *testing.T) {
	p := permitsOf(t, "uid=1 read a/*", "uid=2 read **")
	volumes := &slackerv1.ListVolumesResponse{Volumes: []*slackerv1.Volume{{Name: "a/x"}, {Name: "b"}}}
	snapshots := &slackerv1.ListSnapshotsResponse{Snapshots: []*slackerv1.Snapshot{{Volume: "a/x"}, {Volume: "b"}}}
	attachments := &slackerv1.ListAttachmentsResponse{Attachments: []*slackerv1.Attachment{{Target: "a/x@s"}, {Target: "b"}}}
	activity := &slackerv1.Activity{Targets: []*slackerv1.TargetActivity{{Target: "(other)"}, {Target: "a/x@s"}, {Target: "b"}}}
	for _, m := range []any{volumes, snapshots, attachments, activity} {
		p.filter(access.OfUser(1, 1), m)
	}
	if len(volumes.Volumes) != 1 || len(snapshots.Snapshots) != 1 || len(attachments.Attachments) != 1 || volumes.Volumes[0].Name != "a/x" {
		t.Errorf("lists are %v %v %v", volumes, snapshots, attachments)
	}
	if len(activity.Targets) != 1 || activity.Targets[0].GetTarget() != "a/x@s" {
		t.Errorf("activity is %v", activity)
	}
	for _, r := range []any{&slackerv1.ListVolumesRequest{}, &slackerv1.GetActivityRequest{}} {
		if err := p.check(access.OfUser(9, 9), r); !block.Is(err, block.Permission) {
			t.Errorf("%T for nobody: %v", r, err)
		}
		if err := p.check(access.OfUser(1, 1), r); err != nil {
			t.Errorf("%T for somebody known: %v", r, err)
		}
	}
}

// TestBaseNeedsLeaveToReadIt: a clone may hide what its base has.
func TestBaseNeedsLeaveToReadIt(t *testing.T) {
	for _, r := range []any{&slackerv1.ReadBaseRequest{AttachmentId: "hidden"}, &slackerv1.PutTraceRequest{AttachmentId: "hidden"}} {
		for rules, ok := range map[[2]string]bool{{"any write v", "any read base"}: true, {"any admin v", "any admin w"}: false, {"any read v", "any read base"}: false} {
			if err := permitsOf(t, rules[:]...).check(access.Identity{}, r); (err == nil) != ok {
				t.Errorf("%T with %v: %v", r, rules, err)
			}
		}
	}
	p := permitsOf(t, "uid=1 read base", "uid=2 read v")
	for uid, ok := range map[uint32]bool{1: true, 2: false} {
		a := &slackerv1.Attachment{Base: &slackerv1.Base{Id: "i", Target: "base@s", Trace: []byte{1}, Files: []byte{1}}}
		p.filter(access.OfUser(uid, uid), a)
		if (a.GetBase().GetTrace() != nil) != ok || (a.GetBase().GetFiles() != nil) != ok || a.GetBase().GetId() == "" {
			t.Errorf("user %d sees %v", uid, a.GetBase())
		}
	}
}

// TestUnknownRequestNeedsEverything: a method that is added later is closed
// until permit.go says otherwise.
func TestUnknownRequestNeedsEverything(t *testing.T) {
	for _, r := range []any{struct{}{}, &slackerv1.CheckRequest{}, &slackerv1.UpgradeServerRequest{}, &slackerv1.CollectGarbageRequest{}} {
		if err := permitsOf(t, "any admin *").check(access.Identity{}, r); !block.Is(err, block.Permission) {
			t.Errorf("%T: %v", r, err)
		}
		if err := permitsOf(t, "any admin **").check(access.Identity{}, r); err != nil {
			t.Errorf("%T of an admin: %v", r, err)
		}
	}
}
