package worker

import (
	"context"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// RunFuseDaemon is the agent of the fuse driver. It returns when its file
// system has been unmounted, or on SIGTERM.
func RunFuseDaemon(args AgentArgs, logger *zap.Logger) error {
	r, err := becomeAgent(args)
	if err == nil {
		err = r.serveFuse(logger)
	}
	if r != nil {
		r.report("", err)
	}
	return err
}

func (r *running) serveFuse(logger *zap.Logger) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM, unix.SIGINT)
	opts := nbdclient.DefaultSessionOptions()
	opts.Connections, opts.Attachment = r.state.Connections, true
	opts.DeadTimeout, opts.Log = r.state.deadTimeout(), logger
	opts.Conn.TLS = r.state.secure()
	opts.Conn.StallTimeout = 2 * r.state.requestTimeout()
	ctx, cancel := context.WithTimeout(context.Background(), agentStartTimeout)
	defer cancel()
	session, err := nbdclient.OpenSession(ctx, r.state.NBDAddresses, r.state.ExportName, opts)
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	if !r.state.ReadOnly && session.Info().Flags.Has(nbdclient.FlagReadOnly) {
		return block.Errorf(block.ReadOnly, "attach %s: the server offers it read-only", r.target)
	}
	server, err := mountFuse(newFuseFS(session, filepath.Base(r.store.fuseFile(r.target)), r.state.ReadOnly), r.store.fuseDir(r.target))
	if err != nil {
		return err
	}
	r.report("mounted", nil)
	served := make(chan struct{})
	go func() { server.Wait(); close(served) }()
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for {
		select {
		case <-served:
			return nil
		case <-term:
			// Lazily, as a mount in use must not keep a daemon that is to go.
			if err := unmount(r.store.fuseDir(r.target), true); err != nil {
				return err
			}
			return nil
		case <-watch.C:
			if !r.current() {
				return joinLine(block.Errorf(block.Fenced, "daemon of %s: its attach is gone", r.target), unmount(r.store.fuseDir(r.target), true))
			}
		}
	}
}

// mountFuse mounts fs at dir and serves it.
func mountFuse(fs *fuseFS, dir string) (*fuse.Server, error) {
	server, err := fuse.NewServer(fs, dir, &fuse.MountOptions{
		DirectMountStrict: true, MaxWrite: fuseMaxWrite, MaxBackground: fuseBacklog, CongestionThreshold: fuseBacklog,
		FsName: "slacker", Name: "slacker", DisableXAttrs: true, DisableSplice: true, ExtraCapabilities: fuse.CAP_ASYNC_DIO,
		Logger: log.New(os.Stderr, "fuse: ", log.LstdFlags),
	})
	if err != nil {
		return nil, block.Errorf(block.IO, "mount FUSE at %s: %w", dir, err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return nil, joinLine(block.Errorf(block.IO, "mount FUSE at %s: %w", dir, err), unmount(dir, true))
	}
	return server, nil
}
