package warmtier

import (
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/lockrank"
)

// CompactionStage is a phase of a compaction's round.
type CompactionStage string

// Stages of a round, in their order.
const (
	StageBuild  CompactionStage = "build"  // copying live records
	StageCommit CompactionStage = "commit" // pointing the index to the copies
	StageSwap   CompactionStage = "swap"   // giving victims back
)

// CompactionProgress says how far a compaction is.
type CompactionProgress struct {
	Stage         CompactionStage // the stage under way, or just ended
	Round         int             // 1 for the first
	Victims       int             // segments to be compacted
	VictimsDone   int             // victims given back so far
	BytesTotal    int64           // live bytes to be copied
	BytesCopied   int64           // live bytes copied so far
	MemoriesMoved int64
	Elapsed       time.Duration
}

// report calls OnProgress, which runs the caller's code. copied is what the round under way has
// copied so far, bytes. REQUIRES: no lock held.
func (c *compaction) report(stage CompactionStage, copied int64) {
	fn := c.s.opts.Compaction.OnProgress
	if fn == nil || c.muted {
		return
	}
	p := c.progress
	p.Stage = stage
	p.BytesCopied += copied
	p.Elapsed = time.Since(c.start)
	lockrank.AssertUnlocked()
	if !c.own {
		fn(p)
		return
	}
	if end := apart(func() { fn(p) }); end != nil {
		c.muted = true
		c.s.opts.Logger.Error("OnProgress did not return: the compaction goes on without it", "error", end)
	}
}

// liveProgress is what Stats reads about the compaction under way.
type liveProgress struct {
	progress CompactionProgress
	start    time.Time
	copied   *atomic.Int64 // bytes copied by the round under way, on top of progress; nil when there is none
}

// publishProgress lets Stats see how far the compaction is. copied keeps growing until the next
// call; it may be nil.
func (c *compaction) publishProgress(stage CompactionStage, copied *atomic.Int64) {
	n := &liveProgress{progress: c.progress, start: c.start, copied: copied}
	n.progress.Stage = stage
	c.s.current.Store(n)
}

// progress returns that of the compaction under way, zero when there is none.
func (s *Store) progress() CompactionProgress {
	n := s.current.Load()
	if n == nil {
		return CompactionProgress{}
	}
	p := n.progress
	p.Elapsed = time.Since(n.start)
	if n.copied != nil {
		p.BytesCopied += n.copied.Load()
	}
	return p
}
