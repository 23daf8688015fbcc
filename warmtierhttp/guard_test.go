package warmtierhttp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// Goal: only names that are allowed reach anything, reading included: a name that was let point here makes
// the attacker's page one of the same origin, which no check of origins sees.
func TestGuard_Hosts(t *testing.T) {
	h := handlerOf(t, openStore(t, nil), Options{Hosts: []string{"Admin.Internal", "10.1.2.3"}})
	for host, allowed := range map[string]bool{
		"localhost": true, "LOCALHOST:80": true, "localhost.": true, "127.0.0.1": true, "127.9.9.9:8089": true,
		"[::1]": true, "[::1]:8089": true, "admin.internal": true, "ADMIN.internal.:443": true, "10.1.2.3:1": true,
		"": false, "attacker.example": false, "attacker.example:8089": false, "localhost.attacker.example": false,
		"10.1.2.4": false, "0.0.0.0": false, "[::]:8089": false, "notlocalhost": false, "127.0.0.1.example": false,
		"admin.internal.example": false, "localhost:80:80": false,
	} {
		for _, target := range []string{"/", "/metrics", "/api/v1/stats", "/static/page.js"} {
			w := ask(h, "GET", target, func(r *http.Request) { r.Host = host })
			if allowed {
				require.Equal(t, http.StatusOK, w.Code, "%q", host)
				continue
			}
			require.Equal(t, http.StatusForbidden, w.Code, "%q", host)
			require.Equal(t, "unknown_host", decoded[wireError](t, w.Body.Bytes()).Code)
		}
	}
}

// Goal: a pattern lets in what it says and no more: names below a name, addresses in a range. One that says
// nothing lets nothing in, and the log has it.
func TestGuard_HostPatterns(t *testing.T) {
	var logged bytes.Buffer
	h := handlerOf(t, openStore(t, nil), Options{
		Hosts:  []string{"*.Svc.Internal", "10.0.0.0/8", "fd00::/8", "*", "*.", "", "a*b", "10.0.0.0/99", "name:8089", "x/y"},
		Logger: slog.New(slog.NewTextHandler(&logged, nil)),
	})
	for host, allowed := range map[string]bool{
		"a.svc.internal": true, "A.B.SVC.INTERNAL.:443": true, "10.0.0.1": true, "10.255.1.2:8089": true,
		"[fd00::1]:80": true, "[::ffff:10.1.2.3]": true, "localhost": true,
		"svc.internal": false, ".svc.internal": false, "xsvc.internal": false, "a.svc.internal.example": false,
		"11.0.0.1": false, "10.0.0.1.example": false, "[fe00::1]": false, "": false, "*": false, "name": false,
		"name:8089": false, "axb": false, "attacker.example": false, "10.0.0.0/8": false,
	} {
		want := http.StatusForbidden
		if allowed {
			want = http.StatusOK
		}
		require.Equal(t, want, ask(h, "GET", "/", func(r *http.Request) { r.Host = host }).Code, "%q", host)
	}
	for _, pattern := range []string{`\"*\"`, `\"*.\"`, `\"\"`, `\"a*b\"`, `10.0.0.0/99`, `\"name:8089\"`, `\"x/y\"`} {
		require.Contains(t, logged.String(), "allowed host "+strings.Replace(pattern, "10.0.0.0/99", `\"10.0.0.0/99\"`, 1))
	}
	require.NotContains(t, logged.String(), "Svc")
}

// Goal: a refused name is told, with what lets it in.
func TestGuard_HostIsTold(t *testing.T) {
	w := ask(handlerOf(t, openStore(t, nil), Options{}), "GET", "/", func(r *http.Request) { r.Host = "10.1.2.3:8089" })
	require.Contains(t, decoded[wireError](t, w.Body.Bytes()).Error, `"10.1.2.3:8089"`)
	require.Contains(t, decoded[wireError](t, w.Body.Bytes()).Error, "Options.Hosts")
}

// Goal: by default only loopback names are allowed.
func TestGuard_LoopbackByDefault(t *testing.T) {
	h := handlerOf(t, openStore(t, nil), Options{})
	refused := ask(h, "GET", "/", func(r *http.Request) { r.Host = "admin.internal" })
	require.Equal(t, http.StatusForbidden, refused.Code)
	require.Equal(t, http.StatusOK, ask(h, "GET", "/", nil).Code)
}

// Goal: pages of other origins change nothing, whether the browser says so in Sec-Fetch-Site or Origin.
func TestGuard_Origins(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	h := handlerOf(t, s, Options{})
	for _, row := range []struct {
		name, header, value string
		allowed             bool
	}{
		{"another site", "Sec-Fetch-Site", "cross-site", false},
		{"another port of this machine", "Sec-Fetch-Site", "same-site", false},
		{"an old browser, another origin", "Origin", "http://attacker.example", false},
		{"an old browser, another port", "Origin", "http://localhost:1", false},
		{"an opaque origin", "Origin", "null", false},
		{"the page itself", "Sec-Fetch-Site", "same-origin", true},
		{"the page itself in an old browser", "Origin", "http://localhost:8089", true},
		{"no browser", "X-Nothing", "", true},
	} {
		for _, target := range []string{compactPath, compactPath + "?wait=false", "/api/v1/maintenance/run"} {
			before := s.Stats()
			w := ask(h, "POST", target, func(r *http.Request) { r.Header.Set(row.header, row.value) })
			if row.allowed {
				require.Less(t, w.Code, 300, "%s: %s", row.name, w.Body)
				if w.Code == http.StatusAccepted {
					statusOf(t, h, w)
				}
				continue
			}
			require.Equal(t, http.StatusForbidden, w.Code, row.name)
			require.Equal(t, "cross_origin", decoded[wireError](t, w.Body.Bytes()).Code)
			require.Equal(t, before.Compactions, s.Stats().Compactions)
			require.Equal(t, before.Maintenance.Cycles, s.Stats().Maintenance.Cycles)
		}
	}
}

// Goal: with a token set, nothing changes state without it, and reading needs none. Neither answers nor the
// log have it.
func TestGuard_Token(t *testing.T) {
	const token = "correct horse battery"
	s := fragmented(t, &warmtier.Options{})
	var logged bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := handlerOf(t, s, Options{Token: token, Logger: logger})
	for header, allowed := range map[string]bool{
		"": false, "Bearer": false, "Bearer ": false, "Bearer wrong": false, token: false, "Basic " + token: false,
		"Bearer " + token[:len(token)-1]: false, "Bearer " + token + "x": false, "Bearer " + strings.ToUpper(token): false,
		"Bearer " + token: true, "bearer " + token: true,
	} {
		for _, target := range []string{compactPath, "/api/v1/maintenance/run", "/nowhere"} {
			w := ask(h, "POST", target, func(r *http.Request) { r.Header.Set("Authorization", header) })
			require.NotContains(t, w.Body.String(), token)
			if allowed {
				require.NotEqual(t, http.StatusUnauthorized, w.Code, "%q", header)
				continue
			}
			require.Equal(t, http.StatusUnauthorized, w.Code, "%q", header)
			require.True(t, strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Bearer"))
		}
		require.Equal(t, http.StatusOK, ask(h, "GET", "/api/v1/stats", nil).Code)
	}
	require.Equal(t, int64(2), s.Stats().CompactionDetails.Manual.OK)
	require.Contains(t, logged.String(), "reason=token")
	require.Contains(t, logged.String(), "compaction asked for")
	require.NotContains(t, logged.String(), token)
}

// endless is a body without an end.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func (e *endless) Close() error { return nil }

// Goal: no more of a body is read than a bound, and a request with more does nothing.
func TestGuard_Body(t *testing.T) {
	s := fragmented(t, &warmtier.Options{})
	h := handlerOf(t, s, Options{})
	var body endless
	w := ask(h, "POST", compactPath, func(r *http.Request) { r.Body, r.ContentLength = &body, -1 })
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	require.LessOrEqual(t, body.read, 64<<10)
	require.Zero(t, s.Stats().Compactions)
	w = ask(h, "POST", compactPath, func(r *http.Request) {
		r.Body = http.NoBody
		r.ContentLength = 0
	})
	require.Equal(t, http.StatusOK, w.Code)
}

// Goal: no id is in any answer, also when the error is about one, and none in the log. Method: a store whose
// one live memory is damaged.
func TestGuard_NoIDs(t *testing.T) {
	s := damaged(t)
	_, err := s.Get(secret)
	require.ErrorIs(t, err, warmtier.ErrCorrupt)
	var logged bytes.Buffer
	h := handlerOf(t, s, Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	var answers strings.Builder
	answers.WriteString(ask(h, "POST", compactPath, nil).Body.String())
	require.Contains(t, answers.String(), "corrupt")
	answers.WriteString(ask(h, "POST", "/api/v1/maintenance/run", nil).Body.String())
	for _, target := range []string{"/", "/metrics", "/api/v1/stats", "/api/v1/segments"} {
		answers.WriteString(ask(h, "GET", target, nil).Body.String())
	}
	answers.Write(readEvents(t, h, func(string, string) bool { return true }))
	require.NotContains(t, answers.String(), secret)
	require.Contains(t, logged.String(), "compaction asked for")
	require.NotContains(t, logged.String(), secret)
}

// Goal: the charts are drawn by the very files that were published, version 1.6.32 as npm has it.
func TestPage_VendoredFiles(t *testing.T) {
	for name, want := range map[string]string{
		"uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
		"uPlot.min.css":     "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
	} {
		content, err := files.ReadFile("page/uplot/" + name)
		require.NoError(t, err)
		sum := sha256.Sum256(content)
		require.Equal(t, want, hex.EncodeToString(sum[:]), name)
	}
	license, err := files.ReadFile("page/uplot/LICENSE")
	require.NoError(t, err)
	require.Contains(t, string(license), "MIT")
}

// Goal: the page loads nothing from elsewhere, has no script or style in it, and what it names is there.
func TestPage_NeedsNothingElse(t *testing.T) {
	h := handlerOf(t, openStore(t, nil), Options{})
	page := ask(h, "GET", "/", nil).Body.String()
	addresses := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page, -1)
	require.Greater(t, len(addresses), 5)
	for _, a := range addresses {
		require.False(t, strings.HasPrefix(a[1], "/") || strings.Contains(a[1], "//"), "not relative: %s", a[1])
		require.Equal(t, http.StatusOK, ask(h, "GET", "/"+a[1], nil).Code, a[1])
	}
	require.NotRegexp(t, `style=|<style|\son[a-z]+=|<script[^>]*>[^<]`, page)
	for _, name := range []string{"figures.js", "charts.js", "text.js", "page.js", "page.css"} {
		require.NotContains(t, ask(h, "GET", "/static/"+name, nil).Body.String(), "://", name)
	}
}
