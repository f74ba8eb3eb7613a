package worker

import (
	"bytes"
	"encoding/json"
	"os"

	"go.uber.org/zap"

	"github.com/slackerd/slacker/fusefile"
	"github.com/slackerd/slacker/lazy"
)

// figures are what the agent of the fuse driver has counted so far. It writes them
// down while it watches, for list and metrics.
type figures struct {
	Operations []fusefile.Operation `json:"operations"`
	// Connected of Connections are there now; Reconnected were lost and made anew.
	Connected   int         `json:"connected"`
	Connections int         `json:"connections"`
	Reconnected uint64      `json:"reconnected"`
	Cache       *lazy.Stats `json:"cache,omitempty"`
}

// cache is what the cache did; nil when there is none.
func (f *figures) cache() *lazy.Stats {
	if f == nil {
		return nil
	}
	return f.Cache
}

// maxFiguresBytes bounds what is read of them.
const maxFiguresBytes = 64 << 10

// writeFigures writes down what was counted, if that is new.
func (d *fuseDaemon) writeFigures(server *fusefile.Server) {
	f := figures{Operations: server.Stats(), Reconnected: d.session.Reconnected()}
	f.Connected, f.Connections = d.session.Connected()
	if d.volume != nil {
		stats := d.volume.Stats()
		f.Cache = &stats
	}
	text, err := json.Marshal(f)
	if err == nil && bytes.Equal(text, d.written) {
		return
	}
	if err == nil {
		path := d.store.path(keyOf(d.target), ".stats")
		if err = os.WriteFile(path+".tmp", text, 0o600); err == nil {
			err = os.Rename(path+".tmp", path)
		}
	}
	if err != nil {
		d.log.Warn("the figures are not written", zap.Error(err))
	}
	d.written = text
}

// figures reads what the agent of a target has counted; nil when there is none.
func (d store) figures(target string) *figures {
	b, err := os.ReadFile(d.path(keyOf(target), ".stats"))
	if err != nil || len(b) > maxFiguresBytes {
		return nil
	}
	f := new(figures)
	if json.Unmarshal(b, f) != nil {
		return nil
	}
	return f
}
