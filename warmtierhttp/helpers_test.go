package warmtierhttp

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// openStore is a memory store that is closed, and was consistent, at the end of the test.
func openStore(t *testing.T, opts *warmtier.Options) *warmtier.Store {
	t.Helper()
	s, err := warmtier.Open("", opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// serveStore serves a handler for s on loopback.
func serveStore(t *testing.T, s *warmtier.Store, opts Options) *httptest.Server {
	t.Helper()
	h := New(s, opts)
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		require.NoError(t, h.Close()) // first: it ends the streams that the server would wait for
		server.Close()
	})
	return server
}

// goneNotifier closes gone when the client of a POST has gone away.
func goneNotifier(h http.Handler, gone chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				select {
				case <-r.Context().Done():
					close(gone)
				case <-stop:
				}
			}()
		}
		h.ServeHTTP(w, r)
	})
}
