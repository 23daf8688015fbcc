package warmtierhttp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
)

const (
	maxStreams   = 64               // open at the same time
	writeTimeout = 10 * time.Second // for one message to a client that does not read
)

// wireSamples is the event "samples": the history first, then a sample each second.
type wireSamples struct {
	Reset   bool     `json:"reset,omitempty"` // these samples are the history: forget earlier ones
	Columns []string `json:"columns"`
	Samples []row    `json:"samples"`
}

// wirePast is the event "compactions": past compactions first, then each one as it ends.
type wirePast struct {
	Reset       bool             `json:"reset,omitempty"`
	Compactions []pastCompaction `json:"compactions"`
}

// events streams samples, statistics, progress and ended compactions. Clients have no buffers: each
// gets what it has not seen when it is ready for it.
func (h *Handler) events(sv *served, w http.ResponseWriter, r *http.Request) {
	if h.streams.Add(1) > maxStreams {
		h.streams.Add(-1)
		writeJSON(w, http.StatusTooManyRequests, wireError{Code: "streams", Error: "too many event streams are open"})
		return
	}
	defer h.streams.Add(-1)
	if h.lifetime.Err() != nil {
		writeJSON(w, http.StatusServiceUnavailable, wireError{Code: "closed", Error: errClosed.Error()})
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // for proxies that would collect events
	if r.Method == http.MethodHead {
		return
	}
	takeTime(w)
	control := http.NewResponseController(w)
	var p position
	progressing := false
	for {
		n := sv.recorder.since(&p)
		var message bytes.Buffer
		if n.first {
			message.WriteString("retry: 2000\n\n")
		}
		if n.first || len(n.samples) > 0 {
			event(&message, "samples", wireSamples{Reset: n.first, Columns: columns, Samples: n.samples})
			event(&message, "stats", wireStats{Name: sv.name, Time: n.at, Left: n.left, stats: n.stats})
		}
		if n.first || len(n.compactions) > 0 {
			event(&message, "compactions", wirePast{Reset: n.first, Compactions: n.compactions})
		}
		if now := n.stats.CompactionInProgress; now || progressing {
			event(&message, "progress", progressOf(n.stats)) // null when it ended
			progressing = now
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // see takeTime
		if _, err := w.Write(message.Bytes()); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
		select {
		case <-n.changed:
		case <-r.Context().Done():
			return
		case <-h.lifetime.Done():
			return
		}
	}
}

// event appends a server-sent event.
func event(b *bytes.Buffer, name string, data any) {
	b.WriteString("event: " + name + "\ndata: ")
	_ = json.NewEncoder(b).Encode(data) // writes to a buffer, and ends the line
	b.WriteByte('\n')
}
