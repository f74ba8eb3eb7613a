// Stargz-grpc serves the stargz snapshotter to containerd as a proxy plugin: the
// lazy-loading peer that benchmarks compare with. It is a module of its own, to
// keep what it needs out of ours.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"google.golang.org/grpc"
)

func main() {
	address := flag.String("address", "", "unix socket to listen on")
	root := flag.String("root", "", "directory for snapshots and the cache")
	plain := flag.String("plain-http", "", "HOST:PORT of a registry without TLS")
	background := flag.Bool("background-fetch", true, "go on fetching whole layers after they are mounted")
	flag.Parse()
	if err := serve(*address, *root, *plain, *background); err != nil {
		fmt.Fprintln(os.Stderr, "stargz-grpc:", err)
		os.Exit(1)
	}
}

func serve(address, root, plain string, background bool) error {
	if address == "" || root == "" {
		return errors.New("want --address and --root")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	c := &service.Config{Config: config.Config{NoPrometheus: true, NoBackgroundFetch: !background, AllowNoVerification: true}}
	if plain != "" {
		c.ResolverConfig = service.ResolverConfig{Host: map[string]resolver.HostConfig{
			plain: {Mirrors: []resolver.MirrorConfig{{Host: plain, Insecure: true}}},
		}}
	}
	s, err := service.NewStargzSnapshotterService(ctx, root, c)
	if err != nil {
		return err
	}
	defer s.Close()
	server := grpc.NewServer()
	api.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	return server.Serve(l)
}
