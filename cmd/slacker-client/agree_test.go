package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/worker"
)

// TestListsAgree compares what the server lists as attached with what its workers
// list, after everything that changes either; and a forced detach works whatever is
// away, dead or in use.
func TestListsAgree(t *testing.T) {
	needFuse(t)
	s := newSecureServer(t)
	ctx := t.Context()
	_, err := s.admin().CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: "v", SizeBytes: 64 << 20}))
	if err == nil {
		_, err = s.admin().CreateSnapshot(ctx, connect.NewRequest(&slackerv1.CreateSnapshotRequest{Volume: "v", Snapshot: "s"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s.state = range []string{"state", "other"} {
			for _, target := range []string{"v", "v@s"} {
				_, _ = s.client("worker", "detach", target, "--force") // what a failure has left
			}
		}
	})
	mnt := filepath.Join(s.dir, "mnt")
	attach := []string{"attach", "v", "--driver", "fuse", "--request-timeout", "2s"}
	mounted := append(slices.Clone(attach), "--mkfs", "--mount", mnt)

	s.must(mounted...)
	s.agree("attach", "v")
	s.must("attach", "v@s", "--driver", "fuse", "--read-only")
	s.agree("attach of a snapshot", "v", "v@s")
	s.state = "other"
	s.must("attach", "v@s", "--driver", "fuse", "--read-only")
	s.agree("attach of the same snapshot by another worker", "v@s")
	s.must("detach", "v@s")
	s.state = "state"
	s.killAgents(false)
	s.agree("the end of the daemons", "v", "v@s")
	s.kill()
	s.start()
	s.agree("a restart of the server", "v", "v@s")
	s.must("detach", "v@s")
	s.agree("detach", "v")

	s.state = "other"
	s.must(append(slices.Clone(attach), "--takeover")...)
	s.agree("a takeover, at the new holder", "v")
	s.state = "state"
	s.agree("a takeover, at the former holder", "v stale")
	s.must("detach", "v", "--force")
	s.agree("detach of what was taken over")
	s.state = "other"
	s.agree("a forced detach by the former holder", "v")
	s.must("detach", "v", "--force")
	s.agree("detach --force")
	s.state = "state"

	s.must(mounted...)
	s.forcedWhileBusy(mnt)
	s.agree("detach --force of a device in use")
	s.must(mounted...)
	s.killAgents(true)
	s.agree("the end of daemon and standby", "v stale")
	s.must("detach", "v", "--force")
	s.agree("detach --force of what has died")
	s.must(mounted...)
	s.kill()
	s.must("detach", "v", "--force")
	s.start()
	s.agree("detach --force without a server", "v stale")
	s.must("list", "--clean")
	s.agree("list --clean")
}

// agree wants the worker to list so much, and the server to have just what of it is
// not stale, or what only the server knows of.
func (s *secureServer) agree(after string, want ...string) {
	s.t.Helper()
	var rows []worker.Row
	text := s.must("list", "--json")
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		s.t.Fatalf("after %s: the list is %q: %v", after, text, err)
	}
	var got, ids []string
	for _, r := range rows {
		switch {
		case r.Condition == worker.ConditionOK:
			got, ids = append(got, r.Target), append(ids, fmt.Sprintf("%s %s %v", r.AttachmentID, r.Target, r.ReadOnly))
		case !strings.Contains(r.Why, "the server no longer has"):
			ids = append(ids, fmt.Sprintf("%s %s %v", r.AttachmentID, r.Target, r.ReadOnly))
			fallthrough
		default:
			got = append(got, r.Target+" "+r.Condition)
		}
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("after %s the worker lists %q, want %q (%s)", after, got, want, text)
	}
	at, err := s.admin().ListAttachments(s.t.Context(), connect.NewRequest(&slackerv1.ListAttachmentsRequest{}))
	if err != nil {
		s.t.Fatal(err)
	}
	var there []string
	for _, a := range at.Msg.GetAttachments() {
		if strings.HasSuffix(a.GetWorker(), "/"+s.state) {
			there = append(there, fmt.Sprintf("%s %s %v", a.GetId(), a.GetTarget(), a.GetReadOnly()))
		}
	}
	slices.Sort(ids)
	slices.Sort(there)
	if !slices.Equal(ids, there) {
		s.t.Errorf("after %s the worker has %q, the server %q", after, ids, there)
	}
}

// killAgents kills the agents of the worker, with their standbys or without.
func (s *secureServer) killAgents(standbys bool) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, s.state, "*.agent"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("agents: %v, %v", files, err)
	}
	for _, name := range files {
		var pids [2]int
		await(s.t, "an agent with a standby", func() bool {
			b, err := os.ReadFile(name)
			n, _ := fmt.Sscan(string(b), &pids[0], &pids[1])
			return err == nil && n == 2 && pids[1] != 0
		})
		if standbys {
			_ = syscall.Kill(pids[1], syscall.SIGSTOP) // it must not notice before it dies itself
		}
		_ = syscall.Kill(pids[0], syscall.SIGKILL)
		if standbys {
			_ = syscall.Kill(pids[1], syscall.SIGKILL)
			await(s.t, "the end of both", func() bool { return syscall.Kill(pids[1], 0) != nil && syscall.Kill(pids[0], 0) != nil })
			continue
		}
		await(s.t, "another agent", func() bool {
			b, _ := os.ReadFile(name)
			var now int
			_, _ = fmt.Sscan(string(b), &now)
			return now != 0 && now != pids[0]
		})
	}
}

// forcedWhileBusy detaches by force while a file of the volume is open.
func (s *secureServer) forcedWhileBusy(mnt string) {
	s.t.Helper()
	f, err := os.Create(filepath.Join(mnt, "open"))
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 1<<20)); err != nil {
		s.t.Fatal(err)
	}
	if out, status := s.client("worker", "detach", "v"); status != 5 {
		s.t.Errorf("detach of a volume with an open file: status %d, want 5: %s", status, out)
	}
	s.must("detach", "v", "--force")
	_ = f.Close() // what it holds may be lost
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s after %v", what, patience)
		}
	}
}
