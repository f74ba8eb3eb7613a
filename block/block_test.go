package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
)

func TestChecksumCoversIndexAndData(t *testing.T) {
	data := []byte(strings.Repeat("slacker!", Size/8))
	for _, i := range []Index{0, 1, 255, 1 << 35, 1<<36 - 1} {
		whole := append(binary.LittleEndian.AppendUint64(nil, uint64(i)), data...)
		if got, want := Checksum(i, data), crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli)); got != want {
			t.Errorf("index %d: got %08x, want %08x", i, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Checksum(7, data) }); n != 0 {
		t.Errorf("a checksum allocates %v times", n)
	}
}

func TestAddr(t *testing.T) {
	a := MakeAddr(MaxSegmentID, MaxSegmentBlocks-1)
	if a.Segment() != MaxSegmentID || a.Block() != MaxSegmentBlocks-1 {
		t.Errorf("%v does not round trip", a)
	}
	for _, f := range []func(){func() { MakeAddr(MaxSegmentID+1, 0) }, func() { MakeAddr(1, MaxSegmentBlocks) }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("an address out of range was made")
				}
			}()
			f()
		}()
	}
}

func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "a/b": true, "Debian-12.4_x": true, strings.Repeat("a", MaxNameBytes): true,
		"": false, "/a": false, "a/": false, "a//b": false, ".a": false, "a b": false, "a@b": false, "a:b": false,
		"-a": false, "a/../b": false, "ä": false, "a\x00": false, strings.Repeat("a", MaxNameBytes+1): false,
	} {
		if err := CheckVolumeName(name); (err == nil) != good {
			t.Errorf("volume name %q: %v, want good: %v", name, err, good)
		}
	}
	for s, good := range map[string]bool{"a/b@c": true, "a": false, "a@": false, "@b": false, "a@b/c": false, "a@b@c": false} {
		v, n, err := SplitSnapshot(s)
		if (err == nil) != good || good && v+"@"+n != s {
			t.Errorf("%q: %q, %q, %v, want good: %v", s, v, n, err, good)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	cause := errors.New("cause")
	err := Errorf(NoSpace, "write %d: %w", 7, cause)
	outer := fmt.Errorf("more: %w", err)
	if !Is(outer, NoSpace) || Is(outer, IO) || !errors.Is(outer, cause) || err.Error() != "write 7: cause" {
		t.Errorf("%v: kind %v", outer, KindOf(outer))
	}
	if w := Wrap(IO, outer, "op"); KindOf(w) != NoSpace || w.Error() != "op: more: write 7: cause" {
		t.Errorf("%v: kind %v", w, KindOf(w))
	}
	if Wrap(IO, nil, "op") != nil || Is(nil, Internal) || KindOf(cause) != Internal || !Is(Wrap(IO, cause, "op"), IO) {
		t.Error("an error without a kind is misjudged")
	}
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k.String()] {
			t.Errorf("two kinds are called %q", k)
		}
		seen[k.String()] = true
	}
}
