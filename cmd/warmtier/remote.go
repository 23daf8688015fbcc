package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierhttp"
)

// whereFlag names a store that is open elsewhere, or a directory.
type whereFlag struct {
	Dir   string `short:"d" env:"WARMTIER_DIR" placeholder:"DIR" help:"Directory of the store."`
	URL   string `placeholder:"URL" help:"Address of a server instead: that of warmtier serve, or of a program of yours."`
	Token string `env:"WARMTIER_TOKEN" placeholder:"TOKEN" help:"The server's token; others see a command line, so set the variable."`
}

func (w whereFlag) Validate() error {
	if w.Dir == "" && w.URL == "" {
		return fmt.Errorf("--dir or --url is missing")
	}
	if u, err := url.Parse(w.URL); err != nil || w.URL != "" && u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--url %q: want an address as in http://127.0.0.1:7077", w.URL)
	}
	return nil
}

// client asks a server, or a handler in this process that gives the same answers.
type client struct {
	base, token string
	http        http.Client
}

func (w whereFlag) client() *client {
	return &client{base: strings.TrimSuffix(w.URL, "/"), token: w.Token}
}

func localClient(s *warmtier.Store) (c *client, closeHandler func() error) {
	h := warmtierhttp.New(s, warmtierhttp.Options{})
	return &client{base: "http://localhost", http: http.Client{Transport: handlerTransport{h}}}, h.Close
}

// maxAnswer bounds how many bytes of an answer are read.
const maxAnswer = 64 << 20

// do sends a request and returns the body of the answer, or an error when the answer is one.
func (c *client) do(ctx context.Context, method, path string) (json.RawMessage, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	if c.token != "" && method == http.MethodPost {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode == http.StatusOK && json.Valid(body) {
		return bytes.TrimSpace(body), nil
	}
	var failure struct{ Error string }
	if json.Unmarshal(body, &failure) != nil || failure.Error == "" {
		failure.Error = "no answer of a warmtier server"
	}
	return nil, fmt.Errorf("%s: %s (%s)", c.base, failure.Error, answer.Status)
}

// handlerTransport calls a handler instead of a server.
type handlerTransport struct{ http.Handler }

// RoundTrip returns what the handler answers.
func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &answerWriter{header: http.Header{}, status: http.StatusOK}
	r = r.Clone(r.Context())
	r.Body = http.NoBody
	r.Host = r.URL.Host
	h.ServeHTTP(w, r)
	return &http.Response{Status: http.StatusText(w.status), StatusCode: w.status, Header: w.header,
		Body: io.NopCloser(&w.body), Request: r}, nil
}

type answerWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answerWriter) Header() http.Header         { return w.header }
func (w *answerWriter) WriteHeader(status int)      { w.status = status }
func (w *answerWriter) Write(b []byte) (int, error) { return w.body.Write(b) }

// statsAnswer holds the statistics that are shown.
type statsAnswer struct {
	Memories      int     `json:"memories"`
	TotalBytes    int64   `json:"total_bytes"`
	LiveBytes     int64   `json:"live_bytes"`
	DeadBytes     int64   `json:"dead_bytes"`
	Fragmentation float64 `json:"fragmentation_ratio"`
	MappedBytes   int64   `json:"mapped_bytes"`
	Unreturned    int64   `json:"unreturned_bytes"`
	RoomBytes     int64   `json:"room_bytes"`
	ReserveBytes  int64   `json:"reserve_bytes"`
	RetiredBytes  int64   `json:"retired_bytes"`
	SpareBytes    int64   `json:"spare_bytes"`
	MaxBytes      int64   `json:"max_bytes"`
	IndexBytes    int64   `json:"index_bytes"`
	UnsyncedBytes int64   `json:"unsynced_bytes"`
	Segments      struct {
		Active, Sealed, Compacting, Retired int
	} `json:"segments"`
	Operations struct {
		Gets, Puts, Deletes int64
		Wait                struct {
			Count int64
			P99   float64 `json:"p99_seconds"`
			Max   float64 `json:"max_seconds"`
		} `json:"write_wait_duration"`
	} `json:"operations"`
	Compactions struct {
		InProgress bool `json:"in_progress"`
		Progress   struct {
			BytesCopied int64 `json:"bytes_copied"`
			BytesTotal  int64 `json:"bytes_total"`
		} `json:"progress"`
		BytesReclaimed int64   `json:"bytes_reclaimed"`
		MaxSwapPause   float64 `json:"max_swap_pause_seconds"`
	} `json:"compactions"`
	Recovery struct {
		Seconds float64 `json:"duration_seconds"`
		Clean   bool    `json:"clean"`

		RecordsLost int `json:"records_lost"`
	} `json:"recovery"`
}

type segmentsAnswer struct {
	Segments []json.RawMessage `json:"segments"`
	Count    int               `json:"count"`
	After    *uint64           `json:"after,omitempty"`
}

type segmentAnswer struct {
	Number     uint64 `json:"segment"`
	State      string
	TotalBytes int64 `json:"total_bytes"`
	LiveBytes  int64 `json:"live_bytes"`
	DeadBytes  int64 `json:"dead_bytes"`
	Pins       int
	Age        float64 `json:"age_seconds"`
}

// compactionAnswer holds the figures of a compaction that are shown.
type compactionAnswer struct {
	Duration            float64 `json:"duration_seconds"`
	SegmentsBefore      int     `json:"segments_before"`
	SegmentsAfter       int     `json:"segments_after"`
	BytesBefore         int64   `json:"bytes_before"`
	BytesAfter          int64   `json:"bytes_after"`
	BytesReclaimed      int64   `json:"bytes_reclaimed"`
	BytesUnreturned     int64   `json:"bytes_unreturned"`
	FragmentationBefore float64 `json:"fragmentation_before"`
	FragmentationAfter  float64 `json:"fragmentation_after"`
	MemoriesMoved       int64   `json:"memories_moved"`
	MaxSwapPause        float64 `json:"max_swap_pause_seconds"`
}

// segments asks for segments until it has all.
func (c *client) segments(ctx context.Context) (all segmentsAnswer, err error) {
	all.Segments = []json.RawMessage{}
	for path := "/api/v1/segments"; ; {
		body, err := c.do(ctx, http.MethodGet, path)
		if err != nil {
			return all, err
		}
		var part segmentsAnswer
		if err := json.Unmarshal(body, &part); err != nil {
			return all, err
		}
		all.Segments, all.Count = append(all.Segments, part.Segments...), part.Count
		if part.After == nil {
			return all, nil
		}
		path = fmt.Sprintf("/api/v1/segments?after=%d", *part.After)
	}
}

// compact waits for a compaction of the server. When it is interrupted, the server ends it.
func (c *client) compact(ctx context.Context, bar *progress) (json.RawMessage, error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	if bar.drawn {
		go c.watch(watching, bar)
	}
	return c.do(ctx, http.MethodPost, "/api/v1/maintenance/compact")
}

// watch keeps bar up to date; errors are left to the caller that waits for the compaction.
func (c *client) watch(ctx context.Context, bar *progress) {
	tick := time.NewTicker(progressDelay / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var st statsAnswer
		if body, err := c.do(ctx, http.MethodGet, "/api/v1/stats"); err == nil && json.Unmarshal(body, &st) == nil {
			bar.set(st.Compactions.Progress.BytesCopied, st.Compactions.Progress.BytesTotal)
		}
	}
}
