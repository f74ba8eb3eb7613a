package apiserver_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/apiserver"
)

// fakeScrubber is a scrub that finds one damage.
type fakeScrubber struct{ state apiserver.ScrubState }

func (f *fakeScrubber) StartScrub(context.Context) error {
	f.state = apiserver.ScrubState{Running: true, Started: started, DoneBlocks: 5, TotalBlocks: 10,
		Damage: []apiserver.Damage{{Kind: "data", Object: "layer 1 block 2", Affected: []string{"v"}}}}
	return nil
}

func (f *fakeScrubber) StopScrub(context.Context) error { f.state.Running = false; return nil }

func (f *fakeScrubber) ScrubState(context.Context) apiserver.ScrubState { return f.state }

func (f collectFunc) Garbage(context.Context) (uint64, []apiserver.Orphan, error) {
	return 8192, []apiserver.Orphan{{Kind: "layer", Object: "layer 3", Detail: "nobody sees it", Bytes: 4096, Collected: true}}, nil
}

func TestScrubAndGarbage(t *testing.T) {
	ctx := context.Background()
	client, err := api.NewClient(serve(t, &fakeStore{}, options()))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		do      func() (*connect.Response[slackerv1.Scrub], error)
		running bool
		damages int
	}{
		{func() (*connect.Response[slackerv1.Scrub], error) {
			return client.GetScrub(ctx, connect.NewRequest(&slackerv1.GetScrubRequest{}))
		}, false, 0},
		{func() (*connect.Response[slackerv1.Scrub], error) {
			return client.StartScrub(ctx, connect.NewRequest(&slackerv1.StartScrubRequest{}))
		}, true, 1},
		{func() (*connect.Response[slackerv1.Scrub], error) {
			return client.StopScrub(ctx, connect.NewRequest(&slackerv1.StopScrubRequest{}))
		}, false, 1},
	} {
		got, err := step.do()
		if err != nil {
			t.Fatal(err)
		}
		if got.Msg.GetRunning() != step.running || len(got.Msg.GetDamage()) != step.damages {
			t.Errorf("the scrub is %v: want running %v with %d damages", got.Msg, step.running, step.damages)
		}
	}
	g, err := client.GetGarbage(ctx, connect.NewRequest(&slackerv1.GetGarbageRequest{}))
	if err != nil || g.Msg.GetReclaimableBytes() != 8192 || len(g.Msg.GetOrphans()) != 1 || !g.Msg.GetOrphans()[0].GetCollected() {
		t.Errorf("garbage: %v, %v", g, err)
	}
}
