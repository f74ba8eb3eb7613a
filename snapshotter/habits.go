package snapshotter

import (
	"slices"
	"sync"
	"time"

	"github.com/slackerd/slacker/boottrace"
)

const (
	// maxHabits is of how many places it is known what their containers open.
	maxHabits = 16
	// maxWatched is how many containers are watched at once, and watchFor how long one
	// is: it covers the last look.
	maxWatched = 8
	watchFor   = 10 * time.Second
)

// habits are what containers open when they start, by place, and the containers that
// are watched for that. The zero value is ready.
type habits struct {
	mu      sync.Mutex
	list    []habit // the one used last comes last
	watched []watched
}

type habit struct {
	place string
	files []boottrace.File
	// told is how many pages of files the server knows of.
	told uint64
}

type watched struct {
	place, volume string
	opens         *opens
}

// watch notes that a container on a volume is watched, for a while.
func (h *habits) watch(w watched) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched = append(h.watched, w)
	if len(h.watched) > maxWatched {
		h.watched[0].opens.close()
		h.watched = slices.Delete(h.watched, 0, 1)
	}
	time.AfterFunc(watchFor, func() { h.unwatch(w.volume) })
}

// watchedOn returns what is watched on a volume.
func (h *habits) watchedOn(volume string) (w watched, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.IndexFunc(h.watched, func(w watched) bool { return w.volume == volume }); i >= 0 {
		return h.watched[i], true
	}
	return w, false
}

// unwatch ends the watch of a volume, of all when it is "".
func (h *habits) unwatch(volume string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watched = slices.DeleteFunc(h.watched, func(w watched) bool {
		if w.volume != volume && volume != "" {
			return false
		}
		w.opens.close()
		return true
	})
}

// of returns the files that containers of a place open.
func (h *habits) of(place string) []boottrace.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(place); i >= 0 {
		return h.list[i].files
	}
	return nil
}

func (h *habits) index(place string) int {
	return slices.IndexFunc(h.list, func(h habit) bool { return h.place == place })
}

// learn adds what a container has opened to the habits of its place; what was opened
// last comes first.
func (h *habits) learn(place string, files []boottrace.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.pull(place)
	of.files = merge(files, of.files)
	h.push(of)
}

// hear adds what the server has told of a place behind what is known already.
func (h *habits) hear(place string, files []boottrace.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.pull(place)
	of.files, of.told = merge(of.files, files), max(of.told, pagesOf(files))
	h.push(of)
}

// news returns what is known of a place if that is worth telling to the server: a tenth
// more than it knows.
func (h *habits) news(place string) []boottrace.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(place); i >= 0 && pagesOf(h.list[i].files) > h.list[i].told+h.list[i].told/10 {
		return h.list[i].files
	}
	return nil
}

// told notes that the server knows of these files now.
func (h *habits) told(place string, files []boottrace.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.index(place); i >= 0 {
		h.list[i].told = pagesOf(files)
	}
}

// pull takes the habits of a place out of the list, push puts them at its end.
func (h *habits) pull(place string) habit {
	i := h.index(place)
	if i < 0 {
		return habit{place: place}
	}
	of := h.list[i]
	h.list = slices.Delete(h.list, i, i+1)
	return of
}

func (h *habits) push(of habit) {
	h.list = append(h.list, of)
	h.list = h.list[max(0, len(h.list)-maxHabits):]
}

// merge returns first and those of then that it has not, as many as
// a trace may have.
func merge(first, then []boottrace.File) []boottrace.File {
	there := map[string]bool{}
	for _, f := range first {
		there[f.Path] = true
	}
	all := slices.Clone(first)
	for _, f := range then {
		if !there[f.Path] {
			all = append(all, f)
		}
	}
	all = all[:min(len(all), boottrace.MaxFiles)]
	left := uint64(boottrace.MaxFilePages)
	for i := range all {
		n := pagesOf(all[i : i+1])
		if n > left {
			return all[:i]
		}
		left -= n
	}
	return all
}

func pagesOf(files []boottrace.File) (n uint64) {
	for _, f := range files {
		for _, r := range f.Runs {
			n += r.Count
		}
	}
	return n
}
