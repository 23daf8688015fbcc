package warmtier

import (
	"context"
	"errors"
	"log/slog"
	"sync"
)

/*
A log handler is user code: it may take its time, and call the store. So nothing is logged with a
lock held. A caller that may hold one leaves the line in a queue. A goroutine empties the queue, and
ends when nothing is left in it; Close waits for that. Lines name segments and files, never ids or
contents.
*/

// maxLogQueue bounds the lines that wait; more are dropped, and counted.
const maxLogQueue = 1024

// logQueue holds lines that wait to be logged with no lock held.
type logQueue struct {
	mu      sync.Mutex // a leaf
	lines   []logLine
	dropped int
	idle    chan struct{} // closed when the goroutine ends; nil when there is none
}

type logLine struct {
	level   slog.Level
	message string
	args    []any
}

// logLater queues a line, to be logged soon. Any lock may be held.
func (s *Store) logLater(level slog.Level, message string, args ...any) {
	if s.silent {
		return
	}
	q := &s.logQueue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) >= maxLogQueue {
		q.dropped++
		return
	}
	q.lines = append(q.lines, logLine{level, message, args})
	if q.idle == nil {
		q.idle = make(chan struct{})
		go s.emptyLogQueue()
	}
}

func (s *Store) emptyLogQueue() {
	q := &s.logQueue
	for {
		q.mu.Lock()
		lines, dropped := q.lines, q.dropped
		q.lines, q.dropped = nil, 0
		if len(lines) == 0 {
			close(q.idle)
			q.idle = nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		for _, l := range lines {
			s.opts.Logger.Log(context.Background(), l.level, l.message, l.args...)
		}
		if dropped > 0 {
			s.opts.Logger.Warn("log lines dropped: the handler is slow", "lines", dropped)
		}
	}
}

// waitForLog returns when nothing is left in the queue.
func (s *Store) waitForLog() {
	s.logQueue.mu.Lock()
	idle := s.logQueue.idle
	s.logQueue.mu.Unlock()
	if idle != nil {
		<-idle
	}
}

// logSealed logs that seg was sealed. The lane's lock may be held.
func (s *Store) logSealed(seg *segment) {
	s.logLater(slog.LevelDebug, "segment sealed", "segment", seg.id, "records", seg.records.Load(),
		"total_bytes", seg.recordBytes(), "live_bytes", seg.live.Load())
}

func (s *Store) logOpened() {
	s.opts.Logger.Info("store opened", s.medium.describe()...)
}

func (s *Store) logCompactionStart(by trigger, st Stats) {
	s.opts.Logger.Info("compaction started", "trigger", by, "segments", st.Segments, "total_bytes", st.TotalBytes,
		"dead_bytes", st.DeadBytes, "fragmentation", st.FragmentationRatio)
}

func (s *Store) logCompactionEnd(by trigger, c CompactionStats, err error) {
	args := []any{"trigger", by, "duration", c.Duration, "rounds", c.Rounds,
		"reclaimed_bytes", c.BytesReclaimed, "unreturned_bytes", c.BytesUnreturned, "copied_bytes", c.BytesCopied,
		"fragmentation_before", c.FragmentationBefore, "fragmentation_after", c.FragmentationAfter,
		"swap_pause", c.MaxSwapPause}
	log := s.opts.Logger
	switch {
	case err == nil:
		log.Info("compaction ended", args...)
	case isAborted(err):
		log.Info("compaction cancelled", append(args, "reason", err)...)
	case errors.Is(err, ErrInsufficientMemory):
		log.Warn("compaction put off: memory is short", append(args, "error", err)...)
	default:
		log.Error("compaction failed", append(args, "error", err)...)
	}
}

// logCycle logs what a maintenance cycle decided, and the figures that decided it.
func (s *Store) logCycle(r MaintenanceReport) {
	message := "maintenance compacted"
	if r.Skipped != "" {
		message = "maintenance had nothing to do"
	}
	m := s.opts.Maintenance
	s.opts.Logger.Debug(message, "reason", r.Skipped, "fragmentation", r.FragmentationRatio,
		"fragmentation_threshold", m.FragmentationThreshold, "total_bytes", r.TotalBytes, "min_bytes", m.MinBytes,
		"min_period", m.MinPeriod)
}
