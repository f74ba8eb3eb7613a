package main

import (
	"testing"

	"github.com/slackerd/slacker/cmd/shown"
)

// documentsMetrics compares the table of docs/METRICS.md with what is exposed.
func documentsMetrics(t *testing.T, exposed string) {
	t.Helper()
	shown.Metrics(t, "../../docs/METRICS.md", exposed, "slacker_", "slacker_worker_")
}
