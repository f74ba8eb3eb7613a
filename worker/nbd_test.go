package worker

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"

	"github.com/slackerd/slacker/block"
)

var testFamily = genetlink.Family{ID: 0x1c, Version: nbdVersion, Name: nbdFamily,
	Groups: []genetlink.MulticastGroup{{ID: 7, Name: nbdEventGroup}}}

// testLink is an nbdLink to a kernel that answers with answer.
func testLink(t *testing.T, answer genltest.Func) *nbdLink {
	t.Helper()
	l, err := newNBDLink(genltest.Dial(genltest.ServeFamily(testFamily, answer)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// attributes decodes a request of the family into its attributes.
type attributes struct {
	numbers map[uint16]uint64
	backend string
	fds     []uint32
}

func decode(t *testing.T, data []byte) attributes {
	t.Helper()
	a := attributes{numbers: map[uint16]uint64{}}
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		t.Fatal(err)
	}
	for ad.Next() {
		switch ad.Type() {
		case nbdAttrIndex:
			a.numbers[ad.Type()] = uint64(ad.Uint32())
		case nbdAttrBackendIdentifier:
			a.backend = ad.String()
		case nbdAttrSockets:
			ad.Nested(func(items *netlink.AttributeDecoder) error {
				for items.Next() {
					if items.Type() != nbdSocketItem {
						t.Errorf("socket list holds attribute %d", items.Type())
					}
					items.Nested(func(item *netlink.AttributeDecoder) error {
						for item.Next() {
							a.fds = append(a.fds, item.Uint32())
						}
						return item.Err()
					})
				}
				return items.Err()
			})
		default:
			a.numbers[ad.Type()] = ad.Uint64()
		}
	}
	if err := ad.Err(); err != nil {
		t.Fatal(err)
	}
	return a
}

func indexMessage(command uint8, index uint32) genetlink.Message {
	ae := netlink.NewAttributeEncoder()
	ae.Uint32(nbdAttrIndex, index)
	b, err := ae.Encode()
	if err != nil {
		panic(err)
	}
	return genetlink.Message{Header: genetlink.Header{Command: command, Version: nbdVersion}, Data: b}
}

func testSockets(t *testing.T, n int) (files []*os.File) {
	t.Helper()
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
		files = append(files, r)
	}
	return files
}

func TestConnectRequest(t *testing.T) {
	sockets := testSockets(t, 3)
	check := func(m genetlink.Message, nreq netlink.Message) ([]genetlink.Message, error) {
		if m.Header.Command != nbdCmdConnect || nreq.Header.Flags != netlink.Request {
			t.Errorf("command %d with flags %v: want connect without an acknowledgement", m.Header.Command, nreq.Header.Flags)
		}
		a := decode(t, m.Data)
		want := map[uint16]uint64{nbdAttrSizeBytes: 1 << 40, nbdAttrBlockSizeBytes: 512, nbdAttrTimeout: 15, nbdAttrServerFlags: 0x16d, nbdAttrDeadConnTimeout: 300}
		for attr, v := range want {
			if a.numbers[attr] != v {
				t.Errorf("attribute %d is %d, want %d", attr, a.numbers[attr], v)
			}
		}
		if _, ok := a.numbers[nbdAttrIndex]; ok {
			t.Error("the request names an index; the kernel is to choose")
		}
		if a.backend != "att7" || len(a.fds) != 3 || a.fds[2] != uint32(sockets[2].Fd()) {
			t.Errorf("backend %q, descriptors %v", a.backend, a.fds)
		}
		return []genetlink.Message{indexMessage(nbdCmdConnect, 5)}, nil
	}
	index, err := testLink(t, check).connect(nbdConfig{sizeBytes: 1 << 40, serverFlags: 0x16d, requestTimeout: 15 * time.Second, deadFor: 300 * time.Second, backend: "att7"}, sockets)
	if err != nil || index != 5 {
		t.Fatalf("connect: nbd%d, %v", index, err)
	}
}

func TestReconfigureAndDisconnectRequests(t *testing.T) {
	sockets := testSockets(t, 1)
	var commands []uint8
	l := testLink(t, func(m genetlink.Message, nreq netlink.Message) ([]genetlink.Message, error) {
		if m.Header.Command == 0 {
			return nil, nil // the client reads the acknowledgement
		}
		a := decode(t, m.Data)
		if nreq.Header.Flags != netlink.Request|netlink.Acknowledge || a.numbers[nbdAttrIndex] != 3 {
			t.Errorf("flags %v, index %d", nreq.Header.Flags, a.numbers[nbdAttrIndex])
		}
		if m.Header.Command == nbdCmdReconfigure && (a.backend != "att7" || len(a.fds) != 1) {
			t.Errorf("backend %q, descriptors %v", a.backend, a.fds)
		}
		commands = append(commands, m.Header.Command)
		return nil, nil
	})
	if err := joinLine(l.reconfigure(3, "att7", sockets), l.disconnect(3)); err != nil {
		t.Fatal(err)
	}
	if len(commands) != 2 || commands[0] != nbdCmdReconfigure || commands[1] != nbdCmdDisconnect {
		t.Fatalf("commands %v", commands)
	}
}

func TestLinkDead(t *testing.T) {
	l := testLink(t, func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
		return []genetlink.Message{indexMessage(nbdCmdLinkDead, 4), indexMessage(nbdCmdConnect, 9), {Header: genetlink.Header{Command: nbdCmdLinkDead}, Data: []byte{1}}}, nil
	})
	if dead, err := l.linkDead(); err != nil || len(dead) != 1 || dead[0] != 4 {
		t.Fatalf("dead %v, %v", dead, err)
	}
}

func TestNetlinkErrors(t *testing.T) {
	l := testLink(t, func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
		return nil, genltest.Error(int(22))
	})
	if _, err := l.connect(nbdConfig{}, nil); !block.Is(err, block.IO) {
		t.Fatalf("connect: %v", err)
	}
	if err := l.reconfigure(0, "other", nil); !block.Is(err, block.IO) {
		t.Fatalf("reconfigure: %v", err)
	}
	silent := testLink(t, func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) { return nil, nil })
	if _, err := silent.connect(nbdConfig{}, nil); !block.Is(err, block.IO) {
		t.Fatalf("connect without an index: %v", err)
	}
	if _, err := newNBDLink(genltest.Dial(func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
		return nil, genltest.Error(2)
	})); !block.Is(err, block.Unsupported) {
		t.Fatalf("a kernel without nbd: %v", err)
	}
}

func TestDeviceByBackendIdentifier(t *testing.T) {
	d := nbdDriver{sysfs: t.TempDir()}
	write := func(device, name, text string) {
		t.Helper()
		dir := d.sys("block", device)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nbd0", "backend", "att1\n")
	write("nbd3", "backend", "att2\n")
	write("nbd3", "pid", "99\n")
	for id, want := range map[string]string{"att1": "", "att2": "/dev/nbd3", "": "", "att": ""} {
		if got, err := d.device(&state{AttachmentID: id}); err != nil || got != want {
			t.Errorf("device of %q: %q, %v; want %q", id, got, err, want)
		}
	}
}

func TestDeadSockets(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := socketFile(c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if isDead(f) {
		t.Error("an open socket counts as dead")
	}
	if err := peer.Close(); err != nil {
		t.Fatal(err)
	}
	if !isDead(f) {
		t.Error("a socket whose peer is gone counts as alive")
	}
}

func TestMountinfo(t *testing.T) {
	list, err := parseMountinfo([]byte("36 35 98:0 / /mnt\\040x/a\\134b rw,noatime master:1 - ext3 /dev/root rw\n37 35 7:3 /sub /y rw - ext4 /dev/loop3 ro\n"))
	if err != nil || len(list) != 2 || list[0].dir != `/mnt x/a\b` || list[1].dev != "7:3" || list[1].source != "/dev/loop3" {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, err := parseMountinfo([]byte("nonsense\n")); err == nil {
		t.Fatal("nonsense was taken")
	}
}

func TestStateFilesAreChecked(t *testing.T) {
	d := store{t.TempDir()}
	good := &state{Version: stateVersion, Target: "v", Driver: driverFuse, Nonce: "n"}
	must(t, d.save(good))
	if s, err := d.load("v"); err != nil || s.Nonce != "n" {
		t.Fatalf("%+v, %v", s, err)
	}
	if s, err := d.load("other"); s != nil || err != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	path := d.path(keyOf("v"), ".json")
	for _, text := range []string{"", "{", `{"version":2,"target":"v","driver":"fuse"}`, `{"version":1,"target":"../x","driver":"fuse"}`,
		`{"version":1,"target":"v","driver":"magic"}`, `{"version":1,"target":"w","driver":"fuse"}`, string(make([]byte, maxStateBytes+1))} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := d.load("v"); !block.Is(err, block.Corrupt) {
			t.Errorf("state %.40q: %v", text, err)
		}
	}
}

// TestNoModuleNoModprobe: modprobe runs only where the list of modules has nbd.
func TestNoModuleNoModprobe(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // running it leaves its mark in the error
	for list, want := range map[string]string{"": "none in", "kernel/fs/ext4/ext4.ko:\n": "none in", "kernel/drivers/block/nbd.ko:\n": "modprobe nbd"} {
		d := nbdDriver{sysfs: t.TempDir(), modules: t.TempDir()}
		if list != "" {
			if err := os.WriteFile(filepath.Join(d.modules, "modules.dep"), []byte(list), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.check(); !block.Is(err, block.Unsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("modules %q: %v: want %q", list, err, want)
		}
	}
}
