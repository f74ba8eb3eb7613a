package snapshotter

import "sync"

// locks are held by name. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	sync.Mutex
	users int // who hold it or wait for it
}

// lock takes the lock of that name and returns what gives it back.
func (l *locks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()
	k.Lock()
	return func() {
		k.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, name)
		}
	}
}

// flight are the volumes that requests in progress work with and no record
// names yet. The zero value is ready.
type flight struct {
	mu      sync.Mutex
	volumes map[string]bool
}

func (f *flight) add(volume string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.volumes == nil {
		f.volumes = map[string]bool{}
	}
	f.volumes[volume] = true
}

func (f *flight) done(volume string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.volumes, volume)
}

func (f *flight) has(volume string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.volumes[volume]
}
