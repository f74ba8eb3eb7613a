package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Version is a version of containerd.
type Version string

// The versions that scripts/stack.sh installs.
const (
	Debian Version = "debian" // 1.6, Debian 12's
	Forky  Version = "forky"  // 2.x, Debian 14's, which changes until that is released
	V2     Version = "v2"     // 2.x, built from Go modules
)

// IsV2 tells whether it is containerd 2, whose configuration has other tables.
func (v Version) IsV2() bool { return v == Forky || v == V2 }

// Containerds are the versions that are installed, and those that are not.
func (p Programs) Containerds() (there, missing []Version) {
	for _, v := range []Version{Debian, Forky, V2} {
		if _, err := p.Path(string(v) + "/containerd"); err == nil {
			there = append(there, v)
		} else {
			missing = append(missing, v)
		}
	}
	return there, missing
}

// ProxyPlugin is a snapshotter that is served by another process.
type ProxyPlugin struct {
	Name    string // what ctr --snapshotter is given
	Address string // its unix socket
}

// ContainerdOptions say how to start a containerd.
type ContainerdOptions struct {
	Programs Programs
	Version  Version
	Dir      string        // root, state, socket, configuration and log; best short, sockets have 108 bytes
	Netns    Namespace     // where it runs, and with it containers with the network of the host
	Plugins  []ProxyPlugin // snapshotters
	CRI      bool          // serve Kubernetes' interface too
	Config   string        // TOML that is appended, tables only
	Env      []string
}

// Containerd is a running containerd.
type Containerd struct {
	Address string // its unix socket
	CTR     string // the ctr that belongs to it

	dir     string
	process *Process
}

// StartContainerd starts a containerd. Dir may be that of an earlier one, whose
// images and containers are there again then.
func StartContainerd(ctx context.Context, o ContainerdOptions) (*Containerd, error) {
	program, err := o.Programs.Path(string(o.Version) + "/containerd")
	if err != nil {
		return nil, err
	}
	ctr, err := o.Programs.Path(string(o.Version) + "/ctr")
	if err != nil {
		return nil, err
	}
	for _, d := range []string{o.Dir, filepath.Join(o.Dir, "tmp")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("start containerd: %w", err)
		}
	}
	c := &Containerd{Address: filepath.Join(o.Dir, "sock"), CTR: ctr, dir: o.Dir}
	config := filepath.Join(o.Dir, "config.toml")
	if err := os.WriteFile(config, []byte(o.config(c.Address)), 0o644); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	c.process, err = StartProcess(ctx, Command{
		Name: "containerd " + string(o.Version), Args: []string{program, "--config", config},
		Log: filepath.Join(o.Dir, "log"), Netns: o.Netns,
		// Its own shim is found beside it.
		Env: append([]string{"PATH=" + filepath.Dir(program) + ":" + os.Getenv("PATH"), "TMPDIR=" + filepath.Join(o.Dir, "tmp")}, o.Env...),
		Ready: func(ctx context.Context) error {
			_, err := c.Ctr(ctx, "version")
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// config is the configuration file. Plugins that would use places of the host are off.
func (o ContainerdOptions) config(address string) string {
	off := []string{
		"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
		"io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
	}
	if !o.CRI {
		off = append(off, "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version = 2\nroot = %q\nstate = %q\n", filepath.Join(o.Dir, "root"), filepath.Join(o.Dir, "state"))
	fmt.Fprintf(&b, "disabled_plugins = [%s]\n", quoted(off))
	fmt.Fprintf(&b, "[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n[debug]\nlevel = \"info\"\n", address, address+".ttrpc")
	for _, p := range o.Plugins {
		fmt.Fprintf(&b, "[proxy_plugins.%q]\ntype = \"snapshot\"\naddress = %q\n", p.Name, p.Address)
	}
	b.WriteString(o.Config)
	return b.String()
}

func quoted(all []string) string {
	var q []string
	for _, s := range all {
		q = append(q, fmt.Sprintf("%q", s))
	}
	return strings.Join(q, ", ")
}

// Ctr runs the ctr of this containerd and returns what it printed.
func (c *Containerd) Ctr(ctx context.Context, args ...string) (string, error) {
	return run(ctx, append([]string{c.CTR, "--address", c.Address}, args...)...)
}

// Process is the containerd's process.
func (c *Containerd) Process() *Process { return c.process }

// Root is its persistent directory.
func (c *Containerd) Root() string { return filepath.Join(c.dir, "root") }

// Stop ends all containers, then containerd, its shims, and what they have
// mounted. Images and snapshots stay in Dir.
func (c *Containerd) Stop() {
	if c == nil {
		return
	}
	c.endContainers()
	c.process.Stop()
	endShims(c.Address)
	unmountBelow(c.dir)
}

// StopDaemon stops containerd alone: containers run on, as they do when it is
// restarted.
func (c *Containerd) StopDaemon() { c.process.Stop() }

// KillDaemon kills containerd alone.
func (c *Containerd) KillDaemon() { c.process.Kill() }
