package main

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// notifier talks to the service manager, if there is one.
type notifier struct{ log *zap.Logger }

func (n notifier) send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		n.log.Warn("tell the service manager", zap.String("state", state), zap.Error(err))
	}
}

// reloading says that the program is being replaced; being ready is said by the
// next one, in the same process.
func (n notifier) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		n.log.Warn("tell the service manager", zap.Error(err))
		return
	}
	n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d\nSTATUS=replacing the program", daemon.SdNotifyReloading, now.Nano()/1000))
}

// watchdog says "alive" at half the interval that the service manager asks
// for, each time after healthy returned, until ctx ends. So a server that is
// stuck is restarted.
func (n notifier) watchdog(ctx context.Context, healthy func(context.Context) error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the watchdog's interval is not valid", zap.Error(err))
	}
	if err != nil || interval <= 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		if err := healthy(ctx); err == nil {
			n.send(daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			n.log.Error("the watchdog found the store not working", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
