package block

import "bytes"

var zeroes [64 << 10]byte

// IsZero reports whether all of p is zero.
func IsZero(p []byte) bool {
	if n := len(p); n > 0 && p[0]|p[n-1] != 0 { // most often it shows here
		return false
	}
	for len(p) > len(zeroes) {
		if !bytes.Equal(p[:len(zeroes)], zeroes[:]) {
			return false
		}
		p = p[len(zeroes):]
	}
	return bytes.Equal(p, zeroes[:len(p)])
}
