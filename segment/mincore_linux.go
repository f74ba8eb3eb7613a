package segment

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mincore sets bit 0 of a byte of vec for each page of mem that is in memory.
func mincore(mem, vec []byte) error {
	_, _, e := unix.RawSyscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&vec[0])))
	if e != 0 {
		return e
	}
	return nil
}
