package nbdserver

import (
	"sync"
	"sync/atomic"
)

// keepIdle is how many goroutines of a connection wait for work.
const keepIdle = 8

// workers are the goroutines that run the commands of one connection that may
// wait. Only the reading goroutine calls do and stop.
type workers struct {
	c       *conn
	max     int32
	work    chan request
	running atomic.Int32
	idle    atomic.Int32
	busy    atomic.Int32 // commands given out and not done
	wg      sync.WaitGroup
}

func (w *workers) init(c *conn, limit int) {
	w.c, w.max, w.work = c, int32(limit), make(chan request)
}

// do hands a command out. When all goroutines are busy it sends what is ready
// and waits for one.
func (w *workers) do(r *request) {
	w.busy.Add(1)
	select {
	case w.work <- *r:
		return
	default:
	}
	if w.running.Load() < w.max {
		w.running.Add(1)
		w.wg.Add(1)
		go w.loop(*r)
		return
	}
	w.c.flush()
	w.work <- *r
}

// loop runs commands. It ends when enough others wait for work; since those
// that are busy come back to look for work, none that is sent stays untaken.
func (w *workers) loop(r request) {
	defer w.wg.Done()
	defer w.running.Add(-1)
	m := w.c.measured()
	for ok := true; ok; {
		w.c.run(&r, m)
		w.busy.Add(-1)
		select {
		case r, ok = <-w.work:
			continue
		default:
		}
		if w.idle.Add(1) > keepIdle {
			w.idle.Add(-1)
			return
		}
		r, ok = <-w.work
		w.idle.Add(-1)
	}
}

// stop waits until everything that was handed out is done.
func (w *workers) stop() {
	close(w.work)
	w.wg.Wait()
}
