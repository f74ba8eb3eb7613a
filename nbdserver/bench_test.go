package nbdserver_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// load is one way to use a connection: depth commands are kept under way.
type load struct {
	name   string
	cmd    uint16
	flags  uint16
	length int
	depth  int
}

var loads = []load{
	{"read4k/depth1", cRead, 0, 4096, 1},
	{"read4k/depth16", cRead, 0, 4096, 16},
	{"read4k/depth64", cRead, 0, 4096, 64},
	{"write4k/depth1", cWrite, 0, 4096, 1},
	{"write4k/depth16", cWrite, 0, 4096, 16},
	{"read128k/depth4", cRead, 0, 128 << 10, 4},
	{"write128k/depth4", cWrite, 0, 128 << 10, 4},
	{"read1m/depth4", cRead, 0, 1 << 20, 4},
	{"flush/depth1", cFlush, 0, 0, 1},
	{"flush/depth16", cFlush, 0, 0, 16},
}

const benchBytes = 256 << 20

// BenchmarkServer measures the server over a unix socket with a device in
// memory that has been written to.
func BenchmarkServer(b *testing.B) {
	benchLoads(b, start(b, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(benchBytes))))
}

// BenchmarkServerMisses is BenchmarkServer with reads that may wait.
func BenchmarkServerMisses(b *testing.B) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(benchBytes))
	m.Slow = func(uint64, int) bool { return true }
	benchLoads(b, start(b, m))
}

// BenchmarkNbdkit measures nbdkit's memory plugin with the same client.
func BenchmarkNbdkit(b *testing.B) {
	nbdkit, err := exec.LookPath("nbdkit")
	if err != nil {
		b.Skip("nbdkit is not installed (Debian package nbdkit)")
	}
	path := filepath.Join(b.TempDir(), "nbd.sock")
	cmd := exec.Command(nbdkit, "-f", "-U", path, "memory", fmt.Sprint(benchBytes))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			b.Error(err)
		}
		_ = cmd.Wait() // ended by our signal
	})
	for deadline := time.Now().Add(testTimeout); ; {
		nc, err := net.Dial("unix", path)
		if err == nil {
			_ = nc.Close()
			break
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
	benchLoads(b, &rig{path: path})
}

func benchLoads(b *testing.B, r *rig) {
	p := hello(b, r)
	p.option(oGo, infoData("vol"))
	for typ := uint32(0); typ != rAck; {
		_, typ, _ = p.reply()
	}
	data := fill(1<<20, 1)
	for off := uint64(0); off < benchBytes; off += 1 << 20 {
		p.command(0, cWrite, 1, off, 1<<20, data)
		p.wantSimple(0, 1)
	}
	if err := p.nc.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	for _, l := range loads {
		b.Run(l.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(l.length))
			l.run(b, p.nc)
		})
	}
}

// run keeps depth commands under way until b.N are answered. It sends what the
// replies that have arrived make room for in one write, as a busy client does.
func (l load) run(b *testing.B, nc net.Conn) {
	in := bufio.NewReaderSize(nc, 1<<20)
	var payload []byte
	if l.cmd == cWrite {
		payload = fill(l.length, 2)
	}
	one := commandBytes(l.flags, l.cmd, 0, 0, uint32(l.length), payload)
	reply := 16
	if l.cmd == cRead {
		reply += l.length
	}
	out := make([]byte, 0, len(one)*l.depth)
	off, sent, done := uint64(1), 0, 0
	b.ResetTimer()
	for done < b.N {
		out = out[:0]
		for ; sent < b.N && sent-done < l.depth; sent++ {
			off = off*6364136223846793005 + 1442695040888963407
			out = append(out, one...)
			if l.length > 0 {
				be.PutUint64(out[len(out)-len(one)+16:], off>>20%uint64(benchBytes/l.length)*uint64(l.length))
			}
		}
		if len(out) > 0 {
			if _, err := nc.Write(out); err != nil {
				b.Fatal(err)
			}
		}
		for first := true; done < sent && (first || in.Buffered() >= reply); first = false {
			head, err := in.Peek(16)
			if err != nil || be.Uint32(head) != simpMagic || be.Uint32(head[4:]) != 0 {
				b.Fatalf("reply is %x, %v", head, err)
			}
			if _, err := in.Discard(reply); err != nil {
				b.Fatal(err)
			}
			done++
		}
	}
}
