package nbdtest_test

import (
	"context"
	"testing"

	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemoryConforms(t *testing.T) {
	for name, minBlock := range map[string]uint32{"bytes": 1, "sectors": 512, "blocks": 4096} {
		t.Run(name, func(t *testing.T) {
			nbdtest.Conform(t, func(t *testing.T) nbdtest.Opener {
				info := nbdtest.DefaultInfo(4 << 20)
				info.MinBlockBytes, info.PreferredBlockBytes = minBlock, 4096
				m := nbdtest.NewMemory("vol", info)
				t.Cleanup(func() {
					if n := m.OpenDevices(); n != 0 {
						t.Errorf("%d devices are still open", n)
					}
				})
				return func() nbdserver.Device {
					d, err := m.Open(context.Background(), "vol", nbdserver.Conn{}, nil)
					if err != nil {
						t.Fatal(err)
					}
					return d
				}
			})
		})
	}
}
