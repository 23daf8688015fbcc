package cluster_test

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// moving is how Olric's line in the log begins, of a fragment that it is about to move.
const moving = "[INFO] Moving DMap"

// lines counts lines of Olric that begin in a certain way.
type lines struct {
	slog.Handler
	begin string
	mu    *sync.Mutex
	seen  map[string]int
}

func (lines) Enabled(context.Context, slog.Level) bool { return true }

func (l lines) Handle(_ context.Context, record slog.Record) error {
	if strings.HasPrefix(record.Message, l.begin) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.seen[record.Message]++
	}
	return nil
}

func (l lines) most() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := 0
	for _, n := range l.seen {
		most = max(most, n)
	}
	return most
}

// Olric moves a copy that a node should no longer have to one of the owners, and drops it. Where other owners are new
// too, and believe that they have everything, nobody would have anything to offer to them: a node keeps what it has
// until it has offered it.
func TestOffer_BeforeOlricMoves(t *testing.T) {
	moves := lines{slog.DiscardHandler, moving, new(sync.Mutex), make(map[string]int)}
	var offers heldOffers
	all := nodes(t, 4, func(i int, opts *cluster.Options) {
		opts.Partitions = 71 // so many that of some both owners are new
		if i == 0 {
			opts.Logger = slog.New(moves)
			cluster.BeforeOffers(opts, offers.wait)
		}
	})
	l := newLedger()
	l.fill(t, all[1], 800)
	release := offers.hold(t)
	moves.mu.Lock()
	clear(moves.seen)
	moves.mu.Unlock()
	require.NoError(t, all[3].Close())
	all = all[:3]
	// The others have looked, and have nothing to offer to themselves.
	require.Eventually(t, func() bool {
		settled := 0
		for _, node := range all[1:] {
			if s := node.Stats(); s.Settled && len(s.Members) == 3 {
				settled++
			}
		}
		return settled == 2
	}, within, 10*time.Millisecond)
	// Olric has tried to move what the first node holds, and tries again.
	for patience := time.Now().Add(5 * time.Second); moves.most() < 2 && time.Now().Before(patience); {
		<-time.After(10 * time.Millisecond)
	}
	release()
	ready(t, all...)
	lacking, err := cluster.Lacking(timeout(t), all[1], maps.Keys(l.want))
	require.NoError(t, err)
	require.Empty(t, lacking)
	l.hold(t, all...)
}
