//go:build rig

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/slackerd/slacker/nbdserver"
)

// This file is only in the build of the kernel rig (-tags rig). It delays the
// first write that begins with a mark, between its arrival and the store, as a
// slow disk would: the kernel gives up on it, connects anew and sends it again.
const (
	holdMark = "HOLD-ME"
	holdTime = 8 * time.Second
)

var held atomic.Bool

type holdingDevice struct{ nbdserver.Device }

func holdWrites(d nbdserver.Device) nbdserver.Device { return holdingDevice{d} }

func (d holdingDevice) WriteAt(ctx context.Context, p []byte, offBytes uint64, fua bool) error {
	if !bytes.HasPrefix(p, []byte(holdMark)) || held.Swap(true) {
		return d.Device.WriteAt(ctx, p, offBytes, fua)
	}
	_, _ = fmt.Fprintln(os.Stderr, "rig: hold a write") // the log of a test
	// The connection's death cancels ctx. A disk would not notice: neither does this.
	time.Sleep(holdTime)
	err := d.Device.WriteAt(context.WithoutCancel(ctx), p, offBytes, fua)
	_, _ = fmt.Fprintln(os.Stderr, "rig: the held write ended:", err)
	return err
}
