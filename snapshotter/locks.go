package snapshotter

import (
	"context"
	"sync"

	"github.com/slackerd/slacker/block"
)

// locks are held by name. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	free  chan struct{} // holds one value while nobody has the lock
	users int           // who hold it or wait for it
}

// lock takes the lock of that name and returns what gives it back. It waits no
// longer than ctx says (N6).
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{free: make(chan struct{}, 1)}
		k.free <- struct{}{}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()
	select {
	case <-k.free:
		return func() {
			k.free <- struct{}{}
			l.leave(name, k)
		}, nil
	case <-ctx.Done():
		l.leave(name, k)
		return nil, block.Errorf(block.Unavailable, "%s is busy with another request: %w", name, context.Cause(ctx))
	}
}

// volumeLock is the lock of who works on a volume beside the requests for its key:
// takes it down, or reads ahead on it.
func volumeLock(volume string) string { return "volume " + volume }

// awaited reports whether somebody waits for a lock that is held.
func (l *locks) awaited(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[name]
	return k != nil && k.users > 1
}

func (l *locks) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
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
