package check

import (
	"slices"

	"github.com/slackerd/slacker/block"
	"github.com/slackerd/slacker/cow"
)

// forest is the layers of the catalog and who names them.
type forest struct {
	audit  *cow.Audit
	layers map[block.LayerID]cow.LayerRecord
	kids   map[block.LayerID][]block.LayerID
	names  map[block.LayerID][]string
	// page is the last page that see looked at, by map.
	pageNo uint32
	pages  map[cow.MapID]*[cow.PageBlocks]cow.Entry
}

func newForest(a *cow.Audit) *forest {
	f := &forest{audit: a, layers: map[block.LayerID]cow.LayerRecord{}, kids: map[block.LayerID][]block.LayerID{},
		names: map[block.LayerID][]string{}}
	for _, l := range a.Catalog().Layers {
		f.layers[l.ID] = l
		if l.Parent < l.ID { // else it is damage, and might be a circle
			f.kids[l.Parent] = append(f.kids[l.Parent], l.ID)
		}
	}
	volumes := map[block.VolumeID]string{}
	for _, v := range a.Catalog().Volumes {
		volumes[v.ID] = v.Name
		f.names[v.Head] = append(f.names[v.Head], v.Name)
	}
	for _, s := range a.Catalog().Snapshots {
		f.names[s.Layer] = append(f.names[s.Layer], volumes[s.Volume]+"@"+s.Name)
	}
	return f
}

// below returns the names of a layer and of all on it.
func (f *forest) below(l block.LayerID) []string {
	return f.collect(l, func(block.LayerID) bool { return false })
}

// see returns the names that see the own entry which a layer has for a block:
// its own, and those of the layers on it down to where another entry hides it.
// What cannot be read hides nothing.
func (f *forest) see(l block.LayerID, i block.Index) []string {
	return f.collect(l, func(k block.LayerID) bool {
		es, err := f.page(f.layers[k].Map, uint32(i/cow.PageBlocks))
		return err == nil && !es[i%cow.PageBlocks].IsAbsent()
	})
}

func (f *forest) collect(l block.LayerID, hides func(block.LayerID) bool) (names []string) {
	for todo := []block.LayerID{l}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		names = append(names, f.names[at]...)
		for _, k := range f.kids[at] {
			if !hides(k) {
				todo = append(todo, k)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (f *forest) page(m cow.MapID, pageNo uint32) (*[cow.PageBlocks]cow.Entry, error) {
	if f.pages == nil || f.pageNo != pageNo {
		f.pageNo, f.pages = pageNo, map[cow.MapID]*[cow.PageBlocks]cow.Entry{}
	}
	if es := f.pages[m]; es != nil {
		return es, nil
	}
	es := new([cow.PageBlocks]cow.Entry)
	if err := f.audit.Page(m, pageNo, es); err != nil {
		return nil, err
	}
	f.pages[m] = es
	return es, nil
}
