package nbdserver

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logPause is how long a message that strangers can cause is not logged again.
const logPause = time.Second

// rarely logs a message at most once in logPause, and tells then how many were
// left out. Whoever may connect could fill a disk with logs otherwise.
type rarely struct {
	mu   sync.Mutex
	next time.Time
	left int
}

func (r *rarely) log(l *zap.Logger, level zapcore.Level, text string, fields ...zap.Field) {
	r.mu.Lock()
	now := time.Now()
	if now.Before(r.next) {
		r.left++
		r.mu.Unlock()
		return
	}
	left := r.left
	r.next, r.left = now.Add(logPause), 0
	r.mu.Unlock()
	l.Log(level, text, append(fields, zap.Int("left_out_before", left))...)
}
