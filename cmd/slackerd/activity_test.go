package main

import (
	"context"

	"connectrpc.com/connect"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
)

// countsActivity wants the API to have counted the one write of 64 KiB to v that
// the metrics have.
func (p *process) countsActivity() {
	p.t.Helper()
	resp, err := p.client().GetActivity(context.Background(), connect.NewRequest(&slackerv1.GetActivityRequest{}))
	if err != nil {
		p.t.Fatal(err)
	}
	a := resp.Msg
	if a.GetTime() == nil || len(a.GetTargets()) != 1 || len(a.GetTargets()[0].GetCommands()) != 1 {
		p.t.Fatalf("activity: %v", a)
	}
	at, c, timed := a.GetTargets()[0], a.GetTargets()[0].GetCommands()[0], uint64(0)
	for _, n := range c.GetBuckets() {
		timed += n
	}
	if at.GetTarget() != "v" || at.GetConnections() != 1 || c.GetCommand() != "write" || c.GetDone() != 1 || c.GetFailed() != 0 ||
		c.GetBytes() != 65536 || timed != 1 || len(c.GetBuckets()) != len(a.GetBoundsNanos())+1 {
		p.t.Errorf("activity: %v", a)
	}
	resp, err = p.client().GetActivity(context.Background(), connect.NewRequest(&slackerv1.GetActivityRequest{ByConnection: true}))
	if err != nil {
		p.t.Fatal(err)
	}
	if a = resp.Msg; len(a.GetTargets()) != 1 || a.GetTargets()[0].GetConnection().GetId() == 0 || a.GetTargets()[0].GetConnection().GetRemote() == "" ||
		a.GetTargets()[0].GetTarget() != "v" || a.GetTargets()[0].GetCommands()[0].GetBytes() != 65536 {
		p.t.Errorf("activity by connection: %v", a)
	}
}
