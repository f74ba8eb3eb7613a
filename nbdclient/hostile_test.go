package nbdclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"

	"github.com/slackerd/slacker/block"
)

func writeBlank(t *testing.T, path string, sizeBytes int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, sizeBytes); err != nil {
		t.Fatal(err)
	}
}

func removeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

// shakeWith runs the handshake against a server that says script, whatever it
// is asked, and then closes.
func shakeWith(script []byte) (Info, error) {
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	go func() {
		go func() { _, _ = io.Copy(io.Discard, server) }()
		_, _ = server.Write(script)
		_ = server.Close()
	}()
	return handshakeStructured(client, "e")
}

const (
	optGo  = protocol.NEGOTIATION_ID_OPTION_GO
	repAck = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repInf = protocol.NEGOTIATION_TYPE_REPLY_INFO
)

func script(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func blockSizes(minimum, preferred, maximum uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0, 3}, minimum)
	b = binary.BigEndian.AppendUint32(b, preferred)
	return binary.BigEndian.AppendUint32(b, maximum)
}

func TestHostileHandshakes(t *testing.T) {
	noStructured := optionReply(optStructuredReply, errReplyUnsupported, nil)
	head := script(greeting(), noStructured)
	ack := optionReply(optGo, repAck, nil)
	info := optionReply(optGo, repInf, exportInfo(1<<20, FlagHasFlags))
	tooLong := optionReply(optGo, repInf, nil)
	binary.BigEndian.PutUint32(tooLong[16:], 1<<31)
	structured := script(greeting(), optionReply(optStructuredReply, repAck, nil))
	for name, c := range map[string]struct {
		script []byte
		want   block.Kind
	}{
		"nothing":             {nil, block.Unavailable},
		"cut greeting":        {greeting()[:9], block.Unavailable},
		"http":                {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), block.Unsupported},
		"oldstyle":            {script(greeting()[:8], make([]byte, 144)), block.Unsupported},
		"not fixed":           {script(greeting()[:16], []byte{0, 0}), block.Unsupported},
		"wrong option":        {script(head, optionReply(9, repAck, nil)), block.IO},
		"reply too long":      {script(head, tooLong), block.IO},
		"bad reply magic":     {script(head, make([]byte, 20)), block.IO},
		"no size":             {script(head, ack), block.IO},
		"short info":          {script(head, optionReply(optGo, repInf, []byte{0})), block.IO},
		"odd export info":     {script(head, optionReply(optGo, repInf, make([]byte, 11)), ack), block.IO},
		"size over int64":     {script(head, optionReply(optGo, repInf, exportInfo(1<<63, 1)), ack), block.IO},
		"block size 0":        {script(head, info, optionReply(optGo, repInf, blockSizes(0, 0, 0)), ack), block.IO},
		"block size 3":        {script(head, info, optionReply(optGo, repInf, blockSizes(3, 4096, 1<<20)), ack), block.IO},
		"block size 1M":       {script(head, info, optionReply(optGo, repInf, blockSizes(1<<20, 1<<20, 1<<20)), ack), block.IO},
		"maximum below":       {script(head, info, optionReply(optGo, repInf, blockSizes(4096, 4096, 512)), ack), block.IO},
		"preferred 5000":      {script(head, info, optionReply(optGo, repInf, blockSizes(512, 5000, 1<<20)), ack), block.IO},
		"endless info":        {script(head, bytes.Repeat(info, MaxOptionReplies+1)), block.IO},
		"unknown export":      {script(head, optionReply(optGo, errReplyUnknown, []byte("no\nsuch"))), block.NotFound},
		"policy":              {script(head, optionReply(optGo, errReplyPolicy, nil)), block.Permission},
		"tls":                 {script(head, optionReply(optGo, errReplyTLSRequired, nil)), block.Permission},
		"shutdown":            {script(head, optionReply(optGo, errReplyShutdown, nil)), block.Unavailable},
		"foreign context":     {script(structured, optionReply(optSetMetaContext, repMetaContext, []byte("\x00\x00\x00\x01evil"))), block.IO},
		"two contexts":        {script(structured, bytes.Repeat(optionReply(optSetMetaContext, repMetaContext, []byte("\x00\x00\x00\x01"+contextBaseAllocation)), 2)), block.IO},
		"cut in context":      {structured, block.Unavailable},
		"unknown error reply": {script(head, optionReply(optGo, repErrBit|77, nil)), block.IO},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := shakeWith(c.script); !block.Is(err, c.want) {
				t.Fatalf("error %v, want one of kind %v", err, c.want)
			}
		})
	}
	unknownInfo := optionReply(optGo, repInf, []byte{0x7f, 0xff, 1, 2, 3})
	got, err := shakeWith(script(head, unknownInfo, info, optionReply(optGo, repInf, blockSizes(512, 4096, 1<<31)), ack))
	if err != nil || got.SizeBytes != 1<<20 || got.MinBlockBytes != 512 || got.MaxPayloadBytes != block.MaxRequestBytes {
		t.Fatalf("info %+v, %v", got, err)
	}
}

// TestCutTLSHandshake: a server that goes away in the handshake of TLS has refused
// nobody, and one that answers it with something else has.
func TestCutTLSHandshake(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		want   block.Kind
	}{
		"end":       {nil, block.Unavailable},
		"cut":       {[]byte{22, 3, 3}, block.Unavailable},
		"alert":     {[]byte{21, 3, 3, 0, 2, 2, 48}, block.Permission}, // fatal: unknown_ca
		"plaintext": {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), block.Permission},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := net.Pipe()
			go func() {
				defer func() { _ = server.Close() }()
				_, _ = server.Write(greeting())
				_, _ = io.CopyN(io.Discard, server, 4+16) // flags, STARTTLS
				_, _ = server.Write(optionReply(optStartTLS, repAck, nil))
				_, _ = server.Read(make([]byte, 4096)) // hello
				_, _ = server.Write(c.answer)
			}()
			_, err := startTLS(t.Context(), client, Addr{"tcp", "localhost:10809"}, func() (*tls.Config, error) { return &tls.Config{}, nil })
			_ = client.Close()
			if !block.Is(err, c.want) {
				t.Errorf("error %v, want one of kind %v", err, c.want)
			}
		})
	}
}

// connWith makes a connection whose server answers with replies once the first
// request has come.
func connWith(replies []byte) *Conn {
	client, server := net.Pipe()
	c := NewConn(client, Addr{"unix", "/test"}, Info{SizeBytes: 1 << 20, Flags: 0xfff, MinBlockBytes: 1, PreferredBlockBytes: 4096,
		MaxPayloadBytes: block.MaxRequestBytes, Structured: true, Allocation: true, contextID: 5}, 0)
	go func() {
		if _, err := io.CopyN(io.Discard, server, requestHeaderBytes); err == nil {
			go func() { _, _ = io.Copy(io.Discard, server) }()
			_, _ = server.Write(replies)
		}
		_ = server.Close()
	}()
	return c
}

func chunkBytes(flags, typ uint16, cookie uint64, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, structuredReplyMagic)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func at(off uint64, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, off), rest...)
}

func simpleBytes(errno uint32, cookie uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, protocol.TRANSMISSION_MAGIC_REPLY)
	b = binary.BigEndian.AppendUint32(b, errno)
	return binary.BigEndian.AppendUint64(b, cookie)
}

func TestHostileReplies(t *testing.T) {
	read := func(c *Conn) error { return c.ReadAt(context.Background(), make([]byte, 16), 4096) }
	status := func(c *Conn) error { _, err := c.BlockStatus(context.Background(), 4096, 16); return err }
	flush := func(c *Conn) error { return c.Flush(context.Background()) }
	data16 := make([]byte, 16)
	huge := chunkBytes(1, chunkOffsetData, 1)
	binary.BigEndian.PutUint32(huge[16:], 1<<32-1)
	hugeStatus := chunkBytes(1, chunkBlockStatus, 1)
	binary.BigEndian.PutUint32(hugeStatus[16:], 1<<32-4)
	for name, c := range map[string]struct {
		do      func(*Conn) error
		replies []byte
		want    block.Kind
		dead    bool
	}{
		"closed":               {read, nil, block.Unavailable, true},
		"bad magic":            {read, make([]byte, 64), block.Unavailable, true},
		"unknown cookie":       {read, chunkBytes(1, chunkNone, 99), block.Unavailable, true},
		"simple data":          {read, script(simpleBytes(0, 1), data16), block.Unavailable, true},
		"simple error":         {read, simpleBytes(28, 1), block.NoSpace, false},
		"huge data":            {read, huge, block.Unavailable, true},
		"before the request":   {read, chunkBytes(1, chunkOffsetData, 1, at(4095, data16...)...), block.Unavailable, true},
		"beyond the request":   {read, chunkBytes(1, chunkOffsetData, 1, at(4097, data16...)...), block.Unavailable, true},
		"offset wraps":         {read, chunkBytes(1, chunkOffsetData, 1, at(1<<64-8, data16...)...), block.Unavailable, true},
		"too much":             {read, script(chunkBytes(0, chunkOffsetData, 1, at(4096, data16...)...), chunkBytes(1, chunkOffsetData, 1, at(4096, data16...)...)), block.Unavailable, true},
		"too little":           {read, chunkBytes(1, chunkOffsetData, 1, at(4096, data16[:15]...)...), block.Unavailable, true},
		"done without data":    {read, chunkBytes(1, chunkNone, 1), block.Unavailable, true},
		"empty data":           {read, chunkBytes(1, chunkOffsetData, 1, at(4096)...), block.Unavailable, true},
		"empty hole":           {read, chunkBytes(1, chunkOffsetHole, 1, at(4096, 0, 0, 0, 0)...), block.Unavailable, true},
		"hole too long":        {read, chunkBytes(1, chunkOffsetHole, 1, at(4096, 0, 0, 0, 17)...), block.Unavailable, true},
		"hole of 3 bytes":      {read, chunkBytes(1, chunkOffsetHole, 1, 1, 2, 3), block.Unavailable, true},
		"hole":                 {read, chunkBytes(1, chunkOffsetHole, 1, at(4096, 0, 0, 0, 16)...), block.Kind(255), false},
		"empty, not done":      {read, chunkBytes(0, chunkNone, 1), block.Unavailable, true},
		"status to a read":     {read, chunkBytes(1, chunkBlockStatus, 1, make([]byte, 12)...), block.Unavailable, true},
		"unknown type":         {read, chunkBytes(1, 77, 1), block.Unavailable, true},
		"errno 0":              {read, chunkBytes(1, chunkErrorBit|1, 1, 0, 0, 0, 0, 0, 0), block.Unavailable, true},
		"error text too long":  {read, chunkBytes(1, chunkErrorBit|1, 1, 0, 0, 0, 5, 0, 9), block.Unavailable, true},
		"error chunk":          {read, chunkBytes(1, chunkErrorBit|1, 1, 0, 0, 0, 5, 0, 2, 'h', '\n'), block.IO, false},
		"short error chunk":    {read, chunkBytes(1, chunkErrorBit|1, 1, 0, 0, 0, 5), block.Unavailable, true},
		"error offset missing": {read, chunkBytes(1, chunkErrorOffset, 1, 0, 0, 0, 5, 0, 0), block.Unavailable, true},
		"unknown error type":   {read, chunkBytes(1, chunkErrorBit|99, 1, 0, 0, 0, 22, 0, 0), block.Invalid, false},
		"shutdown":             {flush, simpleBytes(108, 1), block.Unavailable, false},
		"data for a flush":     {flush, chunkBytes(1, chunkOffsetData, 1, at(0, 1)...), block.Unavailable, true},
		"status, simple":       {status, simpleBytes(0, 1), block.Unavailable, true},
		"status, none":         {status, chunkBytes(1, chunkNone, 1), block.Unavailable, true},
		"status, huge":         {status, hugeStatus, block.Unavailable, true},
		"status, context":      {status, chunkBytes(1, chunkBlockStatus, 1, 0, 0, 0, 6, 0, 0, 0, 16, 0, 0, 0, 0), block.Unavailable, true},
		"status, zero run":     {status, chunkBytes(1, chunkBlockStatus, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0), block.Unavailable, true},
		"status, odd":          {status, chunkBytes(1, chunkBlockStatus, 1, 0, 0, 0, 5, 0), block.Unavailable, true},
		"status, beyond":       {status, chunkBytes(1, chunkBlockStatus, 1, 0, 0, 0, 5, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0), block.Unavailable, true},
		"status, fine":         {status, chunkBytes(1, chunkBlockStatus, 1, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0, 0, 3), block.Kind(255), false},
	} {
		t.Run(name, func(t *testing.T) {
			conn := connWith(script(c.replies))
			defer func() { _ = conn.Close() }()
			err := c.do(conn)
			if c.want == block.Kind(255) {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !block.Is(err, c.want) {
				t.Fatalf("error %v, want one of kind %v", err, c.want)
			}
			if bytes.ContainsRune([]byte(err.Error()), '\n') {
				t.Fatalf("error %q has a line break of the server's", err)
			}
			if !c.dead {
				return
			}
			if err := conn.Flush(context.Background()); !block.Is(err, block.Unavailable) {
				t.Fatalf("a request after the violation: %v", err)
			}
		})
	}
}

func FuzzHandshake(f *testing.F) {
	f.Add(script(greeting(), optionReply(optStructuredReply, errReplyUnsupported, nil), optionReply(optGo, repInf, exportInfo(1<<20, 1)), optionReply(optGo, repAck, nil)))
	f.Add(script(greeting(), optionReply(optStructuredReply, repAck, nil), optionReply(optSetMetaContext, repMetaContext, []byte("\x00\x00\x00\x01"+contextBaseAllocation))))
	f.Fuzz(func(t *testing.T, script []byte) {
		if info, err := shakeWith(script); err == nil && (info.MinBlockBytes == 0 || info.MaxPayloadBytes < info.MinBlockBytes) {
			t.Fatalf("accepted %+v", info)
		}
	})
}

func FuzzReplies(f *testing.F) {
	f.Add(uint8(0), chunkBytes(1, chunkOffsetData, 1, at(4096, make([]byte, 16)...)...))
	f.Add(uint8(1), chunkBytes(1, chunkBlockStatus, 1, 0, 0, 0, 5, 0, 0, 1, 0, 0, 0, 0, 3))
	f.Add(uint8(2), simpleBytes(5, 1))
	f.Add(uint8(0), chunkBytes(1, chunkErrorBit|1, 1, 0, 0, 0, 5, 0, 2, 'h', 'i'))
	f.Fuzz(func(t *testing.T, kind uint8, replies []byte) {
		c := connWith(replies)
		defer func() { _ = c.Close() }()
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		switch kind % 3 {
		case 0:
			_ = c.ReadAt(ctx, make([]byte, 16), 4096)
		case 1:
			extents, err := c.BlockStatus(ctx, 4096, 16)
			var sum uint64
			for _, e := range extents {
				sum += e.LengthBytes
			}
			if err == nil && (sum == 0 || sum > 16) {
				t.Fatalf("block status %+v", extents)
			}
		case 2:
			_ = c.Flush(ctx)
		}
		if ctx.Err() != nil {
			t.Fatal("hangs")
		}
	})
}
