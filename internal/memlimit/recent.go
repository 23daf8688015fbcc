package memlimit

import (
	"sync"
	"time"
)

// An answer is believed for recentFor by who takes less than a part in ampleShare of it. Others may have taken much in
// the meantime, but then it is they who matter: what is taken on top is small beside what they took.
const (
	recentFor  = 50 * time.Millisecond
	ampleShare = 16
)

// Recent is [Available] for those who ask many times a second for little. The zero value is ready; methods may be
// called at the same time.
type Recent struct {
	mu    sync.Mutex
	at    time.Time
	bytes int64
	ok    bool
}

// Available is [Available] for somebody who takes up to most bytes.
func (r *Recent) Available(most int64) (available int64, ok bool) {
	return r.availableFrom(most, Available)
}

func (r *Recent) availableFrom(most int64, ask func() (int64, bool)) (available int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || time.Since(r.at) >= recentFor || r.ok && most > r.bytes/ampleShare {
		r.bytes, r.ok = ask()
		r.at = time.Now()
	}
	return r.bytes, r.ok
}
