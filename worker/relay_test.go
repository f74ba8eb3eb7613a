package worker

import (
	"io"
	"net"
	"testing"
)

// TestRelay: bytes pass both ways, and the end of one side is that of the other.
func TestRelay(t *testing.T) {
	far, conn := net.Pipe()
	f, err := relay(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 4)
	if _, err := f.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("%q, %v", buf, err)
	}
	if _, err := far.Write([]byte("pong")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(f, buf); err != nil || string(buf) != "pong" {
		t.Fatalf("%q, %v", buf, err)
	}
	if isDead(f) {
		t.Fatal("it is dead while both sides live")
	}
	_ = far.Close()
	if _, err := f.Read(buf); err != io.EOF || !isDead(f) {
		t.Fatalf("after the end of the far side: %v, dead %v", err, isDead(f))
	}
}
