package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/slackerd/slacker/api"
	slackerv1 "github.com/slackerd/slacker/api/slacker/v1"
	"github.com/slackerd/slacker/nbdclient"
)

// server is one export of a running server.
type server struct {
	name, addr, export string
	cmd                *exec.Cmd
	shared             bool // another entry ends the process
}

// clockTick is the unit of CPU times in /proc.
const clockTick = 10 * time.Millisecond

// cpu is the CPU time that the server has used.
func (s *server) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", s.cmd.Process.Pid, len(fields))
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * clockTick, errors.Join(err1, err2)
}

func stopAll(servers []*server) {
	for _, s := range servers {
		if !s.shared {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	}
}

// start starts all servers, with disks that are filled alike. On an error it
// returns those that run.
func start(ctx context.Context, o options) (servers []*server, err error) {
	ours, err := startSlackerd(ctx, o)
	servers = append(servers, ours...)
	if err != nil {
		return servers, err
	}
	file := filepath.Join(o.dir, "disk.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return servers, err
	}
	if err := os.Truncate(file, int64(o.sizeBytes)); err != nil {
		return servers, err
	}
	size := strconv.FormatUint(o.sizeBytes, 10)
	deepName := fmt.Sprintf("qemu-nbd qcow2 depth %d", o.depth)
	var one, deep string
	for _, c := range []struct {
		name   string
		layers int
		file   *string
	}{{"qemu-nbd qcow2", 1, &one}, {deepName, o.depth, &deep}} {
		if o.servers.MatchString(c.name) {
			if *c.file, err = chain(ctx, o, c.layers); err != nil {
				return servers, err
			}
		}
	}
	for _, p := range []struct {
		name string
		args []string
	}{
		{"nbdkit file", []string{"nbdkit", "-f", "-U", "SOCKET", "file", file}},
		{"nbdkit memory", []string{"nbdkit", "-f", "-U", "SOCKET", "memory", size}},
		{"qemu-nbd qcow2", []string{"qemu-nbd", "-t", "-e", "32", "-f", "qcow2", "-k", "SOCKET", one}},
		{deepName, []string{"qemu-nbd", "-t", "-e", "32", "-f", "qcow2", "-k", "SOCKET", deep}},
	} {
		if !o.servers.MatchString(p.name) {
			continue
		}
		s, err := startPeer(ctx, o, p.name, p.args)
		if s != nil {
			servers = append(servers, s)
		}
		if err != nil {
			return servers, err
		}
		if p.name != "qemu-nbd qcow2" && !strings.Contains(p.name, "depth") {
			if err := fill(ctx, s, o.sizeBytes); err != nil {
				return servers, err
			}
		}
	}
	return servers, nil
}

func startPeer(ctx context.Context, o options, name string, args []string) (*server, error) {
	socket := filepath.Join(o.dir, strings.ReplaceAll(name, " ", "-")+".sock")
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "SOCKET", socket)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &server{name: name, addr: "unix://" + socket, cmd: cmd}, await(ctx, socket)
}

// await waits until a socket takes connections.
func await(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", socket, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// chain makes a qcow2 disk whose data is spread over that many layers.
func chain(ctx context.Context, o options, layers int) (string, error) {
	fmt.Fprintf(os.Stderr, "\rmaking a qcow2 chain of %d layers ", layers)
	below := ""
	for i := range layers {
		name := filepath.Join(o.dir, fmt.Sprintf("chain%d-%d.qcow2", layers, i))
		args := []string{"create", "-q", "-f", "qcow2", name, strconv.FormatUint(o.sizeBytes, 10)}
		if below != "" {
			args = []string{"create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", name}
		}
		if out, err := exec.CommandContext(ctx, "qemu-img", args...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("qemu-img: %w: %s", err, out)
		}
		s, err := startPeer(ctx, o, fmt.Sprintf("fill-%d-%d", layers, i), []string{"qemu-nbd", "-t", "--cache=unsafe", "-f", "qcow2", "-k", "SOCKET", name})
		if err == nil {
			err = fillLayer(ctx, s, o.sizeBytes, i, layers)
		}
		if s != nil {
			_ = s.cmd.Process.Signal(os.Interrupt)
			_ = s.cmd.Wait()
		}
		if err != nil {
			return "", err
		}
		below = name
	}
	return below, nil
}

func fill(ctx context.Context, s *server, size uint64) error { return fillLayer(ctx, s, size, 0, 1) }

// fillLayer writes every n-th MiB, from the i-th on.
func fillLayer(ctx context.Context, s *server, size uint64, i, n int) error {
	c, err := nbdclient.Dial(ctx, s.addr, s.export, nbdclient.DefaultOptions())
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	paint(buf, 0)
	for off := uint64(i) << 20; off < size; off += uint64(n) << 20 {
		stamp(buf, off)
		if err := c.WriteAt(ctx, buf, off, false); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	return errors.Join(c.Flush(ctx), c.Disconnect())
}

// startSlackerd starts the server with a plain volume and one on a chain of
// snapshots.
func startSlackerd(ctx context.Context, o options) ([]*server, error) {
	nbd, admin := filepath.Join(o.dir, "slacker.sock"), filepath.Join(o.dir, "api.sock")
	cmd := exec.Command(o.slackerd, "serve", "--data-dir", filepath.Join(o.dir, "data"), "--nbd-listen", "unix://"+nbd,
		"--api-listen", "unix://"+admin, "--log-level", "warn")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	plain := &server{name: "slacker", addr: "unix://" + nbd, export: "plain", cmd: cmd}
	deep := &server{name: fmt.Sprintf("slacker depth %d", o.depth), addr: plain.addr, export: "deep", cmd: cmd, shared: true}
	servers := []*server{plain, deep}
	if err := await(ctx, admin); err != nil {
		return servers, err
	}
	client, err := api.NewClient("unix://" + admin)
	if err != nil {
		return servers, err
	}
	for _, s := range servers {
		layers := 1
		if s == deep {
			layers = o.depth
		}
		_, err := client.CreateVolume(ctx, connect.NewRequest(&slackerv1.CreateVolumeRequest{Name: s.export, SizeBytes: o.sizeBytes}))
		for i := 0; err == nil && i < layers; i++ {
			if err = fillLayer(ctx, s, o.sizeBytes, i, layers); err == nil {
				_, err = client.CreateSnapshot(ctx, connect.NewRequest(&slackerv1.CreateSnapshotRequest{Volume: s.export, Snapshot: fmt.Sprintf("s%d", i)}))
			}
		}
		if err != nil {
			return servers, err
		}
	}
	return servers, nil
}
