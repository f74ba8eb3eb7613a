package archtest

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// notInClients is what the client programs must not link, directly or through
// another package: each of these costs the start of every process.
var notInClients = []string{
	"github.com/cockroachdb/pebble", "github.com/prometheus", "github.com/spf13/viper",
	module + "/volume", module + "/cow", module + "/segment", module + "/apiserver", module + "/nbdserver",
}

func TestClientsAreSmall(t *testing.T) {
	for _, program := range []string{"slacker-client", "slackerctl"} {
		cmd := exec.Command("go", "list", "-deps", "./cmd/"+program)
		cmd.Dir = ".."
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list -deps: %v", err)
		}
		if !bytes.Contains(out, []byte(module+"/api\n")) {
			t.Fatalf("%s does not link the api: the list is not what this test takes it for", program)
		}
		for dep := range strings.Lines(string(out)) {
			for _, not := range notInClients {
				if strings.HasPrefix(strings.TrimSpace(dep), not) {
					t.Errorf("%s links %s: a program that only asks the server starts within milliseconds while it is small; see go list -deps", program, strings.TrimSpace(dep))
				}
			}
		}
	}
}
