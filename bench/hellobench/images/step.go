package images

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed files/step.sh
var stepScript string

//go:embed files/clean.sh
var cleanScript string

// lastLine is a writer that remembers the last line for the progress, and all
// of the output in a file.
type lastLine struct {
	log  io.Writer
	line chan string // holds the newest line
}

func newLastLine(log io.Writer) *lastLine { return &lastLine{log, make(chan string, 1)} }

func (l *lastLine) Write(p []byte) (int, error) {
	lines := strings.FieldsFunc(string(p), func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) > 0 {
		select {
		case <-l.line:
		default:
		}
		select {
		case l.line <- lines[len(lines)-1]:
		default: // another writer was faster
		}
	}
	return l.log.Write(p)
}

// runLogged runs cmd with its output in a file, and says now and then what the
// command said last. The error has the end of the output.
func (b *builder) runLogged(ctx context.Context, what string, cmd *exec.Cmd) error {
	file := filepath.Join(b.store.work(), "log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // only for the error below
	out := newLastLine(log)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	ended := make(chan struct{})
	go b.reportLines(what, out.line, ended)
	err = cmd.Run()
	close(ended)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w:\n%s", what, err, tail(file, 12))
	}
	return nil
}

// reportLines says every few seconds what a command is about.
func (b *builder) reportLines(what string, lines <-chan string, ended <-chan struct{}) {
	started := time.Now()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
			line := ""
			select {
			case line = <-lines:
			default:
			}
			b.say("  %s: %.0f s %.70s", what, time.Since(started).Seconds(), line)
		}
	}
}

func tail(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}

// makeBase makes the smallest system of a suite.
func (b *builder) makeBase(ctx context.Context, l *Layer, tree string) error {
	args := []string{
		"--quiet", "--variant=minbase", "--format=directory", "--skip=cleanup/apt/lists",
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`, `--aptopt=Acquire::Check-Valid-Until "false"`,
		`--aptopt=Dir::Cache::pkgcache ""`, `--aptopt=Dir::Cache::srcpkgcache ""`,
		"--dpkgopt=force-unsafe-io", l.Base, tree,
	}
	if b.mirror != "" {
		args = append(args, b.mirror)
	}
	if err := b.runLogged(ctx, "debian "+l.Base, exec.CommandContext(ctx, "mmdebstrap", args...)); err != nil {
		return err
	}
	// No services are started in images, and the container's engine gives the
	// name server.
	if err := os.WriteFile(filepath.Join(tree, "usr/sbin/policy-rc.d"), []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"etc/resolv.conf", "etc/hostname", "etc/machine-id"} {
		if err := os.WriteFile(filepath.Join(tree, name), nil, 0o644); err != nil {
			return err
		}
	}
	apt := b.aptDir(l.Base)
	for _, dir := range []string{"archives/partial", "lists"} {
		if err := os.MkdirAll(filepath.Join(apt, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(apt, "lists")); err != nil {
		return err
	}
	lists := filepath.Join(tree, "var/lib/apt/lists")
	if err := os.Rename(lists, filepath.Join(apt, "lists")); err != nil {
		return err
	}
	if err := os.Mkdir(lists, 0o755); err != nil {
		return err
	}
	return b.stampLists(l.Base)
}

func (b *builder) aptDir(suite string) string { return filepath.Join(b.store.dir, "apt", suite) }

func (b *builder) stampFile(suite string) string { return filepath.Join(b.aptDir(suite), "updated") }

func (b *builder) stampLists(suite string) error {
	return os.WriteFile(b.stampFile(suite), nil, 0o644)
}

// listsAge is how old package lists may be: an archive keeps superseded
// packages for a while only.
const listsAge = 12 * time.Hour

// makeStep makes a layer on others, by installing packages, files and a script.
func (b *builder) makeStep(ctx context.Context, l *Layer, tree string) error {
	var lower []string
	for _, below := range l.Below.chain() {
		lower = append([]string{b.store.tree(below)}, lower...)
	}
	work := b.store.work()
	for _, dir := range []string{"overlay", "root", "staged"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return err
		}
	}
	staged := filepath.Join(work, "staged")
	var list strings.Builder
	for i, f := range l.Files {
		name := strconv.Itoa(i)
		if err := os.WriteFile(filepath.Join(staged, name), []byte(f.Content), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&list, "%o %s %s\n", f.Mode, name, f.Path)
	}
	if err := os.WriteFile(staged+".list", []byte(list.String()), 0o600); err != nil {
		return err
	}
	script := filepath.Join(work, "script")
	if err := os.WriteFile(script, []byte(b.script(l)), 0o600); err != nil {
		return err
	}
	apt := ""
	if len(l.Packages) > 0 {
		apt = b.aptDir(l.suite())
	}
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "sh", "-c", stepScript)
	cmd.Env = append(os.Environ(), "LOWER="+strings.Join(lower, ":"), "UPPER="+tree, "WORK="+filepath.Join(work, "overlay"),
		"ROOT="+filepath.Join(work, "root"), "APT="+apt, "STAGED="+staged, "SCRIPT="+script,
		"SOURCE_DATE_EPOCH="+strconv.FormatInt(b.epoch(l.suite()), 10))
	if err := b.runLogged(ctx, l.title(), cmd); err != nil {
		return err
	}
	if len(l.Packages) > 0 {
		return b.stampLists(l.suite())
	}
	return nil
}

// script is what is run in the image.
func (b *builder) script(l *Layer) string {
	var s strings.Builder
	if len(l.Packages) > 0 {
		if st, err := os.Stat(b.stampFile(l.suite())); err != nil || time.Since(st.ModTime()) > listsAge {
			s.WriteString("apt-get -q update\n")
		}
		fmt.Fprintf(&s, "apt-get -q -y install %s\n", strings.Join(l.Packages, " "))
	}
	s.WriteString(l.Run + "\n" + cleanScript)
	return s.String()
}

// makeInstalled makes a layer of a package that this machine has.
func (b *builder) makeInstalled(ctx context.Context, l *Layer, tree string) error {
	cmd := exec.CommandContext(ctx, "sh", "-euc", l.Run)
	cmd.Env = append(os.Environ(), "OUT="+tree, "LC_ALL=C.UTF-8")
	return b.runLogged(ctx, "copy "+l.Installed, cmd)
}

// makeGoProgram builds a static program into the root.
func (b *builder) makeGoProgram(ctx context.Context, l *Layer, tree string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid=", "-o", tree+"/", l.GoProgram)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return b.runLogged(ctx, "build "+l.GoProgram, cmd)
}

// title is the layer in a few words.
func (l *Layer) title() string {
	s := l.String()
	if len(s) > 60 {
		s = s[:57] + "..."
	}
	return s
}
