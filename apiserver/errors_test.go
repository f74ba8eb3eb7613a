package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/apiserver"
	"github.com/slackerd/slacker/block"
)

// Every kind survives every protocol, unary and streaming, with its text.
func TestKindsSurviveTheWire(t *testing.T) {
	store := &fakeStore{}
	var streamErr error
	opts := options()
	opts.Checker = checkFunc(func(context.Context, bool, func(uint64, uint64, string)) ([]apiserver.Damage, error) {
		return nil, streamErr
	})
	addr := serve(t, store, opts)
	plain := dial(t, addr)
	for _, k := range block.Kinds() {
		want := block.Errorf(k, "get volume %q: wanted ü, got %d%%", "x", 7)
		store.err, streamErr = want, want
		_, unary := plain.GetVolume(t.Context(), connect.NewRequest(&slackerv1.GetVolumeRequest{Name: "x"}))
		sameError(t, want, unary)
		stream, err := plain.Check(t.Context(), connect.NewRequest(&slackerv1.CheckRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if stream.Receive() {
			t.Fatalf("%v: an event instead of an error", k)
		}
		sameError(t, want, stream.Err())
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func sameError(t *testing.T, want, got error) {
	t.Helper()
	back := api.FromConnect(got)
	if back == nil || block.KindOf(back) != block.KindOf(want) || back.Error() != want.Error() {
		t.Errorf("sent %q (%v), got back %v (%v)", want, block.KindOf(want), back, got)
	}
	if api.ExitStatus(got) != api.ExitStatus(want) || api.ExitStatus(back) != api.ExitStatus(want) {
		t.Errorf("%v: exit status %d before and %d after the wire", block.KindOf(want), api.ExitStatus(want), api.ExitStatus(back))
	}
}

func TestKindsSurviveGRPCWeb(t *testing.T) {
	store := &fakeStore{}
	addr := serve(t, store, options())
	c := slackerv1connect.NewAdminServiceClient(httpClient(t), addr, connect.WithGRPCWeb())
	for _, k := range block.Kinds() {
		store.err = block.Errorf(k, "no")
		_, err := c.GetVolume(t.Context(), connect.NewRequest(&slackerv1.GetVolumeRequest{Name: "x"}))
		sameError(t, store.err, err)
	}
}

func TestExitStatuses(t *testing.T) {
	seen := map[int]block.Kind{0: 0}
	for _, k := range block.Kinds() {
		n := api.ExitStatus(block.Errorf(k, "x"))
		if _, taken := seen[n]; taken {
			t.Errorf("kind %v: exit status %d is taken", k, n)
		}
		seen[n] = k
		if !strings.Contains(api.ExitStatusHelp, fmt.Sprintf("\n  %-4d ", n)) {
			t.Errorf("kind %v: exit status %d is not in the help", k, n)
		}
	}
	for err, want := range map[error]int{nil: 0, errors.New("x"): 1, context.Canceled: 130,
		fmt.Errorf("import: %w", context.Canceled):                           130,
		connect.NewError(connect.CodeNotFound, errors.New("another server")): 3,
	} {
		if got := api.ExitStatus(err); got != want {
			t.Errorf("exit status of %v: %d, want %d", err, got, want)
		}
	}
}

func TestNilStaysNil(t *testing.T) {
	if api.ToConnect(nil) != nil || api.FromConnect(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestContextErrors(t *testing.T) {
	if c := connect.CodeOf(api.ToConnect(context.Canceled)); c != connect.CodeCanceled {
		t.Errorf("canceled became %v", c)
	}
	if c := connect.CodeOf(api.ToConnect(context.DeadlineExceeded)); c != connect.CodeDeadlineExceeded {
		t.Errorf("deadline became %v", c)
	}
	addr := serve(t, &fakeStore{}, options())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dial(t, addr).GetStatus(ctx, connect.NewRequest(&slackerv1.GetStatusRequest{}))
	if got := api.FromConnect(err); !errors.Is(got, context.Canceled) || api.ExitStatus(got) != api.ExitInterrupted {
		t.Errorf("a cancelled call: %v, exit status %d", got, api.ExitStatus(got))
	}
}
