package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/snapshotter"
)

// serve serves until ctx ends.
func (f *flags) serve(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return block.Errorf(block.Permission, "devices and mounts are made by root: run as root (user id is %d)", os.Geteuid())
	}
	level, err := zap.ParseAtomicLevel(f.level)
	if err != nil {
		return block.Errorf(block.Invalid, "log level %q: want debug, info, warn or error", f.level)
	}
	config := zap.NewProductionConfig()
	config.Level, config.DisableStacktrace = level, true
	log, err := config.Build()
	if err != nil {
		return block.Errorf(block.Internal, "make a logger: %w", err)
	}
	o, err := f.options(log)
	if err != nil {
		return err
	}
	s, err := snapshotter.New(o)
	if err != nil {
		return err
	}
	err = f.listenAndServe(ctx, s, log)
	return errors.Join(err, s.Close())
}

func (f *flags) listenAndServe(ctx context.Context, s *snapshotter.Snapshotter, log *zap.Logger) error {
	l, err := f.listener()
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	stop := context.AfterFunc(ctx, server.GracefulStop)
	defer stop()
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("tell the service manager", zap.Error(err))
	}
	log.Info("serving", zap.Stringer("socket", l.Addr()), zap.String("server", f.server), zap.String("version", version))
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return block.Errorf(block.IO, "serve %s: %w", f.listen, err)
	}
	return nil
}

// listener is the socket that the service manager holds, so that containerd's
// requests wait while this program is restarted, or one made here.
func (f *flags) listener() (net.Listener, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, block.Errorf(block.Internal, "sockets of the service manager: %w", err)
	}
	if len(given) > 1 || len(given) == 1 && given[0].Addr().Network() != "unix" {
		return nil, block.Errorf(block.Invalid, "the service manager gives %d sockets, want one, a unix socket", len(given))
	}
	if len(given) == 1 {
		return given[0], nil
	}
	return listenUnix(f.listen)
}

// listenUnix listens at path, in place of the socket of a process that is gone.
func listenUnix(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, block.Errorf(block.KindOfFile(err), "make the directory of the socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, block.Errorf(block.Busy, "another process serves %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, block.Errorf(block.KindOfFile(err), "remove an old socket: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, block.Errorf(block.IO, "listen at %s: %w", path, err)
	}
	return l, nil
}
