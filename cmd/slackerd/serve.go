package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/config"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func newServe() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server", Args: noArgs,
		Long: "Serve opens the store in the data directory, making it if there is none, and serves it until SIGTERM or\n" +
			"SIGINT. A second signal ends it at once; so may SIGKILL: nothing that was flushed is lost.\n\n" +
			"It takes over sockets named nbd and api from a service manager (LISTEN_FDS), reports to it (NOTIFY_SOCKET)\n" +
			"and feeds its watchdog. SIGUSR2, or slackerctl server upgrade, replaces the program by the one that is installed now,\n" +
			"in the same process: sockets and the connections of clients in plaintext stay open, those with TLS connect again.\n" +
			"SIGHUP reads certificates again. The API addresses also have /metrics, /healthz and /readyz.\n" + exitHelp,
		Example: "  slackerd serve\n" +
			"  slackerd serve --data-dir /srv/slacker --nbd-listen unix:///run/slacker/nbd.sock --api-listen unix:///run/slacker/api.sock\n" +
			"  slackerd serve --config /etc/slacker/slackerd.yaml --log-level debug",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			log, err := newLogger(&l.Log)
			if err != nil {
				return err
			}
			return serveUntilSignal(&l.Config, log)
		},
	}
	addConfigFlags(cmd)
	return cmd
}

func serveUntilSignal(c *config.Config, log *zap.Logger) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case s := <-signals:
			// From here on a second signal has its usual effect.
			signal.Stop(signals)
			log.Info("stopping", zap.Stringer("signal", s))
			cancel()
		case <-ctx.Done():
			signal.Stop(signals)
		}
	}()
	err := serve(ctx, c, log)
	_ = log.Sync() // standard error may be a terminal, which refuses it
	return err
}

// newLogger returns a logger to standard error.
func newLogger(c *config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		return nil, block.Errorf(block.Invalid, "log.level: %w", err)
	}
	zc := zap.NewProductionConfig()
	zc.Level = zap.NewAtomicLevelAt(level)
	zc.Encoding = c.Format
	zc.Sampling = nil
	zc.DisableCaller = true
	zc.DisableStacktrace = true
	zc.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	zc.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	log, err := zc.Build()
	if err != nil {
		return nil, block.Errorf(block.Internal, "make the logger: %w", err)
	}
	return log, nil
}
