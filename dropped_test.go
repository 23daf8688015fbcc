package warmtier

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/record"
)

// told collects what OnDrop was told.
type told struct {
	mu    sync.Mutex
	drops map[string][]Drop
}

func (l *told) add(d Drop) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.drops == nil {
		l.drops = map[string][]Drop{}
	}
	d.Content = bytes.Clone(d.Content)
	l.drops[d.ID] = append(l.drops[d.ID], d)
}

// Goal: OnDrop is told once of each memory that was dropped, with its content and the reason, and of none that was
// overwritten, deleted or copied.
func TestOnDrop_OnceOfEach(t *testing.T) {
	const n, size = 1200, 200
	for _, kind := range compactionKinds() {
		t.Run(kind.name, func(t *testing.T) {
			clock := newTestClock()
			var l told
			opts := *kind.opts
			opts.OnDrop = l.add
			h := dropping(func(i int) bool { return i%4 == 1 }, nil)
			h.now = clock.Load
			s := openTest(t, &opts, h)
			for i := range n {
				if i%4 == 0 {
					require.NoError(t, s.PutTTL(idOf(i), contentOf(i, 0, size), time.Minute))
				} else {
					fill(t, s, i, i+1, size)
				}
			}
			deleteWhere(t, s, 0, n, func(i int) bool { return i%20 == 3 })
			clock.pass(time.Hour)
			mustCompact(t, s)
			mustCompact(t, s)
			for i := range n {
				got := l.drops[idOf(i)]
				switch i % 4 {
				case 0:
					require.Equal(t, []Drop{{idOf(i), contentOf(i, 0, size), Expired}}, got)
				case 1:
					require.Equal(t, []Drop{{idOf(i), contentOf(i, 0, size), Evicted}}, got)
				default:
					require.Empty(t, got)
				}
			}
			bytes := n / 4 * int64(record.Size(len(idOf(0)), size))
			require.Equal(t, DropStats{Expired: n / 4, Evicted: n / 4, EvictedBytes: bytes}, s.Stats().Drops)
		})
	}
}

// Goal: an OnDrop that panics or ends its goroutine costs that call alone.
func TestOnDrop_DoesNotReturn(t *testing.T) {
	const n = 300
	calls := 0
	opts := quiet()
	opts.OnDrop = func(Drop) {
		switch calls++; calls % 3 {
		case 0:
			panic("of the callback")
		case 1:
			runtime.Goexit()
		}
	}
	s := openTest(t, opts, dropping(all, nil))
	fill(t, s, 0, n, 50)
	deleteWhere(t, s, n-1, n, all)
	mustCompact(t, s)
	require.Equal(t, s.Stats().Drops.Evicted, int64(calls))
	require.EqualValues(t, calls/3+(calls+2)/3, s.Stats().Drops.Failures)
}

// Goal: OnDrop may call the store, Close included; what it holds stays valid until it returns.
func TestOnDrop_CallsTheStore(t *testing.T) {
	const n, size = 300, 50
	var s *Store
	told, ended := 0, make(chan struct{})
	opts := quiet()
	opts.OnDrop = func(d Drop) {
		i := numberOf(d.ID)
		require.False(t, s.Has(d.ID))
		switch told++; told {
		case 1:
			require.NoError(t, s.Put(d.ID, d.Content))
			_, err := s.Compact(t.Context())
			require.ErrorIs(t, err, ErrCompactionInProgress)
		case 2:
			require.NoError(t, s.Close())
		case n - 1:
			defer close(ended)
		}
		require.Equal(t, contentOf(i, 0, size), d.Content)
	}
	s = openTest(t, opts, dropping(all, nil))
	fill(t, s, 0, n, size)
	deleteWhere(t, s, n-1, n, all)
	_, _ = s.Compact(t.Context()) // Close may have cut it off
	<-ended
	require.True(t, s.isClosed())
	require.True(t, waitFor(func() bool { return s.mapper.bytes.Load() == 0 }), "pins stay")
}
