package image

import (
	"bufio"
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdclient"
)

// exportQcow2 has qemu-img read the export and write the file.
func exportQcow2(ctx context.Context, addr, export string, out *partialFile, res *Result, progress Progress) error {
	tool, err := findTool("qemu-img", "qemu-utils")
	if err != nil {
		return err
	}
	source, err := qemuURL(addr, export)
	if err != nil {
		return err
	}
	// The size is told by us: qemu-img reports hundredths of a percent only.
	dev, err := dialer(false, nil)(ctx, addr, export)
	if err != nil {
		return err
	}
	res.SizeBytes = dev.SizeBytes()
	res.SourceBytes = res.SizeBytes
	if err := dev.Close(); err != nil {
		return err
	}
	// An absolute path, since qemu-img takes what is before a colon for a protocol.
	path, err := filepath.Abs(out.f.Name())
	if err != nil {
		return openError(out.f.Name(), err)
	}
	cmd := exec.CommandContext(ctx, tool, "convert", "-p", "-f", "raw", "-O", "qcow2", "-m", "8", "-S", "4k", source, path)
	cmd.WaitDelay = 5 * time.Second
	err = runTool(ctx, cmd, func(line string) {
		if p, ok := parseQemuPercent(line); ok {
			progress(PhaseExport, uint64(float64(res.SizeBytes)*p/100), res.SizeBytes)
		}
	})
	if err != nil {
		return err
	}
	st, err := os.Stat(out.f.Name())
	if err != nil {
		return openError(out.f.Name(), err)
	}
	res.WrittenBytes = uint64(st.Size())
	return nil
}

// qemuURL names an export as QEMU's tools want it.
func qemuURL(addr, export string) (string, error) {
	a, err := nbdclient.ParseAddr(addr)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "nbd", Host: a.Address, Path: "/" + export}
	if a.Network == "unix" {
		u.Scheme, u.Host, u.RawQuery = "nbd+unix", "", "socket="+url.QueryEscape(a.Address)
		return "nbd+unix:///" + (&url.URL{Path: export}).EscapedPath() + "?" + u.RawQuery, nil
	}
	return u.String(), nil
}

// parseQemuPercent reads "    (12.34/100%)".
func parseQemuPercent(s string) (float64, bool) {
	s, ok := strings.CutSuffix(strings.TrimSpace(s), "/100%)")
	s, ok2 := strings.CutPrefix(s, "(")
	p, err := strconv.ParseFloat(s, 64)
	return p, ok && ok2 && err == nil
}

// findTool finds a program of the host, or says how to get it.
func findTool(name, debianPackage string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin/", "/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	return "", block.Errorf(block.Unsupported, "this needs the program %s, which is not installed: apt-get install %s", name, debianPackage)
}

// maxToolErrorBytes bounds what is kept of a tool's complaints.
const maxToolErrorBytes = 4096

// runTool runs a program, passes its output on line by line ('\r' ends a line
// too), and makes its last complaint the error.
func runTool(ctx context.Context, cmd *exec.Cmd, line func(string)) error {
	var stderr tail
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return block.Errorf(block.Internal, "run %s: %w", cmd.Path, err)
	}
	if err := cmd.Start(); err != nil {
		return block.Errorf(block.Unsupported, "run %s: %w", cmd.Path, err)
	}
	scan := bufio.NewScanner(stdout)
	scan.Split(splitLines)
	for scan.Scan() {
		line(scan.Text())
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		kind := block.IO
		if strings.Contains(stderr.last(), "No space left") {
			kind = block.NoSpace
		}
		return block.Errorf(kind, "%s: %w: %s", cmd.Path, err, stderr.last())
	}
	return nil
}

func splitLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexAny(data, "\r\n"); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 || len(data) >= maxToolErrorBytes {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - maxToolErrorBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

// last returns the last lines on one.
func (t *tail) last() string {
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
