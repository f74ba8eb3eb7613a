package main

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/slackerd/slacker/certs"
	"github.com/slackerd/slacker/config"
	"github.com/slackerd/slacker/nbdserver"
	"go.uber.org/zap"
)

// nbdTLSModes are the words of tls.nbd.
var nbdTLSModes = map[string]nbdserver.TLSMode{
	config.TLSOff: nbdserver.TLSOff, config.TLSAllow: nbdserver.TLSSelective, config.TLSRequire: nbdserver.TLSForced,
}

// security is the server's certificates; without TLS its source is nil.
type security struct {
	source *certs.Source
	api    bool
	log    *zap.Logger
}

func newSecurity(c *config.Config, log *zap.Logger) (*security, error) {
	s := &security{api: c.TLS.API == config.TLSRequire, log: log}
	if !s.api && c.TLS.NBD == config.TLSOff {
		return s, nil
	}
	files := certs.Files{CA: c.TLS.CAFile, Cert: c.TLS.CertFile, Key: c.TLS.KeyFile}
	source, err := certs.NewSource(files, func(err error) {
		log.Error("changed TLS files cannot be used; the former ones stay in force", zap.Error(err))
	})
	if err != nil {
		return nil, err
	}
	s.source = source
	log.Info("TLS is on", zap.String("nbd", c.TLS.NBD), zap.String("api", c.TLS.API), zap.Time("expires", source.Expires()))
	return s, nil
}

// tlsConfig returns the configuration of servers, nil without TLS.
func (s *security) tlsConfig() *tls.Config {
	if s.source == nil {
		return nil
	}
	return s.source.Server()
}

// secureAPI puts TLS on a TCP listener of the API where it is required. The
// peer of a unix socket is known by its user.
func (s *security) secureAPI(l net.Listener) net.Listener {
	if !s.api || l.Addr().Network() == "unix" {
		return l
	}
	return tls.NewListener(l, s.source.Server())
}

// reloadOnSignal reads the files again on SIGHUP, until ctx ends. They are also
// looked at when connections come; the signal makes it at once, and logs.
func (s *security) reloadOnSignal(ctx context.Context) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		if s.source == nil {
			continue
		}
		if err := s.source.Reload(); err != nil {
			s.log.Error("TLS files cannot be used; the former ones stay in force", zap.Error(err))
			continue
		}
		s.log.Info("TLS files read again", zap.Time("expires", s.source.Expires()))
	}
}
