package block

import "testing"

// TestIsZero looks at each byte of lengths around the piece that is compared at once.
func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 2, Size, len(zeroes), len(zeroes) + 1, 2*len(zeroes) + 3} {
		p := make([]byte, n)
		if !IsZero(p) {
			t.Errorf("%d zeroes are not zero", n)
		}
		for i := 0; i < n; i += max(1, n/257) {
			p[i] = 1
			if IsZero(p) {
				t.Errorf("byte %d of %d is not seen", i, n)
			}
			p[i] = 0
		}
	}
}
