package warmtierhttp

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// server is a server of the page at an address that stays, so that it can go and come back.
type server struct {
	t       *testing.T
	address string
	http    *http.Server
	handler *Handler
	ended   chan struct{}
}

// serveAt serves s at address, of which port 0 is any.
func serveAt(t *testing.T, address string, s *warmtier.Store) *server {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	require.NoError(t, err)
	h := New(s, Options{})
	sv := &server{t: t, address: listener.Addr().String(), handler: h, ended: make(chan struct{}),
		http: &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}}
	go func() {
		defer close(sv.ended)
		_ = sv.http.Serve(listener) // until end
	}()
	t.Cleanup(sv.end)
	return sv
}

// end is the end of the process, for all that a client notices.
func (sv *server) end() {
	require.NoError(sv.t, sv.handler.Close())
	_ = sv.http.Close() // again at the end of the test
	<-sv.ended
}

// Goal: when the server is gone, the page says so and since when, its figures are grey, and nothing can be asked
// for; when it is back, all of that is over by itself. No word is one of the browser's.
func TestBrowser_ServerGone(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	first := serveAt(t, "127.0.0.1:0", s)
	b := newBrowser(t)
	for _, row := range []struct {
		width  int64
		scheme string
	}{{1280, "light"}, {400, "dark"}} {
		b.show("http://"+first.address+"/", row.width, row.scheme)
		b.until(`document.getElementById("connection").textContent === "live" && stats != null`)
		require.Equal(t, "1", eval[string](b, `getComputedStyle(document.getElementById("tiles")).opacity`))
		eval[float64](b, `silence = 1e9`) // a connection that ends is seen at once
		first.end()
		b.until(`document.getElementById("connection").textContent === "no connection"`)
		b.until(`document.getElementById("gone").textContent.includes("The server does not answer")`)
		require.Regexp(t, `What you see is of \d\d:\d\d:\d\d, \d+ s ago`, b.text("gone"))
		for _, id := range []string{"tiles", "memory", "alerts"} {
			require.Equal(t, "1", eval[string](b, fmt.Sprintf(
				`document.getElementById(%q).closest("main > *").matches(".stale main > *:not(#gone)") ? "1" : "0"`, id)))
		}
		require.Less(t, eval[float64](b, `parseFloat(getComputedStyle(document.getElementById("tiles")).opacity)`), 0.7)
		require.True(t, eval[bool](b, `document.getElementById("compact").disabled`))
		require.True(t, eval[bool](b, `document.getElementById("run").disabled`))
		require.True(t, eval[bool](b, `document.getElementById("verify").disabled`))
		b.picture(fmt.Sprint("gone ", row.width))
		require.NotContains(t, eval[string](b, `document.body.innerText`), "Failed to fetch")

		first = serveAt(t, first.address, s)
		b.until(`document.getElementById("connection").textContent === "live"`)
		require.True(t, eval[bool](b, `document.getElementById("gone").hidden`))
		require.False(t, eval[bool](b, `document.getElementById("compact").disabled`))
		require.Equal(t, "1", eval[string](b, `getComputedStyle(document.getElementById("tiles")).opacity`))
	}
	for _, complaint := range b.complained() { // the browser logs what it could not reach
		require.Regexp(t, "ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING|EMPTY_RESPONSE|CONNECTION_RESET)", complaint)
	}
}

// muted passes events on, until silent is set.
type muted struct {
	http.ResponseWriter
	silent *atomic.Bool
}

func (m muted) Write(p []byte) (int, error) {
	if m.silent.Load() {
		return len(p), nil
	}
	return m.ResponseWriter.Write(p)
}

func (m muted) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// Goal: a server that keeps the connection and says nothing more is one that is gone, until it says something.
func TestBrowser_ServerSilent(t *testing.T) {
	var silent atomic.Bool
	server := serveStore(t, fragmented(t, &warmtier.Options{}), Options{})
	h := server.Config.Handler
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(muted{w, &silent}, r)
	})
	b := newBrowser(t)
	b.show(server.URL, 1280, "light")
	b.until(`stats != null`)
	require.Equal(t, 5000.0, eval[float64](b, `silence`))
	eval[float64](b, `silence = 1500`) // or this test would take as long
	silent.Store(true)
	b.until(`document.getElementById("connection").textContent === "no connection"`)
	b.until(`!document.getElementById("gone").hidden`)
	silent.Store(false)
	b.until(`!stale && document.getElementById("gone").hidden`) // the next sample
}

// Goal: what is asked for while the server is gone is told in words.
func TestBrowser_AskedWhileGone(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	sv := serveAt(t, "127.0.0.1:0", s)
	b := newBrowser(t)
	b.show("http://"+sv.address+"/", 1280, "light")
	b.until(`stats != null`)
	sv.end()
	eval[bool](b, `(compact(), true)`) // a click in the moment before the page notices
	b.until(`document.getElementById("message").textContent === "Not compacted: the server does not answer."`)
	eval[bool](b, `(maintain(), true)`)
	b.until(`document.getElementById("message").textContent === "Not maintained: the server does not answer."`)
}

// Goal: an empty store looks like one, at both widths, light and dark: no figure is missing, and what is not
// there yet is said.
func TestBrowser_Empty(t *testing.T) {
	server := serveStore(t, openStore(t, nil), Options{})
	b := newBrowser(t)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{400, 1280} {
			b.show(server.URL, width, scheme)
			b.until(`stats != null && past.length > 0 && past[0].length > 0`)
			require.Contains(t, b.text("tiles"), "Memories0")
			require.Contains(t, b.text("about"), "in memory")
			b.until(`document.getElementById("map-text").textContent.startsWith("None yet")`)
			require.Contains(t, b.text("no-compactions"), "None yet")
			require.False(t, eval[bool](b, `latency.empty.hidden`), "nothing was read")
			text := eval[string](b, `document.body.innerText`)
			for _, word := range []string{"undefined", "NaN", "null", "Infinity"} {
				require.NotContains(t, text, word)
			}
			b.picture(fmt.Sprint("empty ", width, " ", scheme))
			require.Empty(t, eval[[]string](b, tooWide))
		}
	}
	require.Empty(t, b.complained())
}

// Goal: several stores are a choice: each at a glance, one in full, and what is asked for is for that one.
func TestBrowser_SeveralStores(t *testing.T) {
	stores := two(t)
	h := namedHandler(t, stores, Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	web := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() { _ = web.Close() })
	url := "http://" + listener.Addr().String() + "/"
	b := newBrowser(t)
	b.show(url, 1280, "light")
	b.until(`stats != null && document.querySelectorAll("#stores a").length === 2`)
	require.Equal(t, "sessions", b.text("name"), "the first")
	require.Contains(t, b.text("stores"), "2,000 memories")
	b.do(chromedp.Click(chromedp.CSS(`#stores a[href="?store=users"]`)))
	b.until(`document.getElementById("name").textContent === "users" && segments.length > 0`)
	require.Equal(t, "users", eval[string](b, `document.querySelector("#stores a[aria-current] b").textContent`))
	b.do(chromedp.Click(chromedp.CSS("#compact")))
	b.until(`document.getElementById("message").textContent.startsWith("Compacted: ")`)
	require.Equal(t, int64(1), stores["users"].Stats().Compactions)
	require.Zero(t, stores["sessions"].Stats().Compactions)
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{400, 1280} {
			b.show(url+"?store=users", width, scheme)
			b.until(`stats != null && segments.length > 0`)
			require.Empty(t, eval[[]string](b, tooWide))
			b.picture(fmt.Sprint("several ", width, " ", scheme))
		}
	}
	require.NoError(t, stores["sessions"].Close())
	b.do(chromedp.Reload())
	b.until(`document.querySelector("#stores .state.off")?.textContent === "closed"`)
	require.Empty(t, b.complained())
}

// Goal: the page of a store in a directory says which it is, since when, and how far it is durable.
func TestBrowser_Directory(t *testing.T) {
	dir := t.TempDir()
	s, err := warmtier.Open(dir, &warmtier.Options{SegmentSize: 64 << 10, SyncInterval: -1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.Put("a", make([]byte, 1000)))
	_, err = s.GetOrLoad(context.Background(), "b", func(context.Context) ([]byte, error) { return []byte("tea"), nil })
	require.NoError(t, err)
	server := serveStore(t, s, Options{})
	b := newBrowser(t)
	b.show(server.URL, 1280, "light")
	b.until(`stats != null`)
	require.Contains(t, b.text("about"), dir)
	require.Regexp(t, `opened \d\d:\d\d:\d\d`, b.text("about"))
	require.Regexp(t, `^1\.\d KiB, a power loss would take it$`, b.text("unsynced"))
	require.Regexp(t, `^1, 99 % up to .*none failed$`, b.text("loads"))
	require.Equal(t, "taken", b.text("writes"))
	require.Contains(t, b.text("tiles"), "Disk left")
	require.NoError(t, s.Sync())
	b.until(`document.getElementById("unsynced").textContent === "nothing"`)
	require.Regexp(t, `^[1-9]\d*, 99 % up to .*none failed$`, b.text("flushes"))
	b.do(chromedp.Click(chromedp.CSS(`#latency-choice [data-of="sync"]`)))
	b.until(`latency.empty.hidden && latency.plot.data[1].some((v) => v > 0)`)
	b.do(chromedp.Click(chromedp.CSS(`#latency-choice [data-of="load"]`)))
	require.Equal(t, "load", eval[string](b, `document.querySelector('#latency-choice [aria-pressed="true"]').dataset.of`))
	b.picture("directory 1280")
	require.NoError(t, s.Close())
	b.until(`document.getElementById("alerts").textContent === "The store is closed."`)
	require.Equal(t, "no: the store is closed", b.text("writes"))
	require.Empty(t, b.complained())
}

// Goal: charts with little history fill their width, and the time axis has labels that do not touch, also on a
// telephone.
func TestBrowser_TimeAxis(t *testing.T) {
	server := serveStore(t, fragmented(t, &warmtier.Options{}), Options{})
	b := newBrowser(t)
	for _, width := range []int64{400, 1280} {
		b.show(server.URL, width, "light")
		b.until(`past.length > 0 && past[0].length > 1`)
		require.LessOrEqual(t, eval[float64](b, `visible()[1] - visible()[0]`), 60.0, "of five minutes")
		// A past of any length, at any width, has two labels at least, apart by the width of one.
		for _, seconds := range []int{10, 30, 45, 60, 100, 299, 300, 900, 3600} {
			apart := eval[[]float64](b, fmt.Sprintf(`(() => {
				const u = charts[0].plot, pixels = u.bbox.width / devicePixelRatio;
				const ticks = timeTicks(u, 0, 1e9 - %d, 1e9);
				return ticks.slice(1).map((t, i) => (t - ticks[i]) / %d * pixels);
			})()`, seconds, seconds))
			require.NotEmpty(t, apart, "%d s at %d", seconds, width)
			for _, pixels := range apart {
				require.GreaterOrEqual(t, pixels, 60.0, "%d s at %d", seconds, width)
			}
		}
	}
	require.Empty(t, b.complained())
}

// Goal: tiles are in full rows: two, five or ten side by side.
func TestBrowser_Tiles(t *testing.T) {
	server := serveStore(t, fragmented(t, &warmtier.Options{}), Options{})
	b := newBrowser(t)
	for width, wanted := range map[int64]int{400: 2, 700: 5, 1280: 5, 1600: 10} {
		b.show(server.URL, width, "light")
		b.until(`stats != null`)
		require.Equal(t, 10, eval[int](b, `document.querySelectorAll("#tiles div").length`))
		require.Equal(t, wanted, eval[int](b, `(() => {
			const tops = [...document.querySelectorAll("#tiles div")].map((e) => e.getBoundingClientRect().top);
			return tops.filter((top) => top === tops[0]).length;
		})()`), "%d", width)
	}
}

// Goal: a compaction is to be seen in each chart, however short it was. Method: the pixels at its end, a
// quarter down, where no line of an idle store is.
func TestBrowser_CompactionsInCharts(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	server := serveStore(t, s, Options{})
	b := newBrowser(t)
	b.show(server.URL, 1280, "light")
	b.until(`past.length > 0 && past[0].length > 1`)
	_, err := s.Compact(t.Context())
	require.NoError(t, err)
	b.until(`compactions.length === 1 && past[0].at(-1) > Date.parse(compactions[0].end) / 1000`)
	for chart := range 4 {
		b.until(fmt.Sprintf(`(() => {
			const u = charts[%d].plot, { top, height } = u.bbox;
			const x = Math.round(u.valToPos(Date.parse(compactions[0].end) / 1000, "x", true));
			const pixels = u.ctx.getImageData(x - 2, Math.round(top + height / 4) + 3, 5, 1).data;
			for (let i = 0; i < pixels.length; i += 4) {
				if (pixels[i + 3] > 100 && pixels[i + 2] > pixels[i] + 80) return true; // blue, as manual ones are
			}
			return false;
		})()`, chart))
	}
}
