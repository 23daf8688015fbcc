package warmtier

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// turn is how long a worker of a compaction runs before it offers its processor to others.
const turn = 100 * time.Microsecond

// yielder offers a processor to other goroutines once a turn. Offering it after each chunk or batch
// would cost a tenth of a compaction: a goroutine that yields may resume on another processor,
// whose caches are cold.
type yielder struct{ last time.Time }

// yield lets other goroutines run if the turn is over.
func (y *yielder) yield() {
	if now := time.Now(); now.Sub(y.last) >= turn {
		runtime.Gosched()
		y.last = time.Now()
	}
}

// parallel calls fn for every shard, on as many goroutines as there are workers, until one call
// fails.
func (c *compaction) parallel(ctx context.Context, fn func(ctx context.Context, worker, shard int) error) error {
	var next atomic.Int32
	g, ctx := errgroup.WithContext(ctx)
	for worker := range c.s.opts.Compaction.Workers {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < shardCount; i = next.Add(1) - 1 {
				if err := fn(ctx, worker, int(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}
