package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
)

// layersProgram unpacks layers: that takes root, devices and mounts, and the
// library of containerd, none of which an admin's program wants otherwise.
const layersProgram = "slacker-snapshotter"

// importLayers has the layers of a container image made known to workers.
func (a *app) importLayers(cmd *cobra.Command, source string) error {
	program, err := a.findLayersProgram()
	if err != nil {
		return err
	}
	args := []string{"import", source, "--server", a.server}
	for flag, value := range map[string]string{"--tls-ca": a.tls.CA, "--tls-cert": a.tls.Cert, "--tls-key": a.tls.Key} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	for _, name := range []string{"format", "image", "platform", "size", "prefix"} {
		if f := cmd.Flags().Lookup(name); f.Changed {
			args = append(args, "--"+name, f.Value.String())
		}
	}
	if a.json {
		args = append(args, "--json")
	}
	var out bytes.Buffer
	child := exec.CommandContext(cmd.Context(), program, args...)
	child.Cancel = func() error { return child.Process.Signal(unix.SIGTERM) } // it clears up
	child.Stdout, child.Stderr = a.stdout, a.stderr
	if a.json || a.quiet {
		child.Stdout = &out
	}
	if err := a.layersEnded(cmd.Context(), child.Run(), source); err != nil || !a.json {
		return err
	}
	layers := struct {
		Layers []json.RawMessage `json:"layers"`
	}{[]json.RawMessage{}}
	for d := json.NewDecoder(&out); d.More(); {
		var layer json.RawMessage
		if err := d.Decode(&layer); err != nil {
			return block.Errorf(block.Internal, "what %s printed: %w", layersProgram, err)
		}
		layers.Layers = append(layers.Layers, layer)
	}
	return a.answer(layers, nil)
}

// layersEnded gives the end of the program the kind that its exit status stands
// for; what went wrong it has said itself.
func (a *app) layersEnded(ctx context.Context, err error, source string) error {
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) {
		return block.Wrap(block.Internal, err, "import the layers of "+source)
	}
	if ctx.Err() != nil {
		return a.failed(ctx, ctx.Err(), "")
	}
	for k := block.Internal; k <= block.Unavailable; k++ {
		if api.ExitStatus(block.Errorf(k, "")) == exit.ExitCode() {
			return block.Errorf(k, "import the layers of %s: %s: %w", source, layersProgram, err)
		}
	}
	return block.Errorf(block.Internal, "import the layers of %s: %s: %w", source, layersProgram, err)
}

// findLayersProgram looks beside this program and in PATH.
func (a *app) findLayersProgram() (string, error) {
	dirs := filepath.SplitList(a.getenv("PATH"))
	if exe, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Dir(exe)}, dirs...)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, layersProgram)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return filepath.Abs(path)
		}
	}
	return "", block.Errorf(block.Unsupported, "%s, which unpacks layers, is neither beside slackerctl nor in PATH", layersProgram)
}
