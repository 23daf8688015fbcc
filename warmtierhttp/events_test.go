package warmtierhttp

import (
	"bufio"
	"context"
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// readEvents opens a stream and reads events until enough says so. It returns what was read.
func readEvents(t *testing.T, h http.Handler, enough func(name, data string) bool) (text []byte) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel() // before the server closes, which waits for streams
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/events", http.NoBody)
	require.NoError(t, err)
	answer, err := server.Client().Do(r)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Equal(t, "text/event-stream", answer.Header.Get("Content-Type"))
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	name := ""
	for lines.Scan() {
		line := lines.Text()
		text = append(append(text, line...), '\n')
		if v, ok := strings.CutPrefix(line, "event: "); ok {
			name = v
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok && enough(name, data) {
			return text
		}
	}
	require.Fail(t, "the stream ended", "%v: %s", lines.Err(), text)
	return nil
}

// Goal: a stream begins with the history and goes on with a sample a second; one that is opened later (a
// page that is loaded again) begins with all of it.
func TestEvents_HistoryAndSamples(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	h := handlerOf(t, s, Options{})
	var samples []wireSamples
	readEvents(t, h, func(name, data string) bool {
		if name == "samples" {
			samples = append(samples, decoded[wireSamples](t, []byte(data)))
		}
		return len(samples) == 3
	})
	require.True(t, samples[0].Reset)
	require.Equal(t, columns, samples[0].Columns)
	for i, later := range samples[1:] {
		require.False(t, later.Reset)
		require.Len(t, later.Samples, 1)
		apart := later.Samples[0][0] - samples[i].Samples[len(samples[i].Samples)-1][0]
		require.Greater(t, apart, 0.5, "a sample a second")
	}
	require.Equal(t, float64(s.Stats().DeadBytes), samples[2].Samples[0][2])

	var again wireSamples
	readEvents(t, h, func(name, data string) bool {
		if name == "samples" {
			again = decoded[wireSamples](t, []byte(data))
		}
		return name == "samples"
	})
	require.True(t, again.Reset)
	require.GreaterOrEqual(t, len(again.Samples), 3)
	require.Equal(t, samples[0].Samples[0], again.Samples[0])
}

// Goal: a stream tells of a compaction while it runs, of its end, and of that again when it is opened later;
// also of one that a maintenance cycle began.
func TestEvents_Compaction(t *testing.T) {
	for _, trigger := range []string{"manual", "auto"} {
		s, reached, goOn := stoppedBy(t, warmtier.MaintenanceOptions{FragmentationThreshold: 0.1, MinBytes: 1})
		h := handlerOf(t, s, Options{})
		ended := make(chan error, 1)
		go func() {
			var err error
			if trigger == "auto" {
				_, err = s.Maintain(context.Background())
			} else {
				_, err = s.Compact(context.Background())
			}
			ended <- err
		}()
		<-reached
		var names []string
		var past wirePast
		readEvents(t, h, func(name, data string) bool {
			names = append(names, name)
			if name == "progress" && data != "null" && s.Stats().Compactions == 0 {
				p := decoded[map[string]any](t, []byte(data))
				require.Positive(t, p["victims"])
				select {
				case <-goOn:
				default:
					close(goOn)
				}
			}
			if name == "compactions" {
				past = decoded[wirePast](t, []byte(data))
			}
			return name == "compactions" && len(past.Compactions) > 0
		})
		require.NoError(t, <-ended)
		require.Contains(t, names, "progress")
		require.False(t, past.Reset)
		c := past.Compactions[0]
		require.Equal(t, trigger, c.Trigger)
		require.Equal(t, "ok", c.Result)
		require.Equal(t, int64(1), c.Count)
		st := s.Stats()
		require.Equal(t, st.BytesReclaimed, c.BytesReclaimed)
		require.Equal(t, st.CompactionDetails.BytesCopied, c.BytesCopied)
		require.Equal(t, st.LastCompactionDuration.Seconds(), c.Duration)
		require.True(t, st.LastCompaction.Equal(c.End))
		require.Positive(t, c.SwapPause)
		require.LessOrEqual(t, c.SwapPause, st.MaxSwapPause.Seconds())

		readEvents(t, h, func(name, data string) bool {
			if name == "compactions" {
				past = decoded[wirePast](t, []byte(data))
			}
			return name == "compactions"
		})
		require.True(t, past.Reset)
		require.Equal(t, c, past.Compactions[0])
	}
}

// Goal: there is a bound on open streams, and a closed stream makes room for another.
func TestEvents_Bounded(t *testing.T) {
	h := handlerOf(t, openStore(t, nil), Options{})
	server := httptest.NewServer(h)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(ctx context.Context) (*http.Response, int) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/v1/events", http.NoBody)
		require.NoError(t, err)
		answer, err := server.Client().Do(r)
		require.NoError(t, err)
		return answer, answer.StatusCode
	}
	first, cancelFirst := context.WithCancel(ctx)
	for i := range maxStreams {
		c := ctx
		if i == 0 {
			c = first
		}
		_, code := open(c)
		require.Equal(t, http.StatusOK, code)
	}
	answer, code := open(ctx)
	require.Equal(t, http.StatusTooManyRequests, code)
	require.NoError(t, answer.Body.Close())
	cancelFirst()
	require.Eventually(t, func() bool { return h.streams.Load() < maxStreams }, time.Minute, time.Millisecond)
	_, code = open(ctx)
	require.Equal(t, http.StatusOK, code)
	cancel()
}

// Goal: Close ends streams, and leaves no goroutine. Method: a bubble of synctest does not end with one.
func TestEvents_SamplerEnds(t *testing.T) {
	s := openStore(t, &warmtier.Options{Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
	synctest.Test(t, func(t *testing.T) {
		h := New(s, Options{})
		time.Sleep(10*time.Second + time.Millisecond) //nolint:forbidigo // the clock is synctest's
		synctest.Wait()
		require.Len(t, h.stores[0].recorder.samples, 11, "one at once, and one each second")
		streamed := make(chan string, 1)
		go func() { streamed <- ask(h, "GET", "/api/v1/events", nil).Body.String() }()
		synctest.Wait()
		require.NoError(t, h.Close())
		require.Contains(t, <-streamed, "event: samples")
		synctest.Wait()
	})
}

// nowhere is a space of which nothing is known.
func nowhere() warmtier.Space { return warmtier.Space{Memory: -1, Disk: -1} }

// statsWith are statistics with compactions that ended, by trigger and result.
func statsWith(manual, auto warmtier.CompactionResults, reclaimed int64) warmtier.Stats {
	return warmtier.Stats{BytesReclaimed: reclaimed,
		CompactionDetails: warmtier.CompactionDetails{Manual: manual, Automatic: auto},
		LastCompaction:    time.Unix(1000, 0), LastCompactionDuration: time.Second}
}

// Goal: what ended between two looks is in the timeline once, whatever it was; what ended before the first
// look is not, since nothing tells how much of the sums is its.
func TestRecorder_Timeline(t *testing.T) {
	r := newRecorder(nowhere)
	now := time.Unix(2000, 0)
	none := warmtier.CompactionResults{}
	for i, st := range []warmtier.Stats{
		statsWith(warmtier.CompactionResults{OK: 5}, none, 100), // before
		statsWith(warmtier.CompactionResults{OK: 5}, none, 100),
		statsWith(warmtier.CompactionResults{OK: 6}, none, 130),
		statsWith(warmtier.CompactionResults{OK: 6, Cancelled: 1}, none, 130),
		statsWith(warmtier.CompactionResults{OK: 6, Cancelled: 1}, warmtier.CompactionResults{Failed: 1}, 140),
		statsWith(warmtier.CompactionResults{OK: 8, Cancelled: 1}, warmtier.CompactionResults{OK: 1, Failed: 1}, 200),
	} {
		r.observe(now.Add(time.Duration(i)*lookEvery), st)
	}
	var told []string
	for _, c := range r.since(&position{}).compactions {
		text, err := json.Marshal([]any{c.Trigger, c.Result, c.Count, c.BytesReclaimed})
		require.NoError(t, err)
		told = append(told, string(text))
	}
	require.Equal(t, []string{`["manual","ok",1,30]`, `["manual","cancelled",1,0]`, `["auto","failed",1,10]`,
		`["manual+auto","ok",3,60]`}, told)
}

// Goal: what is kept of the past has a bound, and a stream that is behind gets what is left of it.
func TestRecorder_Bounded(t *testing.T) {
	r := newRecorder(nowhere)
	now := time.Unix(2000, 0)
	var p position
	r.since(&p)
	for i := range int64(maxSamples + 100) {
		st := statsWith(warmtier.CompactionResults{OK: i}, warmtier.CompactionResults{}, i)
		r.observe(now.Add(time.Duration(i)*time.Second), st)
	}
	n := r.since(&p)
	require.Len(t, n.samples, maxSamples)
	require.Len(t, n.compactions, maxCompactions)
	require.Equal(t, float64(2000+100), n.samples[0][0])
	require.Empty(t, r.since(&p).samples)
	require.Len(t, r.reads, readSamples+1)
	require.Len(t, r.puts, otherSamples+1)
	r.observe(now.Add(time.Hour*2), warmtier.Stats{})
	require.Len(t, r.since(&p).samples, 1)
}

// Goal: percentiles are those of the last ten seconds, and null when nothing was read in them.
func TestRecorder_Latency(t *testing.T) {
	s := openStore(t, &warmtier.Options{Maintenance: warmtier.MaintenanceOptions{Disabled: true}})
	require.NoError(t, s.Put("a", nil))
	r := newRecorder(nowhere)
	now := time.Unix(2000, 0)
	r.observe(now, s.Stats())
	for range 10_000 {
		_, err := s.Get("a")
		require.NoError(t, err)
	}
	for i := 1; i <= 12; i++ {
		r.observe(now.Add(time.Duration(i)*time.Second), s.Stats())
	}
	samples := r.since(&position{}).samples
	p50 := slices.Index(columns, "get_p50_seconds")
	require.True(t, math.IsNaN(samples[0][p50]))
	for i := 1; i <= 10; i++ {
		require.Equal(t, samples[1][p50:p50+3], samples[i][p50:p50+3])
		require.Positive(t, samples[i][p50])
	}
	require.True(t, math.IsNaN(samples[11][p50]))
	require.Equal(t, 10_000.0, samples[1][6], "reads a second")
	text, err := json.Marshal(samples[11])
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(text), ",null,null,null]"), "%s", text)
}

// Goal: the swap pause in the timeline is that of this compaction, not the longest of all.
func TestRecorder_SwapPause(t *testing.T) {
	swaps := func(short, long int64) warmtier.Stats {
		st := statsWith(warmtier.CompactionResults{OK: short + long}, warmtier.CompactionResults{}, 0)
		st.CompactionDetails.SwapDuration = warmtier.Histogram{
			Bounds: []time.Duration{time.Microsecond, 4 * time.Microsecond},
			Counts: []int64{short, long, 0}, Count: short + long,
		}
		st.MaxSwapPause = 3 * time.Microsecond
		return st
	}
	r := newRecorder(nowhere)
	now := time.Unix(2000, 0)
	r.observe(now, swaps(0, 0))
	r.observe(now, swaps(0, 1))
	r.observe(now, swaps(1, 1))
	past := r.since(&position{}).compactions
	require.Len(t, past, 2)
	require.Equal(t, 3e-6, past[0].SwapPause, "never above what was exactly measured")
	require.Equal(t, 1e-6, past[1].SwapPause)
}
