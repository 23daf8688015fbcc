package warmtierhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
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
			asked := r.Context()
			ctx, cancel := context.WithCancel(context.WithoutCancel(asked))
			go func() {
				defer cancel()
				select {
				case <-asked.Done():
					cancel() // and with it all that was made of it, which the request's own may reach later
					close(gone)
				case <-stop:
				}
			}()
			r = r.WithContext(ctx)
		}
		h.ServeHTTP(w, r)
	})
}

// handlerOf is a handler for s without a server.
func handlerOf(t *testing.T, s *warmtier.Store, opts Options) *Handler {
	t.Helper()
	h := New(s, opts)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h
}

// ask sends a request to h, changed by edit, and returns the answer.
func ask(h http.Handler, method, target string, edit func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "localhost:8089"
	if edit != nil {
		edit(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// decoded is the body of an answer.
func decoded[T any](t *testing.T, body []byte) (v T) {
	t.Helper()
	require.NoError(t, json.Unmarshal(body, &v), "%s", body)
	return v
}

// stopped is a store with a budget of 4 MiB whose compactions wait in their first progress until goOn is closed.
func stopped(t *testing.T) (s *warmtier.Store, reached, goOn chan struct{}) {
	t.Helper()
	return stoppedBy(t, warmtier.MaintenanceOptions{})
}

// fragmented is a store in which half of each segment is dead, and something was read.
func fragmented(t *testing.T, opts *warmtier.Options) *warmtier.Store {
	t.Helper()
	opts.SegmentSize = 64 << 10
	opts.Maintenance.Disabled = true
	s := openStore(t, opts)
	for round := range 2 {
		for n := range 2000 {
			if round == 0 || n%2 == 0 {
				require.NoError(t, s.Put(fmt.Sprint("memory ", n), make([]byte, 500)))
			}
			_, err := s.Get(fmt.Sprint("memory ", n))
			require.NoError(t, err)
		}
	}
	return s
}

// stoppedBy is stopped with other rules of maintenance.
func stoppedBy(t *testing.T, m warmtier.MaintenanceOptions) (s *warmtier.Store, reached, goOn chan struct{}) {
	t.Helper()
	reached, goOn = make(chan struct{}), make(chan struct{})
	var once sync.Once
	s = fragmented(t, &warmtier.Options{MaxBytes: 4 << 20, Maintenance: m, Compaction: warmtier.CompactionOptions{
		OnProgress: func(warmtier.CompactionProgress) {
			once.Do(func() {
				close(reached)
				select {
				case <-goOn:
				case <-t.Context().Done(): // the test failed
				}
			})
		},
	}})
	return s, reached, goOn
}

// jsonOf is v as JSON.
func jsonOf(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	return string(text)
}
