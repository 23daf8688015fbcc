package warmtierhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

const (
	maxSegments = 10_000 // in one answer
	maxJobs     = 64     // background compactions whose status is kept
)

var (
	// errClosed is returned for requests when the handler is closed and the store is not.
	errClosed = errors.New("warmtierhttp: handler is closed")
	// errAbandoned is how a compaction in the background fails whose OnProgress did not return.
	errAbandoned = fmt.Errorf("%w: OnProgress did not return", warmtier.ErrCompactionFailed)
)

func (h *Handler) stats(sv *served, w http.ResponseWriter, _ *http.Request) {
	now := wireStats{Name: sv.name, Time: time.Now(), Left: sv.store.Space(), stats: sv.store.Stats()}
	writeJSON(w, http.StatusOK, now)
}

// metrics writes one page for all stores, with the label store where they have names.
func (h *Handler) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if len(h.stores) == 1 && h.stores[0].name == "" {
		_ = h.stores[0].store.Stats().WritePrometheus(w) // fails when the client is gone
		return
	}
	stats := map[string]warmtier.Stats{}
	for _, sv := range h.stores {
		stats[strings.ToValidUTF8(sv.name, "\uFFFD")] = sv.store.Stats()
	}
	_ = warmtier.WritePrometheus(w, stats)
}

// segments answers with the segments that follow ?after, in the order of their numbers.
func (h *Handler) segments(sv *served, w http.ResponseWriter, r *http.Request) {
	limit, after, behind := maxSegments, uint64(0), false
	var err error
	if v := r.URL.Query().Get("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxSegments {
			writeJSON(w, http.StatusBadRequest, wireError{Code: "limit", Error: "limit is 1 to 10000"})
			return
		}
	}
	if v := r.URL.Query().Get("after"); v != "" {
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			writeJSON(w, http.StatusBadRequest, wireError{Code: "after", Error: "after is the number of a segment"})
			return
		}
		behind = true
	}
	all := sv.store.Segments()
	out := wireSegments{Segments: []wireSegment{}, Count: len(all)}
	for _, seg := range all {
		if behind && seg.ID <= after {
			continue
		}
		if len(out.Segments) == limit {
			out.Next = &out.Segments[limit-1].Number
			break
		}
		out.Segments = append(out.Segments, toWireSegment(seg))
	}
	writeJSON(w, http.StatusOK, out)
}

// compact runs a compaction for a client that waits, and ends it when the client goes away; for a
// client that does not wait it begins one.
func (h *Handler) compact(sv *served, w http.ResponseWriter, r *http.Request) {
	wait := true
	if v := r.URL.Query().Get("wait"); v != "" {
		var err error
		if wait, err = strconv.ParseBool(v); err != nil {
			writeJSON(w, http.StatusBadRequest, wireError{Code: "wait", Error: "wait is true or false"})
			return
		}
	}
	h.log.Info("compaction asked for", "store", sv.name, "remote", r.RemoteAddr, "wait", wait)
	if !wait {
		h.compactInBackground(sv, w)
		return
	}
	takeTime(w)
	ctx, cancel := h.untilClosed(r.Context())
	defer cancel()
	done, err := sv.store.Compact(ctx)
	h.ended(sv, w, done, err, toWireCompaction(done))
}

// ended answers with body, or with the reason why the compaction failed.
func (h *Handler) ended(
	sv *served, w http.ResponseWriter, done warmtier.CompactionStats, err error, body any,
) {
	sv.look()
	status := http.StatusOK
	if err = h.outcome(err); err != nil {
		status, body = toWireError(done, err)
	}
	writeJSON(w, status, body)
}

// untilClosed returns a context that ends with ctx, and with Close.
func (h *Handler) untilClosed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(h.lifetime, cancel)
	if h.lifetime.Err() != nil { // AfterFunc would take its time
		cancel()
	}
	return ctx, func() { stop(); cancel() }
}

// outcome returns err, as errClosed when Close was the reason. The store logs how its compactions
// end.
func (h *Handler) outcome(err error) error {
	if errors.Is(err, context.Canceled) && h.lifetime.Err() != nil {
		return fmt.Errorf("%w: %w", errClosed, err)
	}
	return err
}

// maintain runs one maintenance cycle. A client that goes away ends it.
func (h *Handler) maintain(sv *served, w http.ResponseWriter, r *http.Request) {
	h.log.Info("maintenance cycle asked for", "store", sv.name, "remote", r.RemoteAddr)
	takeTime(w)
	ctx, cancel := h.untilClosed(r.Context())
	defer cancel()
	report, err := sv.store.Maintain(ctx)
	h.ended(sv, w, report.Compaction, err, toWireReport(report))
}

// wireCleared is the answer of a clear.
type wireCleared struct {
	Memories int `json:"memories"` // that were there just before
}

// clear empties a store. What else changes state loses nothing; for this there has to be a token.
func (h *Handler) clear(sv *served, w http.ResponseWriter, r *http.Request) {
	if !h.guarded {
		h.refuse(w, r, http.StatusForbidden, "no_token", "a store is cleared only where there is a token (Options.Token)")
		return
	}
	h.log.Warn("clear asked for", "store", sv.name, "remote", r.RemoteAddr)
	takeTime(w)
	memories := sv.store.Len()
	h.ended(sv, w, warmtier.CompactionStats{}, sv.store.Clear(), wireCleared{Memories: memories})
}

// jobs are the compactions in the background, which no client waits for.
type jobs struct {
	last     int
	byNumber map[int]*job
}

// job is one compaction in the background.
type job struct {
	of    *served
	done  chan struct{} // closed when it ended
	stats warmtier.CompactionStats
	err   error // both written before done is closed
}

// wireJob is the answer of a status address.
type wireJob struct {
	Status     string                       `json:"status"` // running, done or failed
	Location   string                       `json:"location,omitempty"`
	Progress   *warmtier.CompactionProgress `json:"progress,omitempty"`
	Compaction *wireCompaction              `json:"compaction,omitempty"`
	Failure    *wireError                   `json:"failure,omitempty"`
}

// compactInBackground answers when the compaction has begun, or could not begin.
func (h *Handler) compactInBackground(sv *served, w http.ResponseWriter) {
	if sv.store.Stats().CompactionInProgress {
		status, body := toWireError(warmtier.CompactionStats{}, warmtier.ErrCompactionInProgress)
		writeJSON(w, status, body)
		return
	}
	number, j := h.begin(sv)
	if j == nil {
		status, body := toWireError(warmtier.CompactionStats{}, errClosed)
		writeJSON(w, status, body)
		return
	}
	if err := j.begun(); err != nil && !errors.Is(err, warmtier.ErrCompactionFailed) {
		status, body := toWireError(j.stats, err) // it did not begin
		writeJSON(w, status, body)
		return
	}
	// Relative, since the handler does not know what it is mounted under.
	location := "compact/" + strconv.Itoa(number)
	w.Header().Set("Location", location)
	writeJSON(w, http.StatusAccepted, wireJob{Status: "running", Location: location})
}

// begin starts a compaction in the background; j is nil when the handler is closed.
func (h *Handler) begin(sv *served) (number int, j *job) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, nil
	}
	j = &job{of: sv, done: make(chan struct{})}
	h.jobs.last++
	h.jobs.byNumber[h.jobs.last] = j
	delete(h.jobs.byNumber, h.jobs.last-maxJobs)
	h.background.Go(func() {
		defer sv.look()
		defer close(j.done)
		j.run(func() (warmtier.CompactionStats, error) {
			stats, err := sv.store.Compact(h.lifetime)
			return stats, h.outcome(err)
		})
	})
	return h.jobs.last, j
}

// run runs the compaction of j. It calls the program's OnProgress, and there is no caller here whom a
// panic of that could pass to: it would end the process.
func (j *job) run(compact func() (warmtier.CompactionStats, error)) {
	j.err = errAbandoned // what runtime.Goexit leaves
	defer func() {
		if v := recover(); v != nil {
			j.err = fmt.Errorf("%w: panic: %v", errAbandoned, v)
		}
	}()
	j.stats, j.err = compact()
}

// begun waits until the compaction of j runs, or has ended with the error that it returns. Nothing
// tells when it runs; that takes microseconds, so a look each millisecond costs less than a hook
// would.
func (j *job) begun() error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !j.of.store.Stats().CompactionInProgress {
		select {
		case <-j.done:
			return j.err
		case <-ticker.C:
		}
	}
	return nil
}

// compactStatus serves the status address of a compaction in the background.
func (h *Handler) compactStatus(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.Atoi(r.PathValue("number")) // there is no job 0
	h.mu.Lock()
	j := h.jobs.byNumber[number]
	h.mu.Unlock()
	if j == nil {
		writeJSON(w, http.StatusNotFound, wireError{Code: "not_found", Error: "no such compaction, or too long ago"})
		return
	}
	select {
	case <-j.done:
	default:
		writeJSON(w, http.StatusOK, wireJob{Status: "running", Progress: progressOf(j.of.store.Stats())})
		return
	}
	if j.err != nil {
		_, failure := toWireError(j.stats, j.err)
		writeJSON(w, http.StatusOK, wireJob{Status: "failed", Failure: &failure})
		return
	}
	writeJSON(w, http.StatusOK, wireJob{Status: "done", Compaction: toWireCompaction(j.stats)})
}
