package drive

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/slackerd/slacker/stack"
)

// command runs a program in a namespace to its end and returns what it printed; an
// error has what it complained of. It is often part of what is measured: so it is
// started from a thread that is there, and not by a program of its own.
func command(ctx context.Context, ns stack.Namespace, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is ours to hand on
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := ns.Do(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(args[0]), strings.Join(args[1:], " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// newNamespace makes a network namespace with its loopback interface up.
func newNamespace(ctx context.Context, name string) (stack.Namespace, error) {
	if _, err := command(ctx, "", "ip", "netns", "add", name); err != nil {
		return "", err
	}
	if _, err := command(ctx, "", "ip", "-n", name, "link", "set", "lo", "up"); err != nil {
		return "", err
	}
	return stack.Namespace(name), nil
}

func removeNamespace(ns stack.Namespace) error {
	_, err := command(context.Background(), "", "ip", "netns", "delete", string(ns))
	return err
}
