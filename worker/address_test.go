package worker

import (
	"slices"
	"testing"

	"github.com/slackerd/slacker/block"
)

func TestReachableAddresses(t *testing.T) {
	all := []string{"unix:///run/s.sock", "tcp://0.0.0.0:1", "tcp://127.0.0.1:2", "tcp://[::]:3", "tcp://10.1.1.1:4"}
	for server, want := range map[string][]string{
		"http://127.0.0.1:9":  {"unix:///run/s.sock", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3", "tcp://10.1.1.1:4"},
		"http://localhost:9":  {"unix:///run/s.sock", "tcp://localhost:1", "tcp://127.0.0.1:2", "tcp://localhost:3", "tcp://10.1.1.1:4"},
		"unix:///run/api":     {"unix:///run/s.sock", "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3", "tcp://10.1.1.1:4"},
		"http://10.0.2.2:9":   {"tcp://10.0.2.2:1", "tcp://10.0.2.2:2", "tcp://10.0.2.2:3", "tcp://10.1.1.1:4"},
		"http://[fd00::1]:90": {"tcp://[fd00::1]:1", "tcp://[fd00::1]:2", "tcp://[fd00::1]:3", "tcp://10.1.1.1:4"},
	} {
		if got, err := reachable(all, server); err != nil || !slices.Equal(got, want) {
			t.Errorf("from %s: %v, %v; want %v", server, got, err, want)
		}
	}
	if _, err := reachable(all[:1], "http://10.0.2.2:9"); !block.Is(err, block.Unavailable) {
		t.Errorf("a remote server with a unix socket only: %v", err)
	}
	if _, err := reachable([]string{"bogus"}, "http://10.0.2.2:9"); !block.Is(err, block.Invalid) {
		t.Errorf("a bogus address: %v", err)
	}
}
