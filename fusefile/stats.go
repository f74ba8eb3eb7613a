package fusefile

import (
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/latency"
	"github.com/slackerd/slacker/nbdclient"
)

// Operation counts the requests of the kernel of one kind, since the server of
// the file system began.
type Operation struct {
	Name   string         `json:"name"` // read, write, flush or zero
	Failed uint64         `json:"failed"`
	Bytes  uint64         `json:"bytes"` // of those that succeeded
	Took   latency.Counts `json:"took"`  // from their arrival to the answer, failures too
}

// opZero stands for the zeroing of a range, which is no submitted request.
const opZero = nbdclient.OpFlush + 1

var operationNames = [...]string{nbdclient.OpRead: "read", nbdclient.OpWrite: "write", nbdclient.OpFlush: "flush", opZero: "zero"}

type counters [len(operationNames)]struct {
	failed, bytes atomic.Uint64
	took          latency.Histogram
}

func (c *counters) add(op nbdclient.Op, bytes uint64, began time.Time, err error) {
	n := &c[op]
	n.took.Add(time.Since(began))
	if err != nil {
		n.failed.Add(1)
	} else {
		n.bytes.Add(bytes)
	}
}

// Stats returns what the kernel has asked for so far.
func (s *Server) Stats() []Operation {
	stats := make([]Operation, len(operationNames))
	for i, name := range operationNames {
		n := &s.counters[i]
		stats[i] = Operation{Name: name, Failed: n.failed.Load(), Bytes: n.bytes.Load()}
		n.took.AddTo(&stats[i].Took)
	}
	return stats
}
