package naming

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// TestNames wants each name to be told apart again, and what is none to be refused.
func TestNames(t *testing.T) {
	const p = DefaultPrefix
	id := digest.FromString("x").String()
	place := p.Place(id)
	if want := "containers/chains/" + strings.Replace(id, ":", "-", 1) + "@layer"; place != want {
		t.Errorf("place %s, want %s", place, want)
	}
	for _, none := range []string{"", "sha256:", id[1:], id + "0", strings.ToUpper(id), strings.Replace(id, ":", "-", 1), id + "@layer"} {
		if got := p.Place(none); got != "" {
			t.Errorf("id %q has the place %q, want none", none, got)
		}
	}
	own := p.Store("w-1", "abc")
	worker, store, rest, ok := p.Own(own + "d-e")
	if worker != "w-1" || store != "abc" || rest != "d-e" || !ok {
		t.Errorf("%sd-e is of %q, %q, %q, %v", own, worker, store, rest, ok)
	}
	if _, _, rest, ok := p.Own(Beat(own, "d")); !ok || !IsBeat(rest) {
		t.Errorf("%s is no beat", Beat(own, "d"))
	}
	for _, none := range []string{"", place, p.Work(), p.Work() + "w", p.Work() + "w/abc", "x" + own} {
		if _, _, _, ok := p.Own(none); ok {
			t.Errorf("%q is a store's own, want it somebody else's", none)
		}
	}
}

// TestNext counts as the specification's own code does.
func TestNext(t *testing.T) {
	var all []digest.Digest
	id := ""
	for _, layer := range []string{"a", "b", "c", "d"} {
		d := digest.FromString(layer)
		all = append(all, d)
		id = Next(id, d.String())
		if want := identity.ChainID(all).String(); id != want {
			t.Errorf("%d layers: %s, want %s", len(all), id, want)
		}
	}
}
