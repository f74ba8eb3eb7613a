package apiserver

import (
	"strings"

	"github.com/slackerd/slacker/block"
)

// MaxRequestBytes bounds one request; the largest honest one has a few names.
const MaxRequestBytes = 64 << 10

// checkSize refuses what is no size of a volume.
func checkSize(what string, sizeBytes uint64) error {
	var nearest uint64
	switch {
	case sizeBytes > block.MaxVolumeBytes:
		nearest = block.MaxVolumeBytes
	case sizeBytes == 0:
		nearest = block.Size
	case sizeBytes%block.Size != 0:
		nearest = (sizeBytes + block.Size - 1) / block.Size * block.Size
	default:
		return nil
	}
	return block.Errorf(block.Invalid, "%s: size of %d bytes: want a multiple of %d from %d to %d; the nearest good size is %d",
		what, sizeBytes, block.Size, block.Size, uint64(block.MaxVolumeBytes), nearest)
}

// checkSnapshot checks both parts of VOLUME@SNAPSHOT.
func checkSnapshot(volume, snapshot string) error {
	if err := block.CheckVolumeName(volume); err != nil {
		return err
	}
	return block.CheckSnapshotName(snapshot)
}

// checkTarget checks VOLUME or VOLUME@SNAPSHOT.
func checkTarget(target string) error {
	if !strings.Contains(target, "@") {
		return block.CheckVolumeName(target)
	}
	_, _, err := block.SplitSnapshot(target)
	return err
}

// checkText checks an id or the name of a worker: what it is (in words), and
// its value.
func checkText(what, s string) error {
	if s == "" || len(s) > block.MaxNameBytes {
		return block.Errorf(block.Invalid, "%s %.40q has %d bytes: want 1 to %d", what, s, len(s), block.MaxNameBytes)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return block.Errorf(block.Invalid, "%s %q: want printable ASCII characters without blanks", what, s)
		}
	}
	return nil
}
