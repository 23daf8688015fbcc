// Package nodeapi gives a node of a cluster to other processes, over HTTP: what the example and the
// tests with processes of their own need, and no more. It knows nothing of how nodes find each
// other.
package nodeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine/cluster"
)

// Stats is what a node says of itself.
type Stats struct {
	Address, Gossip string
	Members         []string
	Settled         bool
	Recovered       int
	Trouble         string `json:",omitempty"`
	Memories        int64
	MappedBytes     int64
}

// maxContent bounds what a request may bring.
const maxContent = 64 << 20

// Handler answers for a node. left is called after a request to leave was answered.
func Handler(node *cluster.Cluster, left func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /memories/{id}", func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxContent))
		if ttl := r.URL.Query().Get("ttl"); err == nil && ttl != "" {
			var d time.Duration
			if d, err = time.ParseDuration(ttl); err == nil {
				err = node.PutTTL(r.Context(), r.PathValue("id"), content, d)
			}
		} else if err == nil {
			err = node.Put(r.Context(), r.PathValue("id"), content)
		}
		answer(w, nil, err)
	})
	mux.HandleFunc("GET /memories/{id}", func(w http.ResponseWriter, r *http.Request) {
		content, err := node.Get(r.Context(), r.PathValue("id"))
		answer(w, content, err)
	})
	mux.HandleFunc("DELETE /memories/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, node.Delete(r.Context(), r.PathValue("id")))
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if within, err := time.ParseDuration(r.URL.Query().Get("within")); err == nil {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, within)
			defer cancel()
		}
		answer(w, nil, node.Ready(ctx))
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		text, err := json.Marshal(statsOf(node))
		answer(w, text, err)
	})
	mux.HandleFunc("POST /leave", func(w http.ResponseWriter, r *http.Request) {
		answer(w, nil, node.Leave(r.Context()))
		go left()
	})
	return mux
}

func statsOf(node *cluster.Cluster) Stats {
	s := node.Stats()
	all := Stats{
		Address: s.Address, Gossip: node.GossipAddress(), Members: s.Members, Settled: s.Settled,
		Recovered: s.Progress.Recovered, Memories: int64(s.Store.Memories), MappedBytes: s.Store.MappedBytes,
	}
	if s.Progress.Trouble != nil {
		all.Trouble = s.Progress.Doing + ": " + s.Progress.Trouble.Error()
	}
	return all
}

func answer(w http.ResponseWriter, content []byte, err error) {
	switch {
	case err == nil:
		_, _ = w.Write(content) // a client that is gone is not told
	case errors.Is(err, warmtier.ErrNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	default:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// Client calls a node.
type Client struct{ URL string }

// Get returns a content. Errors: warmtier.ErrNotFound, bare.
func (c Client) Get(ctx context.Context, id string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "/memories/"+url.PathEscape(id), nil)
}

// Put stores a content; with a ttl, until that is over.
func (c Client) Put(ctx context.Context, id string, content []byte, ttl time.Duration) error {
	path := "/memories/" + url.PathEscape(id)
	if ttl > 0 {
		path += "?ttl=" + ttl.String()
	}
	_, err := c.do(ctx, http.MethodPut, path, content)
	return err
}

// Delete makes an id absent.
func (c Client) Delete(ctx context.Context, id string) error {
	_, err := c.do(ctx, http.MethodDelete, "/memories/"+url.PathEscape(id), nil)
	return err
}

// Ready waits until the cluster is ready, as the node sees it.
func (c Client) Ready(ctx context.Context) error {
	path := "/ready"
	if deadline, ok := ctx.Deadline(); ok { // the node ends first, and says what is missing
		path += "?within=" + (time.Until(deadline) * 9 / 10).String()
	}
	_, err := c.do(ctx, http.MethodGet, path, nil)
	return err
}

// Leave has the node hand over what it holds.
func (c Client) Leave(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, "/leave", nil)
	return err
}

// Stats returns what the node says of itself.
func (c Client) Stats(ctx context.Context) (s Stats, err error) {
	text, err := c.do(ctx, http.MethodGet, "/stats", nil)
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

func (c Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode == http.StatusNotFound:
		return nil, warmtier.ErrNotFound
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s %s: %s: %s", method, c.URL, response.Status, bytes.TrimSpace(content))
	}
	return content, nil
}
