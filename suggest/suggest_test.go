package suggest

import (
	"math/rand/v2"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"web", "debian", "debian@v1", "production/database"}
	for want, near := range map[string]string{"wbe": "", "wen": "web", "WEB": "web", "debain": "debian", "debian@v2": "debian@v1",
		"prod": "production/database", "x": "", "database": "", "de": ""} {
		if got := Nearest(want, names); got != near {
			t.Errorf("Nearest %q: %q, want %q", want, got, near)
		}
	}
}

// distance agrees with the plain definition.
func TestDistance(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		b := make([]byte, r.IntN(6))
		for i := range b {
			b[i] = "ab/"[r.IntN(3)]
		}
		return string(b)
	}
	for range 500 {
		a, b := word(), word()
		if got, want := distance(a, b, 100), plainDistance(a, b); got != want {
			t.Fatalf("distance of %q and %q: %d, want %d", a, b, got, want)
		}
	}
}

func plainDistance(a, b string) int {
	switch {
	case a == "" || b == "":
		return len(a) + len(b)
	case a[0] == b[0]:
		return plainDistance(a[1:], b[1:])
	default:
		return 1 + min(plainDistance(a[1:], b), plainDistance(a, b[1:]), plainDistance(a[1:], b[1:]))
	}
}
