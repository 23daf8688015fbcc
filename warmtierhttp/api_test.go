package warmtierhttp

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

const compactPath = "/api/v1/maintenance/compact"

// Goal: every address answers with its status and type, and other methods and addresses do not.
func TestHandler_Addresses(t *testing.T) {
	h := handlerOf(t, fragmented(t, &warmtier.Options{}), Options{})
	const text, script, style = "text/plain; charset=utf-8", "text/javascript; charset=utf-8", "text/css; charset=utf-8"
	for _, row := range []struct {
		method, target string
		status         int
		kind           string
	}{
		{"GET", "/", 200, "text/html; charset=utf-8"},
		{"HEAD", "/", 200, "text/html; charset=utf-8"},
		{"GET", "/static/page.js", 200, script},
		{"GET", "/static/page.css", 200, style},
		{"GET", "/static/icon.svg", 200, "image/svg+xml"},
		{"GET", "/static/uPlot.iife.min.js", 200, script},
		{"GET", "/static/uPlot.min.css", 200, style},
		{"GET", "/static/uPlot.LICENSE", 200, text},
		{"GET", "/static/index.html", 404, "application/json"},
		{"GET", "/static/..%2fpage.go", 404, "application/json"},
		{"GET", "/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"},
		{"GET", "/healthz", 200, "application/json"},
		{"GET", "/readyz", 200, "application/json"},
		{"GET", "/api/v1/stores", 200, "application/json"},
		{"GET", "/api/v1/stats", 200, "application/json"},
		{"GET", "/api/v1/stats?store=other", 400, "application/json"},
		{"GET", "/api/v1/segments", 200, "application/json"},
		{"GET", "/api/v1/segments?limit=0", 400, "application/json"},
		{"GET", "/api/v1/segments?limit=10001", 400, "application/json"},
		{"GET", "/api/v1/segments?after=x", 400, "application/json"},
		{"HEAD", "/api/v1/events", 200, "text/event-stream"},
		{"POST", compactPath, 200, "application/json"},
		{"POST", compactPath + "?wait=perhaps", 400, "application/json"},
		{"POST", compactPath + "?wait=true", 200, "application/json"},
		{"GET", compactPath, 405, text},
		{"GET", compactPath + "/1", 404, "application/json"},
		{"GET", compactPath + "/x", 404, "application/json"},
		{"POST", "/api/v1/maintenance/run", 200, "application/json"},
		{"GET", "/api/v1/maintenance/run", 405, text},
		{"POST", verifyPath, 200, "application/json"},
		{"GET", verifyPath, 405, text},
		{"POST", "/api/v1/stats", 405, text},
		{"DELETE", "/", 405, text},
		{"GET", "/other", 404, text},
	} {
		w := ask(h, row.method, row.target, nil)
		require.Equal(t, row.status, w.Code, "%s %s: %s", row.method, row.target, w.Body)
		require.Equal(t, row.kind, w.Header().Get("Content-Type"), "%s %s", row.method, row.target)
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		require.Equal(t, "DENY", w.Header().Get("X-Frame-Options"))
		policy := w.Header().Get("Content-Security-Policy")
		require.True(t, strings.HasPrefix(policy, "default-src 'none';"), policy)
		require.NotContains(t, policy, "unsafe")
	}
}

// Goal: a repair is part of the figures of recovery, by its numbers and without the ids that it lost.
func TestHandler_RepairFigures(t *testing.T) {
	st := warmtier.Stats{Recovery: warmtier.RecoveryStats{Records: 7, Repair: warmtier.RepairReport{
		RecordsLost: 3, MemoriesLost: 4, AtMost: true, Unsynced: 1, MemoriesDeleted: 2, SegmentsReplaced: 1,
		Lost: []string{"secret"},
	}}}
	text := jsonOf(t, wireStats{stats: st})
	require.Contains(t, text, `"recovery":{"duration_seconds":0,"clean":false,"records":7,"truncated_bytes":0,`+
		`"records_lost":3,"memories_lost":4,"at_most":true,"unsynced":1,"memories_deleted":2,"segments_replaced":1}`)
	require.NotContains(t, text, "secret")
}

// Goal: a browser keeps what it has of the page's files as long as they are the same.
func TestHandler_NotModified(t *testing.T) {
	h := handlerOf(t, openStore(t, nil), Options{})
	tag := ask(h, "GET", "/static/page.js", nil).Header().Get("ETag")
	require.NotEmpty(t, tag)
	w := ask(h, "GET", "/static/page.js", func(r *http.Request) { r.Header.Set("If-None-Match", tag) })
	require.Equal(t, http.StatusNotModified, w.Code)
}

// Goal: the figures are those of the store.
func TestHandler_Figures(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	h := handlerOf(t, s, Options{})
	st := s.Stats()
	got := decoded[map[string]any](t, ask(h, "GET", "/api/v1/stats", nil).Body.Bytes())
	for name, value := range decoded[map[string]any](t, []byte(jsonOf(t, st))) {
		require.Equal(t, value, got[name], name)
	}
	require.Equal(t, 2000.0, got["memories"])
	require.NotEmpty(t, got["version"])
	require.NotContains(t, got, "disk_left_bytes", "it is in memory")
	if runtime.GOOS == "linux" {
		require.Positive(t, got["memory_left_bytes"])
	}

	var metrics bytes.Buffer
	require.NoError(t, st.WritePrometheus(&metrics))
	require.Equal(t, metrics.String(), ask(h, "GET", "/metrics", nil).Body.String())

	// Segments come in pages that meet.
	var all []wireSegment
	target, pages := "/api/v1/segments?limit=7", 0
	for ; target != ""; pages++ {
		part := decoded[wireSegments](t, ask(h, "GET", target, nil).Body.Bytes())
		all = append(all, part.Segments...)
		require.Equal(t, len(s.Segments()), part.Count)
		target = ""
		if part.Next != nil {
			target = "/api/v1/segments?limit=7&after=" + jsonOf(t, *part.Next)
		}
	}
	require.Greater(t, pages, 2)
	live := int64(0)
	for i, seg := range s.Segments() {
		all[i].Age = seg.Age.Seconds() // the one thing that changes
		require.Equal(t, toWireSegment(seg), all[i])
		live += all[i].LiveBytes
	}
	require.Equal(t, st.LiveBytes, live)
}

// Goal: a compaction answers with what it did, and the store agrees.
func TestCompact_OK(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	h := handlerOf(t, s, Options{})
	before := s.Stats()
	w := ask(h, "POST", compactPath, nil)
	require.Equal(t, http.StatusOK, w.Code)
	c := decoded[wireCompaction](t, w.Body.Bytes())
	require.Equal(t, before.DeadBytes, c.BytesBefore-c.BytesAfter)
	require.Equal(t, before.FragmentationRatio, c.FragmentationBefore)
	require.Zero(t, c.FragmentationAfter)
	require.Positive(t, c.MemoriesMoved)
	require.Positive(t, c.MaxSwapPause)
	require.Equal(t, int64(1), s.Stats().CompactionDetails.Manual.OK)
}

// Goal: each reason why a compaction does not end well has its status and code, waited for or not.
func TestCompact_Failures(t *testing.T) {
	readOnly := func(t *testing.T) *warmtier.Store {
		dir := t.TempDir()
		s, err := warmtier.Open(dir, nil)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		s, err = warmtier.Open(dir, &warmtier.Options{ReadOnly: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	short := func(t *testing.T) *warmtier.Store {
		// A budget of sixteen segments means one lane. The first segments, which are small, stay live; each of
		// the last has more live bytes than are kept back.
		s := openStore(t, &warmtier.Options{SegmentSize: 4 << 20, MaxBytes: 64 << 20,
			Compaction:  warmtier.CompactionOptions{MaxMemoryFraction: 1e-9},
			Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
		for n := range 400 {
			require.NoError(t, s.Put(fmt.Sprint("memory ", n), make([]byte, 100_000)))
		}
		for n := 300; n < 400; n += 3 {
			require.NoError(t, s.Put(fmt.Sprint("memory ", n), nil))
		}
		return s
	}
	closed := func(t *testing.T) *warmtier.Store {
		s := openStore(t, nil)
		require.NoError(t, s.Close())
		return s
	}
	running := func(t *testing.T) *warmtier.Store {
		s, reached, goOn := stopped(t)
		var work sync.WaitGroup
		work.Go(func() { _, _ = s.Compact(context.Background()) })
		<-reached
		t.Cleanup(func() { close(goOn); work.Wait() })
		return s
	}
	for _, row := range []struct {
		name   string
		store  func(*testing.T) *warmtier.Store
		status int
		code   string
		begins bool // so that ?wait=false answers 202 all the same
	}{
		{"another one runs", running, http.StatusConflict, "compaction_in_progress", false},
		{"memory is short", short, http.StatusInsufficientStorage, "insufficient_memory", true},
		{"the store is closed", closed, http.StatusServiceUnavailable, "closed", false},
		{"the store is read-only", readOnly, http.StatusInternalServerError, "read_only", false},
		{"the store is damaged", damaged, http.StatusInternalServerError, "failed", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			h := handlerOf(t, row.store(t), Options{})
			check := func(e wireError) {
				require.Equal(t, row.code, e.Code)
				require.NotEmpty(t, e.Error)
				require.NotContains(t, e.Error, secret)
				if row.code == "insufficient_memory" {
					require.Less(t, *e.AvailableBytes, *e.NeededBytes)
				}
				require.Equal(t, row.begins, e.Compaction != nil)
			}
			w := ask(h, "POST", compactPath, nil)
			require.Equal(t, row.status, w.Code, "%s", w.Body)
			check(decoded[wireError](t, w.Body.Bytes()))

			w = ask(h, "POST", compactPath+"?wait=false", nil)
			if !row.begins {
				require.Equal(t, row.status, w.Code, "%s", w.Body)
				check(decoded[wireError](t, w.Body.Bytes()))
				return
			}
			if row.code == "failed" {
				return // the damaged segment is left alone from then on
			}
			require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
			status := statusOf(t, h, w)
			require.Equal(t, "failed", status.Status)
			check(*status.Failure)
		})
	}
}

// secret is an id that must not be seen anywhere.
const secret = "secret-id"

// damaged is a store in a directory in which a live record does not have its checksum.
func damaged(t *testing.T) *warmtier.Store {
	t.Helper()
	dir := t.TempDir()
	opts := &warmtier.Options{SegmentSize: 64 << 10, Maintenance: warmtier.MaintenanceOptions{Disabled: true}}
	s, err := warmtier.Open(dir, opts)
	require.NoError(t, err)
	content := bytes.Repeat([]byte("content "), 500)
	for range 2 { // the first record is dead then, so that the segment is a victim
		require.NoError(t, s.Put(secret, content))
	}
	require.NoError(t, s.Close())
	hit := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		if at := bytes.LastIndex(text, content); at >= 0 {
			text[at+len(content)/2] ^= 1
			hit++
			return os.WriteFile(path, text, 0o600)
		}
		return nil
	}))
	require.Equal(t, 1, hit)
	s, err = warmtier.Open(dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// statusOf asks the address of a compaction nobody waited for until it has ended.
func statusOf(t *testing.T, h *Handler, accepted *httptest.ResponseRecorder) (status wireJob) {
	t.Helper()
	location := accepted.Header().Get("Location")
	require.Equal(t, location, decoded[wireJob](t, accepted.Body.Bytes()).Location)
	require.Eventually(t, func() bool {
		w := ask(h, "GET", "/api/v1/maintenance/"+location, nil)
		require.Equal(t, http.StatusOK, w.Code)
		status = decoded[wireJob](t, w.Body.Bytes())
		return status.Status != "running"
	}, time.Minute, time.Millisecond)
	return status
}

// Goal: a compaction that nobody waits for has a status address, with progress and then the result, also
// when the handler is mounted somewhere; and those long past are forgotten.
func TestCompact_NotWaitedFor(t *testing.T) {
	s, reached, goOn := stopped(t)
	h := New(s, Options{})
	mux := http.NewServeMux()
	mux.Handle("/some/where/", http.StripPrefix("/some/where", h))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		require.NoError(t, h.Close())
		server.Close()
	})
	client := server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	answer, err := client.Post(server.URL+"/some/where"+compactPath+"?wait=false", "", nil)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusAccepted, answer.StatusCode)
	address, err := answer.Location()
	require.NoError(t, err)
	require.Equal(t, "/some/where"+compactPath+"/1", address.Path)

	<-reached
	status := decoded[wireJob](t, ask(h, "GET", compactPath+"/1", nil).Body.Bytes())
	require.Equal(t, "running", status.Status)
	require.Positive(t, status.Progress.Victims)
	close(goOn)
	first := httptest.NewRecorder()
	first.Header().Set("Location", "compact/1")
	first.Body.WriteString(`{"location":"compact/1"}`)
	require.Positive(t, statusOf(t, h, first).Compaction.BytesReclaimed)

	for range maxJobs {
		w := ask(h, "POST", compactPath+"?wait=false", nil)
		require.Equal(t, http.StatusAccepted, w.Code)
		require.Equal(t, "done", statusOf(t, h, w).Status)
	}
	require.Equal(t, http.StatusNotFound, ask(h, "GET", compactPath+"/1", nil).Code)
	require.Len(t, h.jobs.byNumber, maxJobs)
}

// Goal: an OnProgress that does not return fails a compaction that nobody waits for, and does not end the
// process; the store and the handler work on.
func TestCompact_NotWaitedForProgressDoesNotReturn(t *testing.T) {
	for how, end := range map[string]func(){"panic": func() { panic("from OnProgress") }, "goexit": runtime.Goexit} {
		t.Run(how, func(t *testing.T) {
			var calls atomic.Int32
			opts := &warmtier.Options{SegmentSize: 64 << 10, Maintenance: warmtier.MaintenanceOptions{Disabled: true}}
			opts.Compaction.OnProgress = func(warmtier.CompactionProgress) {
				if calls.Add(1) == 1 {
					end()
				}
			}
			s := openStore(t, opts)
			for i := range 2000 {
				require.NoError(t, s.Put(strconv.Itoa(i%1000), make([]byte, 200)))
			}
			h := handlerOf(t, s, Options{})
			w := ask(h, "POST", compactPath+"?wait=false", nil)
			require.Equal(t, http.StatusAccepted, w.Code, w.Body)
			status := statusOf(t, h, w)
			require.Equal(t, "failed", status.Status)
			require.Contains(t, status.Failure.Error, "OnProgress did not return")
			require.Equal(t, http.StatusOK, ask(h, "POST", compactPath, nil).Code)
			require.Zero(t, s.Stats().DeadBytes)
		})
	}
}

// Goal: a client that waits and goes away cancels its compaction.
func TestCompact_ClientGoesAway(t *testing.T) {
	for _, target := range []string{compactPath, "/api/v1/maintenance/run"} {
		s, reached, goOn := stopped(t)
		if target != compactPath { // its rules say compact
			s, reached, goOn = stoppedBy(t, warmtier.MaintenanceOptions{FragmentationThreshold: 0.1, MinBytes: 1})
		}
		server := serveStore(t, s, Options{})
		gone := make(chan struct{})
		server.Config.Handler = goneNotifier(server.Config.Handler, gone)
		ctx, goAway := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+target, http.NoBody)
		require.NoError(t, err)
		answered := make(chan error)
		go func() {
			answer, err := server.Client().Do(r)
			if err == nil {
				_ = answer.Body.Close()
			}
			answered <- err
		}()
		<-reached
		goAway()
		require.ErrorIs(t, <-answered, context.Canceled)
		<-gone // the server has noticed
		close(goOn)
		require.Eventually(t, func() bool { return !s.Stats().CompactionInProgress }, time.Minute, time.Millisecond)
		st := s.Stats()
		require.Equal(t, int64(1), st.CompactionDetails.Manual.Cancelled+st.CompactionDetails.Automatic.Cancelled, target)
		require.Zero(t, st.Compactions)
	}
}

// Goal: Close of the handler ends compactions of its clients, waited for or not, and refuses others; the
// store goes on.
func TestHandler_Close(t *testing.T) {
	for _, wait := range []string{"true", "false"} {
		s, reached, goOn := stopped(t)
		h := New(s, Options{})
		answered := make(chan *httptest.ResponseRecorder, 1)
		go func() { answered <- ask(h, "POST", compactPath+"?wait="+wait, nil) }()
		<-reached
		closed := make(chan error)
		go func() { closed <- h.Close() }()
		<-h.lifetime.Done()
		close(goOn)
		require.NoError(t, <-closed)
		w := <-answered
		if wait == "true" {
			require.Equal(t, http.StatusServiceUnavailable, w.Code, "%s", w.Body)
			require.Equal(t, "closed", decoded[wireError](t, w.Body.Bytes()).Code)
		}
		require.Equal(t, int64(1), s.Stats().CompactionDetails.Manual.Cancelled)
		require.Equal(t, http.StatusServiceUnavailable, ask(h, "POST", compactPath+"?wait=false", nil).Code)
		require.Equal(t, http.StatusServiceUnavailable, ask(h, "POST", compactPath, nil).Code)
		require.Equal(t, http.StatusServiceUnavailable, ask(h, "GET", "/api/v1/events", nil).Code)
		require.Equal(t, http.StatusOK, ask(h, "GET", "/api/v1/stats", nil).Code)
		require.NoError(t, h.Close(), "twice")
		_, err := s.Compact(t.Context())
		require.NoError(t, err)
	}
}

// Goal: a maintenance cycle answers with its report, whatever it decided.
func TestMaintain_Report(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	r := decoded[wireReport](t, ask(handlerOf(t, s, Options{}), "POST", "/api/v1/maintenance/run", nil).Body.Bytes())
	require.Equal(t, warmtier.SkipThreshold, r.Skipped)
	require.Nil(t, r.Compaction)
	require.Positive(t, r.FragmentationRatio)

	s = fragmented(t, &warmtier.Options{
		Maintenance: warmtier.MaintenanceOptions{FragmentationThreshold: 0.1, MinBytes: 1},
	})
	h := handlerOf(t, s, Options{})
	r = decoded[wireReport](t, ask(h, "POST", "/api/v1/maintenance/run", nil).Body.Bytes())
	require.True(t, r.Compacted)
	require.Positive(t, r.Compaction.BytesReclaimed)

	require.NoError(t, s.Close())
	require.Equal(t, http.StatusServiceUnavailable, ask(h, "POST", "/api/v1/maintenance/run", nil).Code)
}

// deadlines is a connection that remembers the last deadlines.
type deadlines struct {
	net.Conn
	mu          sync.Mutex
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.read = t
	return d.Conn.SetReadDeadline(t)
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.write = t
	return d.Conn.SetWriteDeadline(t)
}

// listener hands out the one connection that is accepted.
type listener struct {
	net.Listener
	accepted chan *deadlines
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d := &deadlines{Conn: c}
	l.accepted <- d
	return d, nil
}

// Goal: the server's timeouts do not end a compaction that takes longer. A read timeout is worst: to
// net/http it looks like a client that went away. Method: the connection says which deadlines it has.
func TestCompact_OutlastsTimeouts(t *testing.T) {
	s, reached, goOn := stopped(t)
	h := handlerOf(t, s, Options{})
	server := httptest.NewUnstartedServer(h)
	l := &listener{Listener: server.Listener, accepted: make(chan *deadlines, 1)}
	server.Listener = l
	server.Config.ReadTimeout, server.Config.WriteTimeout = time.Hour, time.Hour
	server.Start()
	t.Cleanup(server.Close)
	answered := make(chan int)
	go func() {
		answer, err := server.Client().Post(server.URL+compactPath, "", nil)
		if err != nil {
			answered <- 0
			return
		}
		_ = answer.Body.Close()
		answered <- answer.StatusCode
	}()
	<-reached
	d := <-l.accepted
	d.mu.Lock()
	require.Zero(t, d.read)
	require.Zero(t, d.write)
	d.mu.Unlock()
	close(goOn)
	require.Equal(t, http.StatusOK, <-answered)
}

// Goal: a store is cleared by who has the token, and by nobody where there is none; a failure says why.
func TestClear(t *testing.T) {
	s := openStore(t, nil)
	for i := range 10 {
		require.NoError(t, s.Put(strconv.Itoa(i), nil))
	}
	w := ask(handlerOf(t, s, Options{}), "POST", "/api/v1/clear", nil)
	require.Equal(t, http.StatusForbidden, w.Code)
	require.Equal(t, "no_token", decoded[wireError](t, w.Body.Bytes()).Code)
	h := handlerOf(t, s, Options{Token: "secret"})
	require.Equal(t, http.StatusUnauthorized, ask(h, "POST", "/api/v1/clear", nil).Code)
	require.Equal(t, http.StatusMethodNotAllowed, ask(h, "GET", "/api/v1/clear", nil).Code)
	require.Equal(t, 10, s.Len())
	token := func(r *http.Request) { r.Header.Set("Authorization", "Bearer secret") }
	w = ask(h, "POST", "/api/v1/clear", token)
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, wireCleared{Memories: 10}, decoded[wireCleared](t, w.Body.Bytes()))
	require.Zero(t, s.Len())
	require.NoError(t, s.Close())
	w = ask(h, "POST", "/api/v1/clear", token)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "closed", decoded[wireError](t, w.Body.Bytes()).Code)
}
