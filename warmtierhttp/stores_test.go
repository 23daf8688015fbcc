package warmtierhttp

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// two are stores named sessions, which is empty, and users, which has dead bytes.
func two(t *testing.T) map[string]*warmtier.Store {
	t.Helper()
	return map[string]*warmtier.Store{
		"users":    fragmented(t, &warmtier.Options{}),
		"sessions": openStore(t, &warmtier.Options{Maintenance: warmtier.MaintenanceOptions{Disabled: true}}),
	}
}

// namedHandler is a handler for stores without a server.
func namedHandler(t *testing.T, stores map[string]*warmtier.Store, opts Options) *Handler {
	t.Helper()
	h := NewNamed(stores, opts)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// Goal: with several stores a request is about the one it names, and without a name it is refused with the
// names there are: nothing is compacted by mistake.
func TestStores_ByName(t *testing.T) {
	stores := two(t)
	h := namedHandler(t, stores, Options{})
	for _, row := range []struct{ method, path string }{
		{"GET", "/api/v1/stats"}, {"GET", "/api/v1/segments"}, {"GET", "/api/v1/events"},
		{"POST", compactPath}, {"POST", "/api/v1/maintenance/run"},
	} {
		for _, query := range []string{"", "?store=", "?store=other"} {
			w := ask(h, row.method, row.path+query, nil)
			require.Equal(t, http.StatusBadRequest, w.Code, row.path+query)
			require.Contains(t, decoded[wireError](t, w.Body.Bytes()).Error, `"sessions", "users"`)
		}
	}
	got := decoded[map[string]any](t, ask(h, "GET", "/api/v1/stats?store=users", nil).Body.Bytes())
	require.Equal(t, "users", got["name"])
	require.Equal(t, 2000.0, got["memories"])

	statusOf(t, h, ask(h, "POST", compactPath+"?wait=false&store=users", nil))
	require.Equal(t, http.StatusOK, ask(h, "POST", compactPath+"?store=users", nil).Code)
	require.Equal(t, int64(2), stores["users"].Stats().Compactions)
	require.Zero(t, stores["sessions"].Stats().Compactions)

	list := decoded[wireStores](t, ask(h, "GET", "/api/v1/stores", nil).Body.Bytes()).Stores
	require.Len(t, list, 2)
	require.Equal(t, "sessions", list[0].Name)
	require.Equal(t, 2000, list[1].Memories)
	require.True(t, list[1].Ready)

	metrics := ask(h, "GET", "/metrics", nil).Body.String()
	require.Contains(t, metrics, "\nwarmtier_memories{store=\"sessions\"} 0\nwarmtier_memories{store=\"users\"} 2000\n")
}

// Goal: no stores, and one with a name, are served too.
func TestStores_NoneAndOne(t *testing.T) {
	none := namedHandler(t, nil, Options{})
	require.Contains(t, ask(none, "GET", "/api/v1/stats", nil).Body.String(), "no stores")
	require.Equal(t, http.StatusOK, ask(none, "GET", "/readyz", nil).Code)
	one := namedHandler(t, map[string]*warmtier.Store{"only": openStore(t, nil)}, Options{})
	for query, status := range map[string]int{"": 200, "?store=only": 200, "?store=": 400, "?store=users": 400} {
		require.Equal(t, status, ask(one, "GET", "/api/v1/stats"+query, nil).Code, query)
	}
	require.Contains(t, ask(one, "GET", "/metrics", nil).Body.String(), `warmtier_memories{store="only"} 0`)
}

// Goal: probes are answered whatever their Host; a store that is closed, or a handler that is, is not ready,
// and is alive.
func TestStores_Probes(t *testing.T) {
	stores := two(t)
	h := namedHandler(t, stores, Options{Token: "secret"})
	pod := func(r *http.Request) { r.Host = "10.9.8.7:8089" }
	for _, target := range []string{"/healthz", "/readyz"} {
		w := ask(h, "GET", target, pod)
		require.Equal(t, http.StatusOK, w.Code)
		require.JSONEq(t, `{"status":"ok"}`, w.Body.String())
		require.Equal(t, http.StatusForbidden, ask(h, "POST", target, pod).Code)
	}
	require.NoError(t, stores["sessions"].Close())
	w := ask(h, "GET", "/readyz", pod)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.JSONEq(t, `{"status":"not ready","reason":"closed"}`, w.Body.String())
	require.NotContains(t, w.Body.String(), "sessions", "anyone may ask")
	require.Equal(t, http.StatusOK, ask(h, "GET", "/healthz", pod).Code)

	alive := handlerOf(t, openStore(t, nil), Options{})
	require.NoError(t, alive.Close())
	require.Equal(t, http.StatusServiceUnavailable, ask(alive, "GET", "/readyz", pod).Code)
	require.Equal(t, http.StatusOK, ask(alive, "GET", "/healthz", pod).Code)
}

// Goal: a store that takes no more writes is not ready.
func TestStores_NotReadyAfterFailedFlush(t *testing.T) {
	require.Empty(t, notReady(warmtier.Stats{}))
	require.NotEmpty(t, notReady(warmtier.Stats{Sync: warmtier.SyncStats{Failure: warmtier.ErrSyncFailed}}))
}
