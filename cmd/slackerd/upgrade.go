package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// upgradeEnv names the descriptor of the legacy, for the next program.
	upgradeEnv = "SLACKERD_UPGRADE_FD"
	// legacyVersion is the version of the legacy's form.
	legacyVersion  = 2
	maxLegacyBytes = 64 << 20
	// upgradeRehearsal bounds the trial of the new program, upgradePatience how
	// long commands in flight may take before their connections are cut.
	upgradeRehearsal = 30 * time.Second
	upgradePatience  = 2 * time.Second
)

// legacy is what one program leaves to the next, which runs in the same
// process: descriptors by number.
type legacy struct {
	Version int   `json:"version"`
	Steps   steps `json:"steps"` // since clients began to wait
	// LogEnds is the first record that the log does not have.
	LogEnds uint64 `json:"log_ends"`
	// Upgrades counts those so far, From is the version that runs until now.
	Upgrades uint64       `json:"upgrades"`
	From     string       `json:"from"`
	NBD      []int        `json:"nbd"` // listening sockets
	API      []int        `json:"api"`
	Conns    []legacyConn `json:"conns"`
}

type legacyConn struct {
	FD        int      `json:"fd"`
	Export    string   `json:"export"`
	SizeBytes uint64   `json:"size_bytes"`
	Flags     uint16   `json:"flags"`
	Headers   uint8    `json:"headers"`
	Contexts  []string `json:"contexts,omitempty"`
	Input     []byte   `json:"input,omitempty"`
}

// upgrader replaces the running program by the one that is installed now, on
// SIGUSR2 or when the API asks, without closing sockets or the connections of
// plaintext clients.
type upgrader struct {
	log     *zap.Logger
	signals chan os.Signal
	program string
	trial   sync.Mutex    // one at a time
	asked   chan struct{} // closed once the program is to be replaced
	last    atomic.Pointer[slackerv1.Upgrade]
}

func newUpgrader(log *zap.Logger) (*upgrader, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, block.Errorf(block.Internal, "find the running program: %w", err)
	}
	u := &upgrader{log: log, signals: make(chan os.Signal, 1), program: program, asked: make(chan struct{})}
	signal.Notify(u.signals, syscall.SIGUSR2)
	return u, nil
}

// listen begins an upgrade for each signal, until one succeeds or ctx ends.
func (u *upgrader) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.asked:
			return
		case <-u.signals:
		}
		if _, err := u.Upgrade(ctx); err != nil {
			u.log.Error("no upgrade: the installed program does not start", zap.String("program", u.program), zap.Error(err))
		}
	}
}

// Upgrade begins to replace the program. One that does not accept the present
// configuration is not worth the trial.
func (u *upgrader) Upgrade(ctx context.Context) (installed string, err error) {
	u.trial.Lock()
	defer u.trial.Unlock()
	select {
	case <-u.asked:
		return "", block.Errorf(block.Busy, "upgrade: one has begun already")
	default:
	}
	if installed, err = u.rehearse(ctx); err != nil {
		return "", err
	}
	close(u.asked)
	return installed, nil
}

// LastUpgrade is the one that this program came by, nil if it came by none.
func (u *upgrader) LastUpgrade() *slackerv1.Upgrade { return u.last.Load() }

// rehearse lets the new program read the configuration, and asks its version.
func (u *upgrader) rehearse(ctx context.Context) (installed string, err error) {
	ctx, cancel := context.WithTimeout(ctx, upgradeRehearsal)
	defer cancel()
	args := append([]string{"config", "check"}, os.Args[2:]...) // os.Args[1] is serve
	out, err := exec.CommandContext(ctx, u.program, args...).CombinedOutput()
	if err != nil {
		return "", block.Errorf(block.Invalid, "upgrade: %s config check: %w: %.500s", u.program, err, out)
	}
	out, err = exec.CommandContext(ctx, u.program, "version").Output()
	if err != nil {
		return "", block.Errorf(block.Invalid, "upgrade: %s version: %w", u.program, err)
	}
	installed, _, _ = strings.Cut(strings.TrimPrefix(string(out), "slackerd "), " (format")
	return installed, nil
}

// replace runs the new program in this process, with the legacy. It returns
// only with an error.
func (u *upgrader) replace(l *legacy) error {
	text, err := json.Marshal(l)
	if err != nil {
		return block.Errorf(block.Internal, "upgrade: %w", err)
	}
	fd, err := unix.MemfdCreate("slackerd-upgrade", 0)
	if err == nil {
		_, err = unix.Pwrite(fd, text, 0)
	}
	if err != nil {
		return block.Errorf(block.IO, "upgrade: write down %d connections: %w", len(l.Conns), err)
	}
	for _, fd := range l.descriptors() {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return block.Errorf(block.Internal, "upgrade: keep descriptor %d: %w", fd, err)
		}
	}
	// Until the new program listens for them, these must not end it.
	signal.Ignore(syscall.SIGUSR2, syscall.SIGHUP)
	err = syscall.Exec(u.program, os.Args, append(os.Environ(), upgradeEnv+"="+strconv.Itoa(fd)))
	return block.Errorf(block.IO, "upgrade: run %s: %w", u.program, err)
}

func (l *legacy) descriptors() []int {
	fds := append(append([]int(nil), l.NBD...), l.API...)
	for _, c := range l.Conns {
		fds = append(fds, c.FD)
	}
	return fds
}

// inherit reads the legacy of the program that ran here before, nil when none
// did. Its descriptors will not pass to other programs.
func inherit() (*legacy, error) {
	text := os.Getenv(upgradeEnv)
	if text == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, block.Errorf(block.Invalid, "%s is %.20q, want a descriptor", upgradeEnv, text)
	}
	f := os.NewFile(uintptr(fd), "legacy")
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxLegacyBytes))
	var l legacy
	if err = errors.Join(err, os.Unsetenv(upgradeEnv)); err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil || l.Version != legacyVersion {
		return nil, block.Errorf(block.Invalid, "upgrade: legacy of version %d, want %d: %w", l.Version, legacyVersion, err)
	}
	for _, fd := range l.descriptors() {
		unix.CloseOnExec(fd)
	}
	return &l, nil
}

// keep returns descriptors of listening sockets that outlive the listeners.
func keep(ls []net.Listener) (fds []int, err error) {
	for _, l := range ls {
		s, ok := l.(syscall.Conn)
		if !ok {
			return nil, block.Errorf(block.Internal, "upgrade: listener %s has no descriptor", l.Addr())
		}
		fd, err := duplicate(s)
		if err != nil {
			return nil, block.Errorf(block.IO, "upgrade: listener %s: %w", l.Addr(), err)
		}
		fds = append(fds, fd)
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
	}
	return fds, nil
}

// duplicate returns another descriptor, which nobody closes.
func duplicate(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if cerr := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3) }); cerr != nil {
		return -1, cerr
	}
	return fd, err
}

// upgrade stops the server but for its sockets and connections and runs the
// new program. The store is brought up to date before clients begin to wait, so
// that opening it has little to replay.
func (s *server) upgrade(stopBackground func()) (err error) {
	l := &legacy{Version: legacyVersion, Upgrades: s.upgrader.LastUpgrade().GetCount() + 1, From: versionText()}
	if l.NBD, err = keep(s.sockets.nbd); err == nil {
		l.API, err = keep(s.sockets.api)
	}
	if err != nil {
		return errors.Join(err, s.stop(stopBackground))
	}
	ctx, cancel := context.WithTimeout(context.Background(), upgradePatience)
	defer cancel()
	stopBackground()
	if err := s.http.Shutdown(ctx); err != nil {
		s.log.Warn("API requests were cut: they took too long to finish", zap.Error(err), zap.NamedError("close", s.http.Close()))
	}
	if err := s.store.Prepare(ctx); err != nil {
		s.log.Warn("the store could not be brought up to date before the upgrade", zap.Error(err))
	}
	l.Steps.mark("begin")
	ctx, cancel = context.WithTimeout(context.Background(), upgradePatience)
	defer cancel()
	for _, h := range s.nbd.Handover(ctx) {
		fd, err := duplicate(h.File)
		_ = h.File.Close() // there is another of it
		if err != nil {
			s.log.Warn("a connection cannot be kept", zap.Error(err))
			continue
		}
		l.Conns = append(l.Conns, legacyConn{FD: fd, Export: h.Export, SizeBytes: h.SizeBytes, Flags: h.Flags,
			Headers: h.Headers, Contexts: h.Contexts, Input: h.Input})
	}
	l.Steps.mark("connections stopped")
	s.running.Wait()
	if l.LogEnds, err = s.store.Leave(); err == nil {
		s.log.Info("upgrading", zap.String("program", s.upgrader.program), zap.Int("connections", len(l.Conns)))
		l.Steps.mark("store left")
		err = s.upgrader.replace(l)
	}
	return block.Wrap(block.IO, errors.Join(err, s.closeStore()), "upgrade")
}

// adopt goes on with the connections of the program before.
func (s *server) adopt(l *legacy) {
	if l == nil {
		return
	}
	for _, c := range l.Conns {
		err := s.nbd.Adopt(nbdserver.Handed{File: os.NewFile(uintptr(c.FD), "conn"), Export: c.Export, SizeBytes: c.SizeBytes,
			Flags: c.Flags, Headers: c.Headers, Contexts: c.Contexts, Input: c.Input})
		if err != nil { // its client connects again
			s.log.Warn("a connection could not be taken over", zap.Error(err))
		}
	}
	l.Steps.mark("connections taken over")
	s.upgrader.last.Store(&slackerv1.Upgrade{Count: l.Upgrades, From: l.From, Finished: timestamppb.Now(),
		PauseMicros: uint64(l.Steps.whole().Microseconds()), Connections: uint64(len(l.Conns))})
	s.log.Info("upgraded", zap.Int("connections", len(l.Conns)), zap.Duration("pause", l.Steps.whole()), zap.Stringer("steps", l.Steps))
}
