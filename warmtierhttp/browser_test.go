package warmtierhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"image/color"
	"image/png"
	"math"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

var (
	screenshot       = flag.String("screenshot", "", "write a screenshot of -screenshot-url to `file`")
	screenshotURL    = flag.String("screenshot-url", "http://127.0.0.1:8089/", "the page of a running server")
	screenshotWidth  = flag.Int64("screenshot-width", 1600, "CSS pixels")
	screenshotScheme = flag.String("screenshot-scheme", "light", "light or dark")
	pictures         = flag.String("pictures", "", "write what the tests of the page see to `directory`, to be looked at")
)

// browser is a tab of a real browser that collects what its console has to complain about.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

func newBrowser(t *testing.T) *browser { return newBrowserAt(t, "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1") }

// newBrowserAt is a tab of a browser with rules of its own for names, so that it asks no name server. Tests
// with the same rules share the browser, since starting one takes longer than the tests do.
func newBrowserAt(t *testing.T, rules string) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{os.Getenv("WARMTIER_BROWSER"), "chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil && path == "" {
			path = found
		}
	}
	if path == "" {
		t.Skip("no browser: neither chromium nor google-chrome is installed, WARMTIER_BROWSER names none")
	}
	parent := browsers[rules]
	if parent == nil {
		ctx, _ := chromedp.NewExecAllocator(browsersEnd, append(chromedp.DefaultExecAllocatorOptions[:],
			chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
			chromedp.Flag("host-resolver-rules", rules), chromedp.Flag("disable-quic", true),
			chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
			chromedp.Flag("disable-background-networking", true))...)
		parent, _ = chromedp.NewContext(ctx)
		require.NoError(t, chromedp.Do(parent))
		browsers[rules] = parent
	}
	b := &browser{t: t}
	ctx, cancel := chromedp.NewContext(parent)
	t.Cleanup(cancel)
	b.ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Listen(b.ctx, b.listen))
	return b
}

// browsers are those that run, by their rules for names, until endBrowsers.
var (
	browsers                 = map[string]context.Context{}
	browsersEnd, endBrowsers = context.WithCancel(context.Background())
)

func TestMain(m *testing.M) {
	m.Run()
	for _, ctx := range browsers {
		_ = chromedp.Cancel(ctx) // waits for it
	}
	endBrowsers()
}

// listen is told everything that happens in the tab.
func (b *browser) listen(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		details := ev.ExceptionDetails
		b.complaints = append(b.complaints, fmt.Sprint("exception: ", details.Text, details.Exception))
	case *runtime.EventConsoleAPICalled:
		b.complaints = append(b.complaints, fmt.Sprint("console: ", ev.Type))
	case *log.EventEntryAdded:
		b.complaints = append(b.complaints, fmt.Sprint(ev.Entry.Level, ": ", ev.Entry.Text, " ", ev.Entry.URL))
	}
}

// complained is what the console had to complain about since the last call.
func (b *browser) complained() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.complaints
	b.complaints = nil
	return list
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, steps...))
}

// show opens a page at a width and in a colour scheme.
func (b *browser) show(url string, width int64, scheme string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, 1000), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}), chromedp.Navigate(url))
}

// eval evaluates an expression. Polling in the page would need eval there, which its policy forbids.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	require.NoError(b.t, err, expression)
	return v
}

// until waits for an expression to become true.
func (b *browser) until(expression string) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		return err == nil && ok
	}, time.Minute, 50*time.Millisecond, expression)
}

// picture writes what the tab shows to a file, when -pictures asks for it.
func (b *browser) picture(name string) {
	b.t.Helper()
	if *pictures == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(*pictures, name+".png"), png, 0o644))
}

// text of an element.
func (b *browser) text(id string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.getElementById(%q).textContent", id))
}

// drawn is how many pixels of an element's picture differ from the most frequent one.
func drawn(b *browser, selector string) int {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.Screenshot(chromedp.CSS(selector)))
	require.NoError(b.t, err)
	img, err := png.Decode(bytes.NewReader(picture))
	require.NoError(b.t, err)
	counts, all, most := map[color.Color]int{}, 0, 0
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y++ {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x++ {
			counts[img.At(x, y)]++
			most = max(most, counts[img.At(x, y)])
			all++
		}
	}
	return all - most
}

// Goal: the page works in a real browser: charts draw and move, the map has cells, the button compacts with
// progress to be seen, and the console has nothing to say.
func TestBrowser_Page(t *testing.T) {
	s, reached, goOn := stopped(t)
	server := serveStore(t, s, Options{})
	b := newBrowser(t)
	b.show(server.URL, 1600, "light")
	b.until(`document.getElementById("connection").textContent === "live"`)
	b.until(`past.length > 0 && past[0].length >= 3`) // samples arrive
	b.until(`segments.length > 20`)
	for _, selector := range []string{"#bytes canvas", "#fragmentation canvas", "#latency canvas", "#map"} {
		require.Greater(t, drawn(b, selector), 500, selector)
	}
	require.Contains(t, b.text("tiles"), "Memories2,000")
	require.Contains(t, b.text("next"), "switched off")
	require.Contains(t, b.text("segments-count"), "sealed")

	// They move: a sample later the line is elsewhere, and what is dead is there to be seen.
	from := eval[float64](b, `charts[0].plot.scales.x.max`)
	b.until(fmt.Sprintf(`charts[0].plot.scales.x.max > %f`, from))
	require.Greater(t, eval[float64](b, `charts[0].plot.data[2].at(-1)`), 100_000.0, "dead bytes")

	b.do(chromedp.Click(chromedp.CSS("#compact")))
	<-reached
	b.until(`!document.getElementById("progress").hidden &&
		document.getElementById("progress-text").textContent.includes("round 1")`)
	require.True(t, eval[bool](b, `document.getElementById("compact").disabled`))
	b.until(`segments.some((s) => s.state === "compacting")`)
	b.picture("compacting")
	close(goOn)
	b.until(`document.getElementById("message").textContent.startsWith("Compacted: ")`)
	b.until(`charts[0].plot.data[2].at(-1) === 0`) // nothing is dead
	b.until(`document.querySelectorAll("#compactions tbody tr").length === 1`)
	require.Contains(t, b.text("compactions"), "manual")
	require.False(t, eval[bool](b, `document.getElementById("compact").disabled`))
	require.Equal(t, int64(1), s.Stats().Compactions)
	require.Greater(t, drawn(b, "#timeline"), 50)

	// A reload shows what was before.
	n := eval[int](b, `past[0].length`)
	b.do(chromedp.Reload())
	b.until(fmt.Sprintf(`past.length > 0 && past[0].length >= %d`, n))
	b.until(`document.querySelectorAll("#compactions tbody tr").length === 1`)

	b.do(chromedp.Click(chromedp.CSS("#run")))
	b.until(`document.getElementById("message").textContent.startsWith("Maintenance did nothing")`)
	requireBudget(t, s, b)
	require.Empty(t, b.complained())
}

// requireBudget checks that the page shows what the budget of s is used for, while it lasts and when a Put
// was refused, which waited for memory first.
func requireBudget(t *testing.T, s *warmtier.Store, b *browser) {
	t.Helper()
	require.Equal(t, "none", b.text("waits"))
	require.Contains(t, b.text("budget"), "of 4.0 MiB used")
	require.Contains(t, b.text("memory-parts"), "free")
	var err error
	for n := 0; err == nil; n++ {
		err = s.Put(fmt.Sprint("more ", n), make([]byte, 500))
	}
	require.ErrorIs(t, err, warmtier.ErrNoSpace)
	b.until(`document.getElementById("waits").textContent.startsWith("1 for memory, 99 % up to ")`)
	st := s.Stats()
	used := float64(st.MappedBytes + st.SegmentDetails.SpareBytes)
	require.Contains(t, b.text("budget"), fmt.Sprintf("%.1f %%", 100*used/float64(st.MaxBytes)))
	widths := map[string]float64{}
	require.NoError(t, json.Unmarshal([]byte(eval[string](b, `JSON.stringify(Object.fromEntries(
		[...document.getElementById("memory").children].map((e) => [e.className, parseFloat(e.style.width)])))`)), &widths))
	total := 0.0
	for _, width := range widths {
		total += width
	}
	require.InDelta(t, 100, total, 0.1, "%v", widths)
	require.InDelta(t, 100*float64(st.LiveBytes)/float64(st.MaxBytes), widths["part live"], 0.1)
	require.InDelta(t, 100*float64(st.SegmentDetails.ReserveBytes)/float64(st.MaxBytes), widths["part reserve"], 0.1)
	require.Greater(t, drawn(b, "#memory"), 500)
}

// Goal: the map shows what is dead as red and what is live as green, and outlines what is active or pinned.
// Method: the colours of pixels in the middle of cells, and in their corners. One memory in forty stays of those
// that are deleted: a segment with nothing live would leave at once.
func TestBrowser_Map(t *testing.T) {
	s := openStore(t, &warmtier.Options{
		SegmentSize: 64 << 10, Maintenance: warmtier.MaintenanceOptions{Disabled: true},
	})
	for n := range 4000 {
		require.NoError(t, s.Put(fmt.Sprint("memory ", n), make([]byte, 500)))
	}
	for n := range 1000 {
		if n%40 != 0 {
			_, err := s.Delete(fmt.Sprint("memory ", n))
			require.NoError(t, err)
		}
	}
	server := serveStore(t, s, Options{})
	b := newBrowser(t)
	require.NoError(t, s.View(inSealedSegment(t, s), func([]byte) error {
		b.show(server.URL, 1600, "light")
		b.until(`segments.some((s) => s.pins > 0 && s.state === "sealed")`)
		pixel := func(which string, from string) []int {
			return eval[[]int](b, fmt.Sprintf(`(() => {
				const i = segments.findIndex((s) => %s), size = layout.size, at = %s;
				const x = (i %% layout.perRow) * size + at, y = Math.floor(i / layout.perRow) * size + at;
				return [...document.getElementById("map").getContext("2d").getImageData(x, y, 1, 1).data].slice(0, 3);
			})()`, which, from))
		}
		const middle, corner = "Math.floor(size / 2)", "3"
		dead := pixel(`s.dead_bytes > 9 * s.live_bytes && s.state === "sealed"`, middle)
		require.Greater(t, dead[0], 2*dead[1], "red: %v", dead)
		live := pixel(`s.dead_bytes === 0 && s.state === "sealed"`, middle)
		require.Greater(t, live[1], 2*live[0], "green: %v", live)
		require.Equal(t, []int{0x7a, 0x3f, 0xc4}, pixel(`s.pins > 0`, corner), "pinned")
		require.Equal(t, []int{0x0a, 0x5f, 0xc2}, pixel(`s.state === "active" && s.pins === 0`, corner), "active")
		require.Equal(t, live, pixel(`s.dead_bytes === 0 && s.state === "sealed" && s.pins === 0`, corner), "no outline")
		return nil
	}))
	for _, complaint := range b.complained() { // about this test, which reads pixel by pixel
		require.Contains(t, complaint, "getImageData")
	}
}

// inSealedSegment returns the id of a memory whose segment is sealed. Where a memory lies is up to a hash that
// differs from store to store.
func inSealedSegment(t *testing.T, s *warmtier.Store) (found string) {
	t.Helper()
	for id := range s.All() { // which pins the segment of id
		for _, seg := range s.Segments() {
			if seg.Pins > 0 && seg.State == warmtier.SegmentSealed && seg.DeadBytes == 0 {
				return id
			}
		}
	}
	require.Fail(t, "no segment is sealed and live")
	return ""
}

// Goal: a compaction that was asked for on the page can be cancelled there, and what it had done is told, by another
// connection where the first one is lost.
func TestBrowser_Cancel(t *testing.T) {
	for name, lost := range map[string]bool{"connected": false, "connection lost": true} {
		t.Run(name, func(t *testing.T) {
			s, reached, goOn := stopped(t)
			gone := make(chan struct{})
			server := serveStore(t, s, Options{})
			server.Config.Handler = goneNotifier(server.Config.Handler, gone)
			b := newBrowser(t)
			b.show(server.URL, 1600, "dark")
			b.until(`document.getElementById("connection").textContent === "live"`)
			b.do(chromedp.Click(chromedp.CSS("#compact")))
			<-reached
			b.do(chromedp.Click(chromedp.CSS("#cancel")))
			<-gone
			if lost {
				server.CloseClientConnections()
			}
			close(goOn)
			b.until(`document.getElementById("message").textContent.startsWith("Compaction cancelled")`)
			// Its first round had not ended, so there is nothing that stays. It is no failure, and not red.
			b.until(`document.getElementById("message").textContent === "Compaction cancelled: nothing has changed."`)
			b.until(`document.querySelector("#compactions td.soft")?.textContent === "cancelled"`)
			require.Zero(t, eval[int](b, `document.querySelectorAll("#compactions td.bad").length`))
			require.Equal(t, "cancelled", eval[string](b, `triggerColour(compactions[0])`))
			b.picture("cancelled, " + name)
			require.Equal(t, int64(1), s.Stats().CompactionDetails.Manual.Cancelled)
			if !lost { // of which the browser complains by itself
				require.Empty(t, b.complained())
			}
		})
	}
}

// Goal: the page asks for the token when one is needed, again when it is wrong, and not once it has it.
func TestBrowser_Token(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	server := serveStore(t, s, Options{Token: "correct horse"})
	b := newBrowser(t)
	b.show(server.URL, 400, "light")
	b.do(chromedp.Click(chromedp.CSS("#compact")))
	b.until(`document.getElementById("token-dialog").open`)
	require.True(t, eval[bool](b, `document.getElementById("progress").hidden`), "nothing is accepted yet")
	require.NotContains(t, eval[string](b, `document.querySelector("main").innerText`), "Compacting")
	b.picture("token")
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "wrong\r"))
	b.until(`document.getElementById("token-text").textContent.startsWith("That is not the token")`)
	require.Zero(t, s.Stats().Compactions)
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "correct horse\r"))
	b.until(`document.getElementById("message").textContent.startsWith("Compacted: ")`)
	b.do(chromedp.Reload())
	b.do(chromedp.Click(chromedp.CSS("#run")))
	b.until(`document.getElementById("message").textContent.startsWith("Maintenance did nothing")`)
	require.Equal(t, int64(1), s.Stats().Compactions)
	for _, complaint := range b.complained() { // the browser logs each 401 by itself
		require.Contains(t, complaint, "401")
	}
}

// Goal: a button reads everything, with the token where one is needed, and the page says what was found.
func TestBrowser_Verify(t *testing.T) {
	dir := t.TempDir()
	s, err := warmtier.Open(dir, nil)
	require.NoError(t, err)
	require.NoError(t, s.Put("secret", []byte("content")))
	require.NoError(t, s.Sync())
	server := serveStore(t, s, Options{Token: "correct horse"})
	b := newBrowser(t)
	b.show(server.URL, 400, "light")
	b.do(chromedp.Click(chromedp.CSS("#verify")))
	b.until(`document.getElementById("token-dialog").open`)
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), "correct horse\r"))
	b.until(`document.getElementById("message").textContent.startsWith("Verified: 1 records in 1 segments read, ")`)
	require.Contains(t, b.text("message"), "Nothing is wrong.")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("rubbish"), 0o600))
	b.do(chromedp.Click(chromedp.CSS("#verify")))
	b.until(`document.getElementById("message").textContent.includes("1 finding, first: MANIFEST")`)
	require.NotContains(t, b.text("message"), "secret")
	require.False(t, eval[bool](b, `document.getElementById("verify").disabled`))
	b.picture("verified")
	for _, complaint := range b.complained() { // the browser logs each 401 by itself
		require.Contains(t, complaint, "401")
	}
	require.NoError(t, s.Close())
}

// Goal: the page fits a telephone and a wide screen in light and dark: nothing is wider than the window,
// and text stands out from what it is written on by the 4.5 to 1 of WCAG 2 level AA.
func TestBrowser_FitsAndIsReadable(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	server := serveStore(t, s, Options{})
	_, err := s.Compact(t.Context())
	require.NoError(t, err)
	b := newBrowser(t)
	backgrounds := map[string]string{}
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{320, 400, 820, 1280, 1600} {
			t.Run(fmt.Sprint(scheme, " ", width), func(t *testing.T) {
				b.show(server.URL, width, scheme)
				b.until(`segments.length > 0 && stats != null && compactions.length > 0`)
				b.picture(fmt.Sprint("busy ", width, " ", scheme))
				require.Empty(t, eval[[]string](b, tooWide))
				require.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width)
				for _, pair := range eval[[][]string](b, textColours) {
					contrast := contrastOf(t, pair[1], pair[2])
					require.GreaterOrEqual(t, contrast, 4.5, "%s: %s on %s", pair[0], pair[1], pair[2])
				}
				require.Greater(t, drawn(b, "#bytes canvas"), 300)
				backgrounds[scheme] = eval[string](b, `getComputedStyle(document.body).backgroundColor`)
			})
		}
	}
	require.NotEqual(t, backgrounds["light"], backgrounds["dark"])
	require.Empty(t, b.complained())
}

// tooWide lists the elements that stick out of the window, or whose content does.
const tooWide = `[...document.querySelectorAll("body *")].filter((e) => {
	const box = e.getBoundingClientRect();
	return box.width > 0 && !e.closest(".u-over, .u-under") &&
		(box.right > innerWidth + 0.5 || box.left < -0.5 ||
		e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display !== "inline");
}).map((e) => e.tagName + "#" + e.id + "." + e.className + " " + e.scrollWidth + ">" + e.clientWidth)`

// textColours lists the elements with text of their own: name, colour, and that of what is behind it.
const textColours = `[...document.querySelectorAll("body *")].filter((e) => e.getClientRects().length > 0 &&
	!e.disabled && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim() !== "")).map((e) => {
	let behind = e;
	while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
	return [e.tagName + "#" + e.id, getComputedStyle(e).color, getComputedStyle(behind || document.body).backgroundColor];
})`

// contrastOf is the contrast ratio of WCAG 2.
func contrastOf(t *testing.T, a, b string) float64 {
	t.Helper()
	luminance := func(text string) float64 {
		var c [3]float64
		_, err := fmt.Sscanf(text, "rgb(%f, %f, %f)", &c[0], &c[1], &c[2])
		require.NoError(t, err, text)
		for i, v := range c {
			if v /= 255; v <= 0.04045 {
				c[i] = v / 12.92
			} else {
				c[i] = math.Pow((v+0.055)/1.055, 2.4)
			}
		}
		return 0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2]
	}
	high, low := luminance(a), luminance(b)
	if high < low {
		high, low = low, high
	}
	return (high + 0.05) / (low + 0.05)
}

// Goal: a page of another origin, and one whose name was let point here, change nothing and read nothing.
// Method: the browser itself opens them; its own headers are what is refused.
func TestBrowser_OtherOrigins(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	server := serveStore(t, s, Options{})
	other := httptest.NewServer(nil) // any page there is of another origin: the port differs
	defer other.Close()
	b := newBrowser(t)
	b.show(other.URL, 800, "light")
	for _, mode := range []string{"no-cors", "cors"} {
		result, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](fmt.Sprintf(
			`fetch(%q, {method: "POST", mode: %q}).then((r) => "type " + r.type, (e) => "error")`,
			server.URL+"/api/v1/maintenance/compact", mode), chromedp.EvalAwaitPromise))
		require.NoError(t, err)
		require.Contains(t, []string{"type opaque", "error"}, result)
	}
	read, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](fmt.Sprintf(
		`fetch(%q).then((r) => r.text(), (e) => "error")`, server.URL+"/api/v1/stats"), chromedp.EvalAwaitPromise))
	require.NoError(t, err)
	require.Equal(t, "error", read)
	require.Zero(t, s.Stats().CompactionDetails.Manual)

	// Rebinding: the name resolves to this machine, so for the browser it is one origin.
	rebound := newBrowserAt(t, "MAP attacker.example 127.0.0.1")
	url := strings.Replace(server.URL, "127.0.0.1", "attacker.example", 1)
	rebound.show(url, 800, "light")
	var refused wireError
	require.NoError(t, json.Unmarshal([]byte(eval[string](rebound, `document.body.textContent`)), &refused))
	require.Equal(t, "unknown_host", refused.Code)
}

// Not a test: takes a picture of a page that runs elsewhere.
func TestBrowser_Screenshot(t *testing.T) {
	if *screenshot == "" {
		t.Skip("no -screenshot asked for")
	}
	b := newBrowser(t)
	b.show(*screenshotURL, *screenshotWidth, *screenshotScheme)
	b.until(`document.getElementById("connection").textContent === "live" && stats != null &&
		(segments.length > 0 || stats.memories === 0)`)
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(*screenshot, picture, 0o644))
}
