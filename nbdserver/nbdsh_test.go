package nbdserver_test

import (
	"testing"

	"github.com/slackerd/slacker/nbdserver/nbdtest"
)

// nbdsh runs a program of libnbd's shell with h not connected yet, path the
// server's socket, and a function to want an error.
func nbdsh(t *testing.T, r *rig, program string) {
	t.Helper()
	tool(t, "nbdsh", "-c", `
path = "`+r.path+`"
def refused(errno, f, *args, **kwargs):
    try:
        f(*args, **kwargs)
    except nbd.Error as e:
        assert e.errno == errno, (e.errno, e.string)
        return
    raise AssertionError("not refused")
`, "-c", program)
}

// TestNbdshExportName: a client of before fixed newstyle, which knows no option
// but EXPORT_NAME, with and without the zeroes behind it.
func TestNbdshExportName(t *testing.T) {
	r := start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(16<<20)))
	for _, flags := range []string{"0", "nbd.HANDSHAKE_FLAG_NO_ZEROES"} {
		nbdsh(t, r, `
h.set_handshake_flags(`+flags+`)
h.set_export_name("vol")
h.connect_unix(path)
assert h.get_protocol() == "newstyle", h.get_protocol()
assert h.get_size() == 16 * 1024 * 1024
assert h.can_flush() and h.can_fua() and h.can_trim() and h.can_zero() and not h.can_df()
h.pwrite(b"old" * 1000, 5000, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(3000, 5000) == b"old" * 1000
h.trim(4096, 8192)
h.zero(100, 5000)
assert h.pread(100, 5000) == bytearray(100)
h.shutdown()
`)
	}
	nbdsh(t, r, `
h.set_handshake_flags(0)
h.set_export_name("nope")
try:
    h.connect_unix(path)
except nbd.Error:
    pass
else:
    raise AssertionError("connected to an export that is not there")
`)
}

// TestNbdshOptions drives the negotiation option by option.
func TestNbdshOptions(t *testing.T) {
	m := nbdtest.NewMemory("vol", nbdtest.DefaultInfo(16<<20))
	m.Add("other", nbdtest.DefaultInfo(1<<20))
	nbdsh(t, start(t, stripes{m}), `
h.set_opt_mode(True)
h.connect_unix(path)
names = []
h.opt_list(lambda name, text: names.append(name))
assert names == ["other", "vol"], names
h.set_export_name("nope")
refused("ENOENT", h.opt_info)
h.set_export_name("other")
h.opt_info()
assert h.get_size() == 1024 * 1024
h.set_export_name("vol")
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation", "x-test:stripes", "x-test:plain"], contexts
h.add_meta_context("base:allocation")
h.add_meta_context("x-test:stripes")
h.add_meta_context("x-test:none")
h.opt_go()
assert h.get_structured_replies_negotiated() and h.get_protocol() == "newstyle-fixed"
assert h.can_meta_context("x-test:stripes") and not h.can_meta_context("x-test:none")
got = {}
h.block_status(16384, 4096, lambda name, off, es, err: got.update({name: (off, es)}))
assert got == {"base:allocation": (4096, [16384, 3]), "x-test:stripes": (4096, [4096, 1, 4096, 0, 4096, 1, 4096, 0])}, got
h.shutdown()
`)
}

// TestNbdshMisuse: commands that the library would not send are refused, and the
// connection goes on.
func TestNbdshMisuse(t *testing.T) {
	nbdsh(t, start(t, nbdtest.NewMemory("vol", nbdtest.DefaultInfo(16<<20))), `
h.set_export_name("vol")
h.add_meta_context("base:allocation")
h.connect_unix(path)
h.set_strict_mode(0)
size = h.get_size()
refused("EINVAL", h.pread, 4096, size)
refused("EINVAL", h.pread, 4096, 2 ** 63 - 1)
refused("ENOSPC", h.pwrite, b"x" * 4096, size - 1)
refused("EINVAL", h.trim, 4096, size)
refused("ENOSPC", h.zero, 4096, size)
refused("EINVAL", h.cache, 4096, size)
refused("EINVAL", h.block_status, 4096, size, lambda *a: 0)
refused("EINVAL", h.pwrite, b"x", 0, nbd.CMD_FLAG_REQ_ONE)
refused("EINVAL", h.trim, 4096, 0, nbd.CMD_FLAG_NO_HOLE)
refused("EINVAL", h.flush, nbd.CMD_FLAG_DF)
h.pwrite(b"y" * 70000, 1000)
chunks = []
buf = h.pread_structured(70000, 1000, lambda b, off, status, err: chunks.append((len(b), off)), nbd.CMD_FLAG_DF)
assert buf == b"y" * 70000 and chunks == [(70000, 1000)], chunks
cookies = [h.aio_pread(nbd.Buffer(65536), i * 65536) for i in range(64)]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(h.aio_command_completed(c) for c in cookies)
h.shutdown()
`)
}
