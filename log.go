package warmtier

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/warmtier/warmtier/internal/lockrank"
)

/*
A log handler is user code: it may take its time, call the store, and panic. So nothing is logged
with a lock held, and every line goes through a patientHandler. A caller that may hold a lock leaves
the line in a queue. A goroutine empties the queue, and ends when nothing is left in it; Close waits
for that. Lines name segments and files, never ids or contents.
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

// patientHandler passes lines to the user's handler, and survives it. On a goroutine of the store's a
// panic would end the process, and runtime.Goexit make Close wait for ever; on the caller's, either
// would leave a half-open store behind Open. A line that the handler does not return from is lost.
type patientHandler struct {
	handler slog.Handler
	lost    *lostLines
}

// lostLines counts lines that a handler did not return from.
type lostLines struct {
	mu  sync.Mutex // a leaf
	n   int
	end error // of the last one
}

func (l *lostLines) add(n int, end error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n, l.end = l.n+n, end
}

// take returns how many were lost since the last call.
func (l *lostLines) take() (n int, end error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, end, l.n = l.n, l.end, 0
	return n, end
}

// Enabled implements slog.Handler.
func (h patientHandler) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	lockrank.AssertUnlocked()
	if end := apart(func() { enabled = h.handler.Enabled(ctx, level) }); end != nil {
		h.lost.add(1, end)
		return false
	}
	return enabled
}

// Handle implements slog.Handler.
func (h patientHandler) Handle(ctx context.Context, r slog.Record) error {
	lockrank.AssertUnlocked()
	if err := h.handle(ctx, r); err != nil || !h.Enabled(ctx, slog.LevelWarn) {
		return err
	}
	n, end := h.lost.take()
	if n == 0 {
		return nil
	}
	r = slog.NewRecord(time.Now(), slog.LevelWarn, "log lines lost: the handler did not return", 0)
	r.Add("lines", n, "error", end)
	if h.handle(ctx, r) != nil {
		h.lost.add(n, end) // for the next line
	}
	return nil
}

// handle hands r to the user's handler.
func (h patientHandler) handle(ctx context.Context, r slog.Record) (err error) {
	if end := apart(func() { err = h.handler.Handle(ctx, r) }); end != nil {
		h.lost.add(1, end)
		return end
	}
	return err
}

// WithAttrs implements slog.Handler.
func (h patientHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return patientHandler{h.handler.WithAttrs(attrs), h.lost}
}

// WithGroup implements slog.Handler.
func (h patientHandler) WithGroup(name string) slog.Handler {
	return patientHandler{h.handler.WithGroup(name), h.lost}
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
