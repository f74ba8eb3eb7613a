package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/api/slacker/v1/slackerv1connect"
	"github.com/slackerd/slacker/bench/rounds"
)

const plainLoop = "loop on a file in memory"

// device is one block device under test.
type device struct{ name, path string }

// stage is all that a run starts; what is started first is ended last.
type stage struct {
	options
	devices []*device
	undo    []func() error
}

func (s *stage) later(f func() error) { s.undo = append(s.undo, f) }

func (s *stage) takeDown() (err error) {
	for i := len(s.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, s.undo[i]())
	}
	return err
}

// setUp makes all devices and fills them.
func (s *stage) setUp(ctx context.Context) error {
	if err := s.plain(); err != nil {
		return err
	}
	kit, fake, err := s.nbdkit(ctx)
	if err != nil {
		return err
	}
	nbd, admin, err := s.slackerd(ctx)
	if err != nil {
		return err
	}
	for _, d := range []struct {
		name string
		make func(name string) (string, error)
	}{
		{"nbdfuse on nbdkit", func(string) (string, error) { return s.nbdfuse(ctx, "kit", "nbd+unix:///?socket="+kit) }},
		{"slacker on nbdkit", func(string) (string, error) { return s.slacker(ctx, fake, "kit") }},
		{"nbdfuse on slackerd", func(string) (string, error) { return s.nbdfuse(ctx, "peer", "nbd+unix:///peer?socket="+nbd) }},
		{"slacker on slackerd", func(string) (string, error) { return s.slacker(ctx, admin, "ours") }},
	} {
		if !s.options.devices.MatchString(d.name) {
			continue
		}
		path, err := d.make(d.name)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		s.devices = append(s.devices, &device{d.name, path})
	}
	for _, d := range s.devices {
		if err := output(ctx, "fio", "--name=fill", "--filename="+d.path, "--direct=1", "--ioengine=libaio", "--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1"); err != nil {
			return fmt.Errorf("fill %s: %w", d.name, err)
		}
	}
	return nil
}

// plain makes a loop device on a file in memory.
func (s *stage) plain() error {
	file := filepath.Join(s.dir, "plain")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(file, int64(s.sizeBytes)); err != nil {
		return err
	}
	path, err := s.loop(file)
	s.devices = append(s.devices, &device{plainLoop, path})
	return err
}

func (s *stage) loop(file string) (string, error) {
	out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", file).Output()
	if err != nil {
		return "", fmt.Errorf("losetup %s: %w", file, err)
	}
	path := strings.TrimSpace(string(out))
	s.later(func() error { return exec.Command("losetup", "-d", path).Run() })
	return path, nil
}

// process starts a program that is ended with the stage.
func (s *stage) process(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	s.later(func() error {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
		_ = cmd.Wait()
		return nil
	})
	return nil
}

// nbdkit starts the memory plugin, and an admin API that attaches everything to
// it.
func (s *stage) nbdkit(ctx context.Context) (socket, fakeAPI string, err error) {
	socket = filepath.Join(s.dir, "kit.sock")
	if err := s.process("nbdkit", "-f", "-U", socket, "memory", strconv.FormatUint(s.sizeBytes, 10)); err != nil {
		return "", "", err
	}
	mux := http.NewServeMux()
	mux.Handle(slackerv1connect.NewAdminServiceHandler(&fakeAdmin{socket: socket, sizeBytes: s.sizeBytes}))
	web := httptest.NewServer(mux)
	s.later(func() error { web.Close(); return nil })
	return socket, web.URL, rounds.Await(ctx, socket)
}

// fakeAdmin gives an attachment to whoever asks.
type fakeAdmin struct {
	slackerv1connect.UnimplementedAdminServiceHandler
	socket    string
	sizeBytes uint64
}

func (f *fakeAdmin) Attach(_ context.Context, r *connect.Request[slackerv1.AttachRequest]) (*connect.Response[slackerv1.Attachment], error) {
	return connect.NewResponse(&slackerv1.Attachment{Id: "bench", Generation: 1, Target: r.Msg.GetTarget(), Worker: r.Msg.GetWorker(),
		ExportName: "bench", SizeBytes: f.sizeBytes, NbdAddresses: []string{"unix://" + f.socket}}), nil
}

func (f *fakeAdmin) Detach(context.Context, *connect.Request[slackerv1.DetachRequest]) (*connect.Response[slackerv1.DetachResponse], error) {
	return connect.NewResponse(&slackerv1.DetachResponse{}), nil
}

// slackerd starts the server with two volumes.
func (s *stage) slackerd(ctx context.Context) (nbd, admin string, err error) {
	nbd, admin = filepath.Join(s.dir, "nbd.sock"), "unix://"+filepath.Join(s.dir, "api.sock")
	if err := s.process(filepath.Join(s.bin, "slackerd"), "serve", "--data-dir", filepath.Join(s.dir, "data"), "--nbd-listen", "unix://"+nbd,
		"--api-listen", admin, "--log-level", "warn"); err != nil {
		return "", "", err
	}
	if err := rounds.Await(ctx, filepath.Join(s.dir, "api.sock")); err != nil {
		return "", "", err
	}
	client, err := api.NewClient(admin)
	for _, name := range []string{"ours", "peer"} {
		if err == nil {
			_, err = client.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: name, SizeBytes: s.sizeBytes}))
		}
	}
	return nbd, admin, err
}

func (s *stage) nbdfuse(ctx context.Context, name, uri string) (string, error) {
	dir := filepath.Join(s.dir, "nbdfuse-"+name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	file := filepath.Join(dir, "nbd")
	if err := s.process("nbdfuse", file, uri); err != nil {
		return "", err
	}
	s.later(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	if err := rounds.AwaitThat(ctx, func() error { _, err := os.Stat(file); return err }); err != nil {
		return "", err
	}
	return s.loop(file)
}

func (s *stage) slacker(ctx context.Context, admin, volume string) (string, error) {
	client := func(args ...string) *exec.Cmd {
		return exec.Command(filepath.Join(s.bin, "slacker-client"), append(args, "--server", admin, "--state-dir", filepath.Join(s.dir, "state-"+volume))...)
	}
	cmd := client("attach", volume, "--driver", "fuse")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", err
	}
	s.later(func() error { return client("detach", volume).Run() })
	return strings.TrimSpace(string(out)), ctx.Err()
}

func output(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
