package worker

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// deviceStat is what the kernel has counted of a block device since it made it,
// for this attachment and those before it on the same device.
type deviceStat struct {
	device     string // nbd0
	operations []deviceOperation
	inFlight   uint64
}

type deviceOperation struct {
	name         string
	count, bytes uint64
	took         time.Duration // the sum over all
}

// deviceOperations are the fields of /sys/block/NAME/stat that an operation begins
// with: how many, how many were merged into others, sectors of 512 bytes and
// milliseconds; of a flush, how many and milliseconds. Linux 5.5 has all of them.
var deviceOperations = []struct {
	name               string
	count, bytes, took int
}{{"read", 0, 2, 3}, {"write", 4, 6, 7}, {"discard", 11, 13, 14}, {"flush", 15, -1, 16}}

const (
	deviceInFlight = 8 // the field
	sectorBytes    = 512
)

// stat reads the counters of a device; nil where the kernel shows none.
func (d nbdDriver) stat(device string) *deviceStat {
	b, err := os.ReadFile(d.sys("block", device, "stat"))
	if err != nil {
		return nil // detached just now
	}
	var fields []uint64
	for _, text := range strings.Fields(string(b)) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil
		}
		fields = append(fields, n)
	}
	if len(fields) <= deviceInFlight {
		return nil
	}
	s := &deviceStat{device: device, inFlight: fields[deviceInFlight]}
	for _, o := range deviceOperations {
		if o.took >= len(fields) {
			break
		}
		op := deviceOperation{name: o.name, count: fields[o.count], took: time.Duration(fields[o.took]) * time.Millisecond}
		if o.bytes >= 0 {
			op.bytes = fields[o.bytes] * sectorBytes
		}
		s.operations = append(s.operations, op)
	}
	return s
}
