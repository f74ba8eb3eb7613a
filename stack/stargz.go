package stack

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// StargzOptions say how to start the stargz snapshotter.
type StargzOptions struct {
	Programs        Programs
	Dir             string    // root, socket and log
	Netns           Namespace // where it fetches from
	Registry        string    // HOST:PORT of the registry, plain HTTP
	BackgroundFetch bool      // fetch the rest of a layer after it was mounted, its default
}

// Stargz is a running stargz snapshotter.
type Stargz struct {
	Plugin ProxyPlugin

	dir     string
	process *Process
}

// StartStargz starts the snapshotter that loads images lazily by files.
func StartStargz(ctx context.Context, o StargzOptions) (*Stargz, error) {
	program, err := o.Programs.Path("peers/stargz-grpc")
	if err != nil {
		return nil, err
	}
	root, socket := filepath.Join(o.Dir, "root"), filepath.Join(o.Dir, "sock")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("start stargz: %w", err)
	}
	p, err := StartProcess(ctx, Command{
		Name: "stargz", Netns: o.Netns, Log: filepath.Join(o.Dir, "log"),
		Args: []string{program, "--address", socket, "--root", root, "--plain-http", o.Registry,
			fmt.Sprintf("--background-fetch=%v", o.BackgroundFetch)},
		Ready: func(context.Context) error {
			c, err := net.Dial("unix", socket)
			if err != nil {
				return err
			}
			return c.Close()
		},
	})
	if err != nil {
		return nil, err
	}
	return &Stargz{Plugin: ProxyPlugin{Name: "stargz", Address: socket}, dir: o.Dir, process: p}, nil
}

// Process is the snapshotter's process.
func (s *Stargz) Process() *Process { return s.process }

// Stop stops it and unmounts its layers. Stop containerd before.
func (s *Stargz) Stop() {
	if s == nil {
		return
	}
	unmountBelow(s.dir)
	s.process.Stop()
	unmountBelow(s.dir)
}
