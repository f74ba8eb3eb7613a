package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/slackerd/slacker/block"
)

// TestAgentWaitsForTheWord: an agent that was launched touches nothing before it
// is told to begin, and one that is never told leaves nothing.
func TestAgentWaitsForTheWord(t *testing.T) {
	c, err := DefaultConfig()
	must(t, err)
	c.StateDir = t.TempDir()
	a := agent{store{c.StateDir}, "v"}
	waiting, err := a.launch(c.Executable, AgentFuseDaemon, "nonce")
	must(t, err)
	told, err := a.launch(c.Executable, AgentFuseDaemon, "nonce")
	must(t, err)
	// The one that is told finds no state; by then it has its log and its lock.
	if _, err := told.begin(t.Context()); !block.Is(err, block.Fenced) || !strings.Contains(err.Error(), "the attach that started it is gone") {
		t.Errorf("an agent without a state: %v", err)
	}
	<-told.ended // it says why before it ends
	select {
	case <-waiting.ended:
		t.Errorf("an agent that nobody told anything has ended: %v: %s", waiting.exit, a.lastWords())
	default:
	}
	must(t, a.store.remove("v"))
	waiting.abandon()
	select {
	case <-waiting.ended:
	default:
		t.Error("an abandoned agent goes on")
	}
	if left := leftovers(t, c.StateDir); len(left) > 0 {
		t.Errorf("it left %s", left)
	}
	waiting.abandon() // twice is once

	orphan, err := a.launch(c.Executable, AgentFuseDaemon, "nonce")
	must(t, err)
	must(t, orphan.line.Close()) // as the end of whoever started it does
	<-orphan.ended
	if orphan.exit == nil {
		t.Error("an orphan ended with success")
	}
	if left := leftovers(t, c.StateDir); len(left) > 0 {
		t.Errorf("an orphan left %s", left)
	}
}

// TestSteps: what an agent reports of its steps is told, what is no step is not.
func TestSteps(t *testing.T) {
	got := map[string]time.Duration{}
	tellSteps(stepsOf("NBD handshake", 1500*time.Microsecond, "FUSE mount", time.Millisecond)+";x;y=z", func(name string, took time.Duration) { got[name] = took })
	if len(got) != 2 || got["  NBD handshake"] != 1500*time.Microsecond || got["  FUSE mount"] != time.Millisecond {
		t.Errorf("got %v", got)
	}
}
