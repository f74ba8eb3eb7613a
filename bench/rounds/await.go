package rounds

import (
	"context"
	"fmt"
	"net"
	"time"
)

const patience = 20 * time.Second

// Await waits until a unix socket takes connections.
func Await(ctx context.Context, socket string) error {
	return AwaitThat(ctx, func() error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// AwaitThat waits until ready returns no error.
func AwaitThat(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v: %w", patience, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
