package nbdserver_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func TestLimitsCheck(t *testing.T) {
	if err := nbdserver.DefaultLimits().Check(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	_, err := nbdserver.New(newVol(), nbdserver.Options{})
	for _, name := range []string{"Connections", "Handshake", "Stall", "Options", "OptionBytes", "RequestBytes", "InFlightRequests", "StatusExtents"} {
		if err == nil || !strings.Contains(err.Error(), "limit "+name+" is 0") {
			t.Errorf("limit %s of 0 is not named in: %v", name, err)
		}
	}
}

// TestTCP serves two listeners, one over TCP, and ends one by its context.
func TestTCP(t *testing.T) {
	r := start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(48<<20)))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	src := rawImage(t, 48<<20)
	uri := "nbd://" + l.Addr().String() + "/vol"
	tool(t, "nbdcopy", "--flush", src, uri)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, r.uri("vol"))
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", src, uri)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if nc, err := net.Dial("tcp", l.Addr().String()); err == nil {
		_ = nc.Close()
		t.Error("the listener is still open")
	}
	enter(t, r, false).wantAlive(false)
}

// failListener fails to accept a few times and then for good.
type failListener struct {
	net.Listener
	left int
}

func (l *failListener) Accept() (net.Conn, error) {
	if l.left--; l.left < 0 {
		return nil, net.ErrClosed
	}
	return nil, errors.New("too many open files")
}

func TestAcceptErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, newVol())
	if err := r.Serve(t.Context(), &failListener{l, 2}); !block.Is(err, block.IO) {
		t.Errorf("Serve of a listener that was closed returned %v", err)
	}
}

// badDevice describes itself wrongly.
type badDevice struct {
	nbdserver.Device
	info    nbdserver.Info
	extents []nbdserver.Extent
}

func (d badDevice) Info() nbdserver.Info { return d.info }
func (d badDevice) Extents(context.Context, []nbdserver.Extent, uint64, uint64, int) ([]nbdserver.Extent, error) {
	return d.extents, nil
}

// badBackend wraps the devices of another.
type badBackend struct {
	*nbdtest.Memory
	info    nbdserver.Info
	extents []nbdserver.Extent
}

func (b badBackend) Open(ctx context.Context, name string, c nbdserver.Conn, disconnect func(error)) (nbdserver.Device, error) {
	d, err := b.Memory.Open(ctx, name, c, disconnect)
	return badDevice{d, b.info, b.extents}, err
}

// TestBadDevice: what a device says is checked before it goes to a client.
func TestBadDevice(t *testing.T) {
	good := nbdtest.DefaultInfo(1 << 20)
	for name, change := range map[string]func(*nbdserver.Info){
		"minimum block 3":           func(i *nbdserver.Info) { i.MinBlockBytes = 3 },
		"minimum block 0":           func(i *nbdserver.Info) { i.MinBlockBytes = 0 },
		"preferred below 512":       func(i *nbdserver.Info) { i.PreferredBlockBytes = 256 },
		"maximum below preferred":   func(i *nbdserver.Info) { i.MaxRequestBytes = 1024 },
		"size not a multiple":       func(i *nbdserver.Info) { i.MinBlockBytes, i.SizeBytes = 4096, 5000 },
		"size of 2^63":              func(i *nbdserver.Info) { i.SizeBytes = 1 << 63 },
		"maximum not of the blocks": func(i *nbdserver.Info) { i.MinBlockBytes, i.MaxRequestBytes = 4096, 10000 },
	} {
		t.Run(name, func(t *testing.T) {
			m, info := newVol(), good
			change(&info)
			p := hello(t, start(t, badBackend{m, info, nil}))
			p.option(oGo, infoData("vol"))
			p.wantReply(oGo, rUnknown)
			if m.OpenDevices() != 0 {
				t.Error("the device is still open")
			}
		})
	}
	coarse := good
	coarse.MinBlockBytes = 512
	for name, es := range map[string][]nbdserver.Extent{
		"not of whole blocks": {{LengthBytes: 100}}, "none": nil, "empty": {{}}, "too long": {{LengthBytes: 4097}}, "too long together": {{LengthBytes: 4096}, {LengthBytes: 1}},
		"overflow": {{LengthBytes: 1}, {LengthBytes: 1<<64 - 1}},
	} {
		t.Run("extents "+name, func(t *testing.T) {
			p := enter(t, start(t, badBackend{newVol(), coarse, es}), true)
			p.command(0, cStatus, 1, 0, 4096, nil)
			if got := p.wantChunk(1<<15|1, 1); nbdserver.Errno(be.Uint32(got)) != nbdserver.EIO {
				t.Errorf("answer is %x", got)
			}
			p.wantAlive(true)
		})
	}
}

// TestNoAllocation: the commands of the fast path cost the server no memory.
func TestNoAllocation(t *testing.T) {
	p := enter(t, start(t, newVol()), false)
	read, write := commandBytes(0, cRead, 1, 0, 4096, nil), commandBytes(0, cWrite, 1, 0, 4096, make([]byte, 4096))
	reply := make([]byte, 2*16+4096)
	const rounds = 2000
	before := allocated()
	for range rounds {
		if _, err := p.nc.Write(read); err != nil {
			t.Fatal(err)
		}
		if _, err := p.nc.Write(write); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(reply); {
			got, err := p.nc.Read(reply[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += got
		}
	}
	if n := (allocated() - before) / rounds; n > 1000 && !raceEnabled {
		t.Errorf("a read and a write of 4 KiB allocate %d bytes", n)
	}
}

// TestReconnect: a client that comes back at once finds its export, again and
// again, and nothing stays behind.
func TestReconnect(t *testing.T) {
	m := newVol()
	r := start(t, m)
	for range 100 {
		p := enter(t, r, false)
		p.wantAlive(false)
		if err := p.nc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the devices to be closed", func() bool { return m.OpenDevices() == 0 })
}
