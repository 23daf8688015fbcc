package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierhttp"
)

// whereFlag names a store that is open elsewhere, or a directory.
type whereFlag struct {
	Dir   string `short:"d" env:"WARMTIER_DIR" placeholder:"DIR" help:"Directory of the store."`
	URL   string `placeholder:"URL" help:"Address of a server instead: that of warmtier serve, or of a program of yours."`
	Token string `env:"WARMTIER_TOKEN" placeholder:"TOKEN" help:"The server's token, that of its WARMTIER_TOKEN; others see a command line, so set the variable."`
}

func (w whereFlag) Validate() error {
	if w.Dir == "" && w.URL == "" {
		return fmt.Errorf("--dir is missing: say which directory, or with --url which server")
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
	return c.document(c.ask(ctx, method, path))
}

// document returns the body of an answer.
func (c *client) document(answer *http.Response, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, about(c.base, err)
	}
	if !json.Valid(body) {
		return nil, fmt.Errorf("%s: no answer of a warmtier server", c.base)
	}
	return bytes.TrimSpace(body), nil
}

// ask sends a request and returns the answer, or an error when the answer is one.
func (c *client) ask(ctx context.Context, method, path string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	return c.send(r)
}

// send is ask for a request that is made.
func (c *client) send(r *http.Request) (*http.Response, error) {
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(r)
	if e, ok := errors.AsType[*url.Error](err); ok {
		return nil, c.unanswered(e.Err)
	}
	if err != nil || answer.StatusCode == http.StatusOK {
		return answer, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, about(c.base, err)
	}
	return nil, c.refused(answer, body)
}

// unanswered returns the error of a request that got no answer of HTTP.
func (c *client) unanswered(err error) error {
	switch {
	case strings.Contains(err.Error(), "malformed HTTP"): // net/http has no other mark for it
		err = errors.New("what answers there does not speak HTTP")
	case errors.Is(err, http.ErrSchemeMismatch):
		err = errors.New("what answers there speaks HTTP, not HTTPS")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("the connection was ended without an answer")
	default:
		return about(c.base, err)
	}
	return fmt.Errorf("no server of warmtier answers at %s: %w", c.base, err)
}

// refused returns the error that an answer is.
func (c *client) refused(answer *http.Response, body []byte) error {
	var failure struct{ Code, Error string }
	if json.Unmarshal(body, &failure) != nil || failure.Error == "" {
		failure.Error = "no answer of a warmtier server"
	}
	switch {
	case failure.Code == "not_found" && strings.HasPrefix(answer.Request.URL.Path, memoryPath):
		return warmtier.ErrNotFound
	case answer.StatusCode == http.StatusUnauthorized && c.token == "":
		failure.Error = "this needs the server's token: set WARMTIER_TOKEN, or give --token"
	case answer.StatusCode == http.StatusUnauthorized:
		failure.Error = "the server has another token than the one of WARMTIER_TOKEN or --token"
	case failure.Code == "no_token" && strings.HasSuffix(answer.Request.URL.Path, clearPath):
		failure.Error = "a server is cleared only if it has a token: start it with WARMTIER_TOKEN"
	case answer.StatusCode == http.StatusNotFound && failure.Code == "":
		failure.Error = "this server does not give what was asked for; warmtier serve of this version does"
	}
	err := fmt.Errorf("%s: %s (%s)", c.base, failure.Error, answer.Status)
	switch failure.Code {
	case codeNotWhole:
		return findingError{err}
	case codeExists, codeName:
		return usageError{err}
	}
	return err
}

func (c *client) get(ctx context.Context, id string) ([]byte, error) {
	answer, err := c.ask(ctx, http.MethodGet, memoryPath+"?id="+url.QueryEscape(id))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, warmtier.MaxContentLen+1))
	if err == nil {
		err = checkLength(int64(len(content)))
	}
	return content, about(c.base, err)
}

func (c *client) each(ctx context.Context, prefix string, fn func(m memory) error) error {
	path := memoriesPath + "?contents=1&prefix=" + url.QueryEscape(prefix)
	_, err := c.list(ctx, path, func(r io.Reader) error { return readLines(r, fn) })
	return err
}

// export relays an export. One that the server could not end has no number of memories.
func (c *client) export(ctx context.Context, w io.Writer) (int, error) {
	trailer, err := c.list(ctx, exportPath, func(r io.Reader) error {
		_, err := io.Copy(w, r)
		return err
	})
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(trailer.Get(memoriesTrailer))
	if err != nil {
		return 0, finding("%s: the export is not whole: its end is missing", c.base)
	}
	return n, nil
}

// importAll sends an export to the server, which stores all of it or nothing.
func (c *client) importAll(a *app, in *input) (st importAnswer, err error) {
	bar := a.progress("importing", in.size, unitBytes)
	defer bar.end()
	r, err := http.NewRequestWithContext(a.ctx, http.MethodPost, c.base+importPath, bar.reader(in))
	if err != nil {
		return st, err
	}
	r.ContentLength = in.size
	r.Header.Set("Expect", "100-continue") // who has no token is told so before anything is sent
	body, err := c.document(c.send(r))
	if err == nil {
		err = json.Unmarshal(body, &st)
	}
	return st, err
}

// backup makes the server make a checkpoint, and returns where that is.
func (c *client) backup(ctx context.Context, name string) (to string, err error) {
	body, err := c.do(ctx, http.MethodPost, backupPath+"?name="+url.QueryEscape(name))
	if err != nil {
		return "", err
	}
	var answer backupAnswer
	err = json.Unmarshal(body, &answer)
	return answer.To, err
}

func (c *client) sizes(
	ctx context.Context, prefix string, fn func(id string, size int, expires time.Time) error,
) error {
	_, err := c.list(ctx, memoriesPath+"?prefix="+url.QueryEscape(prefix), func(r io.Reader) error {
		return readObjects(r, func(object json.RawMessage) error {
			var m memoryJSON
			if err := json.Unmarshal(object, &m); err != nil || (m.ID == nil) == (m.IDBase64 == nil) || m.Bytes == nil {
				return fmt.Errorf("no answer of a warmtier server")
			}
			var expires time.Time
			if m.Expires != nil {
				expires = *m.Expires
			}
			if m.ID == nil {
				return fn(string(*m.IDBase64), *m.Bytes, expires)
			}
			return fn(*m.ID, *m.Bytes, expires)
		})
	})
	return err
}

// list reads a list, and returns the trailer, or why the server could not end it.
func (c *client) list(ctx context.Context, path string, read func(io.Reader) error) (http.Header, error) {
	answer, err := c.ask(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	err = read(answer.Body)
	_, local := errors.AsType[*fs.PathError](err) // of the file that is written, which it names
	if errors.Is(err, errEnough) || local {
		return nil, err
	}
	if reason := answer.Trailer.Get(errorTrailer); reason != "" {
		return nil, finding("%s: %s", c.base, reason)
	}
	return answer.Trailer, about(c.base, err)
}

func (c *client) count(ctx context.Context) (int, error) {
	var st statsAnswer
	body, err := c.do(ctx, http.MethodGet, "/api/v1/stats")
	if err == nil {
		err = json.Unmarshal(body, &st)
	}
	return st.Memories, err
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
		Expired, Evicted    int64
		HitRatio            float64 `json:"hit_ratio"`
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
		BytesReclaimed int64   `json:"reclaimed_bytes"`
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
