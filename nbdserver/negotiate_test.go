package nbdserver_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/nbdserver"
	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

func newVol() *nbdtest.Memory { return nbdtest.NewMemory("vol", nbdtest.DefaultInfo(1<<20)) }

// TestNegotiationClosed holds what must end the connection.
func TestNegotiationClosed(t *testing.T) {
	r := start(t, newVol())
	for _, tc := range []struct {
		name string
		send []byte
	}{
		{"unknown client flag", u32(1 << 2)},
		{"high client flag", u32(1<<31 | 3)},
		{"wrong option magic", cat(u32(3), u64(oldMagic), u32(oList), u32(0))},
		{"unknown export by EXPORT_NAME", cat(u32(3), optionBytes(oExportName, []byte("nope")))},
		{"EXPORT_NAME with NUL", cat(u32(3), optionBytes(oExportName, []byte("vol\x00")))},
		{"EXPORT_NAME too long", cat(u32(3), optionBytes(oExportName, bytes.Repeat([]byte("x"), 70000)))},
		{"option of 4 GiB", cat(u32(3), u64(optMagic), u32(oGo), u32(1<<32-1))},
		{"unknown option of 4 GiB", cat(u32(3), u64(optMagic), u32(77), u32(1<<32-1))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := dial(t, r)
			_, _ = p.nc.Write(tc.send) // may be cut short by the close
			p.wantClosed()
		})
	}
}

// TestNegotiationRefused holds what must be refused in step: the next option is
// answered.
func TestNegotiationRefused(t *testing.T) {
	r := start(t, newVol())
	manyQueries := cat(str("vol"), u32(1<<30))
	for _, tc := range []struct {
		name string
		id   uint32
		data []byte
		want uint32
	}{
		{"unknown option", 0x7fff, []byte("some data"), rUnsup},
		{"PEEK_EXPORT", 4, nil, rUnsup},
		{"STARTTLS", oStartTLS, nil, rPolicy},
		{"STARTTLS with data", oStartTLS, []byte("x"), rInvalid},
		{"LIST with data", oList, []byte("x"), rInvalid},
		{"STRUCTURED_REPLY with data", oStructured, []byte("x"), rInvalid},
		{"GO unknown", oGo, infoData("nope"), rUnknown},
		{"INFO unknown", oInfo, infoData("nope"), rUnknown},
		{"INFO of the empty name", oInfo, infoData(""), rUnknown},
		{"GO empty", oGo, nil, rInvalid},
		{"GO short", oGo, []byte{0, 0, 0, 0, 0}, rInvalid},
		{"GO name beyond the option", oGo, cat(u32(4), []byte("vol"), u16(0)), rInvalid},
		{"GO name of 4 GiB", oGo, cat(u32(1<<32-1), []byte("vol"), u16(0)), rInvalid},
		{"GO more infos than sent", oGo, cat(str("vol"), u16(2), u16(0)), rInvalid},
		{"GO fewer infos than sent", oGo, cat(str("vol"), u16(0), u16(0)), rInvalid},
		{"GO name not UTF-8", oGo, infoData("\xff\xfe"), rInvalid},
		{"GO name with NUL", oGo, infoData("v\x00l"), rInvalid},
		{"GO name too long", oGo, infoData(strings.Repeat("x", 4097)), rInvalid},
		{"option too long", oGo, make([]byte, 64<<10+1), rBig},
		{"SET_META without structured replies", oSetMeta, metaData("vol", "base:allocation"), rInvalid},
		{"LIST_META without structured replies", oListMeta, metaData("vol"), rInvalid},
		{"SET_META unsound, no structured", oSetMeta, manyQueries, rInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := hello(t, r)
			p.option(tc.id, tc.data)
			p.wantReply(tc.id, tc.want)
			p.option(oList, nil)
			if got := p.wantReply(oList, rServer); !bytes.Equal(got, str("vol")) {
				t.Errorf("LIST gives %q", got)
			}
			p.wantReply(oList, rAck)
		})
	}
}

func TestMetaContextRefused(t *testing.T) {
	r := start(t, newVol())
	for _, tc := range []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"name beyond the option", cat(u32(9), []byte("vol"), u32(0))},
		{"no count", str("vol")},
		{"more queries than sent", cat(str("vol"), u32(2), str("base:"))},
		{"count of 2^30", cat(str("vol"), u32(1<<30), str("base:"))},
		{"count of 2^32-1", cat(str("vol"), u32(1<<32-1), str("base:"))},
		{"query beyond the option", cat(str("vol"), u32(1), u32(6), []byte("base:"))},
		{"data left over", cat(metaData("vol", "base:"), []byte("x"))},
		{"query too long", metaData("vol", strings.Repeat("x", 4097))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := hello(t, r)
			p.option(oStructured, nil)
			p.wantReply(oStructured, rAck)
			for _, id := range []uint32{oListMeta, oSetMeta} {
				p.option(id, tc.data)
				p.wantReply(id, rInvalid)
			}
		})
	}
}

func TestMetaContexts(t *testing.T) {
	r := start(t, newVol())
	for _, tc := range []struct {
		name     string
		id       uint32
		queries  []string
		selected bool
	}{
		{"LIST of nothing lists all", oListMeta, nil, true},
		{"LIST by wildcard", oListMeta, []string{"base:"}, true},
		{"LIST by name", oListMeta, []string{"base:allocation"}, true},
		{"LIST of an unknown namespace", oListMeta, []string{"x-other:"}, false},
		{"SET of nothing", oSetMeta, nil, false},
		{"SET by wildcard selects nothing", oSetMeta, []string{"base:"}, false},
		{"SET of an unknown context", oSetMeta, []string{"base:other", "qemu:dirty-bitmap:x"}, false},
		{"SET twice the same", oSetMeta, []string{"base:allocation", "base:allocation"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := hello(t, r)
			p.option(oStructured, nil)
			p.wantReply(oStructured, rAck)
			p.option(tc.id, metaData("vol", tc.queries...))
			if tc.selected {
				if got := p.wantReply(tc.id, rMeta); string(got[4:]) != "base:allocation" {
					t.Errorf("context is %q", got[4:])
				}
			}
			p.wantReply(tc.id, rAck)
		})
	}
}

// TestMetaContextScope: contexts hold for the export they were set for, and a
// SET replaces the former, also when it fails.
func TestMetaContextScope(t *testing.T) {
	m := newVol()
	m.Add("other", nbdtest.DefaultInfo(1<<20))
	r := start(t, m)
	for _, tc := range []struct {
		name   string
		second []byte
		want   uint32
		export string
	}{
		{"another export", nil, 0, "other"},
		{"replaced by nothing", metaData("vol"), rAck, "vol"},
		{"replaced by a failure", []byte("xx"), rInvalid, "vol"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := hello(t, r)
			p.option(oStructured, nil)
			p.wantReply(oStructured, rAck)
			p.option(oSetMeta, metaData("vol", "base:allocation"))
			p.wantReply(oSetMeta, rMeta)
			p.wantReply(oSetMeta, rAck)
			if tc.second != nil {
				p.option(oSetMeta, tc.second)
				p.wantReply(oSetMeta, tc.want)
			}
			p.option(oGo, infoData(tc.export))
			p.wantReply(oGo, rInfo)
			p.wantReply(oGo, rInfo)
			p.wantReply(oGo, rAck)
			p.command(0, cStatus, 1, 0, 4096, nil)
			if got := p.wantChunk(1<<15|1, 1); nbdserver.Errno(be.Uint32(got)) != nbdserver.EINVAL {
				t.Errorf("BLOCK_STATUS without a context answers %x", got)
			}
		})
	}
}

func TestExportName(t *testing.T) {
	r := start(t, newVol())
	for _, zeroes := range []bool{false, true} {
		p := dial(t, r)
		flags, want := uint32(3), 10
		if zeroes {
			flags, want = 1, 10+124
		}
		p.write(u32(flags))
		p.option(oExportName, []byte("vol"))
		b := p.read(want)
		if be.Uint64(b) != 1<<20 || be.Uint16(b[8:]) != 0b1101_0110_1101 || !bytes.Equal(b[10:], make([]byte, want-10)) {
			t.Errorf("EXPORT_NAME answers %x", b)
		}
		p.wantAlive(false)
	}
}

// TestClientFlags: neither flag has to be set.
func TestClientFlags(t *testing.T) {
	r := start(t, newVol())
	for flags := range uint32(4) {
		p := dial(t, r)
		p.write(u32(flags))
		p.option(oGo, infoData("vol"))
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rInfo)
		p.wantReply(oGo, rAck)
		p.wantAlive(false) // no zeroes follow a GO
	}
}

// TestTextIsClipped: what goes to a client is UTF-8 of at most 4096 bytes.
func TestTextIsClipped(t *testing.T) {
	info := nbdtest.DefaultInfo(1 << 20)
	info.Description = "x" + strings.Repeat("\u00e9", 4096) + "\xff"
	m := nbdtest.NewMemory("vol", info)
	m.Hook = func(context.Context, nbdtest.Call) error { return block.Errorf(block.IO, "\xff%s", info.Description) }
	r := start(t, m)
	p := hello(t, r)
	p.option(oInfo, infoData("vol", 2))
	p.wantReply(oInfo, rInfo)
	p.wantReply(oInfo, rInfo)
	if got := p.wantReply(oInfo, rInfo); !utf8.Valid(got[2:]) || len(got) != 2+4095 || got[2] != 'x' {
		t.Errorf("the description is %d bytes, UTF-8: %t", len(got)-2, utf8.Valid(got[2:]))
	}
	p.wantReply(oInfo, rAck)
	q := enterMode(t, r, structured)
	q.send(ask{cmd: cFlush})
	if got := q.want(1<<15|1, ask{cmd: cFlush}); !utf8.Valid(got[6:]) || len(got) < 6+4090 || len(got) > 6+4096 {
		t.Errorf("the text of an error is %d bytes, UTF-8: %t", len(got)-6, utf8.Valid(got[6:]))
	}
}

func TestInfo(t *testing.T) {
	info := nbdtest.DefaultInfo(1 << 20)
	info.Description = "what it is"
	m := nbdtest.NewMemory("vol", info)
	ro := info
	ro.ReadOnly, ro.MinBlockBytes = true, 512
	m.Add("ro", ro)
	r := start(t, m)
	p := hello(t, r)
	p.option(oInfo, infoData("vol", 0, 1, 2, 3, 99, 1))
	if got := p.wantReply(oInfo, rInfo); !bytes.Equal(got, cat(u16(0), u64(1<<20), u16(0b1101_0110_1101))) {
		t.Errorf("INFO_EXPORT is %x", got)
	}
	if got := p.wantReply(oInfo, rInfo); !bytes.Equal(got, cat(u16(3), u32(1), u32(4096), u32(32<<20))) {
		t.Errorf("INFO_BLOCK_SIZE is %x", got)
	}
	if got := p.wantReply(oInfo, rInfo); !bytes.Equal(got, cat(u16(1), []byte("vol"))) {
		t.Errorf("INFO_NAME is %x", got)
	}
	if got := p.wantReply(oInfo, rInfo); !bytes.Equal(got, cat(u16(2), []byte("what it is"))) {
		t.Errorf("INFO_DESCRIPTION is %x", got)
	}
	p.wantReply(oInfo, rAck)
	if n := m.OpenDevices(); n != 0 {
		t.Errorf("INFO leaves %d devices open", n)
	}
	p.option(oStructured, nil)
	p.wantReply(oStructured, rAck)
	p.option(oGo, infoData("ro"))
	if got := p.wantReply(oGo, rInfo); !bytes.Equal(got, cat(u16(0), u64(1<<20), u16(0b101_1000_1111))) {
		t.Errorf("INFO_EXPORT read-only is %x", got)
	}
}

// TestInfoThenGo: a GO that fails after a good INFO opens nothing.
func TestInfoThenGo(t *testing.T) {
	m := newVol()
	r := start(t, m)
	p := hello(t, r)
	p.option(oInfo, infoData("vol"))
	p.wantReply(oInfo, rInfo)
	p.wantReply(oInfo, rInfo)
	p.wantReply(oInfo, rAck)
	p.option(oGo, infoData("nope"))
	p.wantReply(oGo, rUnknown)
	p.option(oAbort, []byte("bye"))
	p.wantReply(oAbort, rAck)
	p.wantClosed()
}

func TestListMany(t *testing.T) {
	m := newVol()
	for i := range 3000 {
		m.Add(strings.Repeat("x", i%100+1)+string(rune('a'+i%26))+strings.Repeat("y", i/100), nbdtest.DefaultInfo(1))
	}
	exports, err := m.List(t.Context(), nbdserver.Conn{})
	if err != nil {
		t.Fatal(err)
	}
	p := hello(t, start(t, m))
	p.option(oList, nil)
	for _, e := range exports {
		if got := p.wantReply(oList, rServer); !bytes.Equal(got, str(e.Name)) {
			t.Fatalf("LIST gives %q, want %q", got, e.Name)
		}
	}
	p.wantReply(oList, rAck)
}

// errBackend fails to open with an error of one kind.
type errBackend struct{ kind block.Kind }

func (b errBackend) Open(context.Context, string, nbdserver.Conn, func(error)) (nbdserver.Device, error) {
	return nil, block.Errorf(b.kind, "open: some reason")
}

func (b errBackend) List(context.Context, nbdserver.Conn) ([]nbdserver.Export, error) {
	return nil, block.Errorf(b.kind, "list: some reason")
}

func TestOpenErrors(t *testing.T) {
	for kind, want := range map[block.Kind]uint32{block.NotFound: rUnknown, block.Invalid: rUnknown, block.Permission: rPolicy,
		block.Busy: rPolicy, block.Unavailable: rShutdown, block.Fenced: rPolicy} {
		p := hello(t, start(t, errBackend{kind}))
		p.option(oGo, infoData("vol"))
		if text := p.wantReply(oGo, want); string(text) != "open: some reason" {
			t.Errorf("text is %q", text)
		}
		p.option(oList, nil)
		if _, typ, _ := p.reply(); typ&(1<<31) == 0 {
			t.Errorf("LIST of a failing backend answers %#x", typ)
		}
	}
}

func TestTooManyOptions(t *testing.T) {
	r := start(t, newVol(), func(o *nbdserver.Options) { o.Limits.Options = 8 })
	p := hello(t, r)
	for range 8 {
		p.option(oList, nil)
		p.wantReply(oList, rServer)
		p.wantReply(oList, rAck)
	}
	p.wantClosed()
}

// TestSilentHandshake: a client that says nothing is closed at the deadline.
func TestSilentHandshake(t *testing.T) {
	r := start(t, newVol(), func(o *nbdserver.Options) { o.Limits.Handshake = 500 * time.Millisecond })
	dial(t, r).wantClosed()
	p := hello(t, r)
	p.write(optionBytes(oGo, make([]byte, 100))[:50])
	p.wantClosed()
}

func TestConnectionLimit(t *testing.T) {
	r := start(t, newVol(), func(o *nbdserver.Options) { o.Limits.Connections = 2 })
	a, b := enter(t, r, false), enter(t, r, false)
	nc, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	(&peer{t, nc}).wantClosed()
	a.wantAlive(false)
	b.wantAlive(false)
}
