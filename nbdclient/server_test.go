package nbdclient

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// fakeServer is an NBD server under the control of a test: a shared memory
// disk, simple replies, and hooks that decide what happens to a connection.
type fakeServer struct {
	addr string
	mu   sync.Mutex
	disk []byte
	open map[string]net.Conn
	seen []string // names asked for, in order

	accept  func(name string) bool                        // false: refuse as unknown
	request func(name string, typ uint16, off uint64) int // what to do with a request
	held    sync.WaitGroup
}

// What a request hook may decide.
const (
	serve = iota
	dropConnection
	answerShutdown
)

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fake")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{addr: "unix://" + path, disk: make([]byte, 1<<20), open: map[string]net.Conn{},
		accept: func(string) bool { return true }, request: func(string, uint16, uint64) int { return serve }}
	f.held.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.held.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.dropAll()
		f.held.Wait()
	})
	return f
}

// dropAll closes every connection, as a server that is killed.
func (f *fakeServer) dropAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.open {
		_ = c.Close()
	}
}

func (f *fakeServer) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.seen...)
}

func greeting() []byte {
	b := binary.BigEndian.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OLDSTYLE)
	b = binary.BigEndian.AppendUint64(b, protocol.NEGOTIATION_MAGIC_OPTION)
	return binary.BigEndian.AppendUint16(b, 3)
}

func optionReply(option, typ uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_REPLY)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func exportInfo(size uint64, flags Flags) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0, 0}, size)
	return binary.BigEndian.AppendUint16(b, uint16(flags))
}

func (f *fakeServer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	name, ok := f.negotiate(c)
	if !ok {
		return
	}
	f.mu.Lock()
	f.open[name] = c
	f.mu.Unlock()
	for f.one(c, name) {
	}
}

func (f *fakeServer) negotiate(c net.Conn) (name string, ok bool) {
	if _, err := c.Write(greeting()); err != nil {
		return "", false
	}
	if _, err := io.CopyN(io.Discard, c, 4); err != nil {
		return "", false
	}
	for {
		var h [16]byte
		if _, err := io.ReadFull(c, h[:]); err != nil {
			return "", false
		}
		option, data := binary.BigEndian.Uint32(h[8:]), make([]byte, binary.BigEndian.Uint32(h[12:]))
		if _, err := io.ReadFull(c, data); err != nil {
			return "", false
		}
		if option != protocol.NEGOTIATION_ID_OPTION_GO {
			_, _ = c.Write(optionReply(option, errReplyUnsupported, nil))
			continue
		}
		name := string(data[4 : 4+binary.BigEndian.Uint32(data)])
		f.mu.Lock()
		f.seen = append(f.seen, name)
		f.mu.Unlock()
		if !f.accept(name) {
			_, _ = c.Write(optionReply(option, errReplyUnknown, []byte("gone")))
			return "", false
		}
		reply := optionReply(option, protocol.NEGOTIATION_TYPE_REPLY_INFO, exportInfo(1<<20, FlagHasFlags|FlagSendFlush|FlagCanMultiConn))
		_, err := c.Write(append(reply, optionReply(option, protocol.NEGOTIATION_TYPE_REPLY_ACK, nil)...))
		return name, err == nil
	}
}

func (f *fakeServer) one(c net.Conn, name string) bool {
	var h [requestHeaderBytes]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		return false
	}
	typ, off, n := binary.BigEndian.Uint16(h[6:]), binary.BigEndian.Uint64(h[16:]), uint64(binary.BigEndian.Uint32(h[24:]))
	if typ == protocol.TRANSMISSION_TYPE_REQUEST_DISC {
		return false
	}
	var payload []byte
	if typ == protocol.TRANSMISSION_TYPE_REQUEST_WRITE {
		payload = make([]byte, n)
		if _, err := io.ReadFull(c, payload); err != nil {
			return false
		}
	}
	errno := uint32(0)
	switch f.request(name, typ, off) {
	case dropConnection:
		return false
	case answerShutdown:
		errno = errnoShutdown
	}
	reply := binary.BigEndian.AppendUint32(nil, protocol.TRANSMISSION_MAGIC_REPLY)
	reply = binary.BigEndian.AppendUint32(reply, errno)
	reply = append(reply, h[8:16]...)
	if errno == 0 {
		f.mu.Lock()
		copy(f.disk[off:], payload)
		if typ == protocol.TRANSMISSION_TYPE_REQUEST_READ {
			reply = append(reply, f.disk[off:off+n]...)
		}
		f.mu.Unlock()
	}
	_, err := c.Write(reply)
	return err == nil
}
