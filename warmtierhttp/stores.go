package warmtierhttp

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

// served is one store of a handler, with what is kept of its past. Its fields do not change.
type served struct {
	name     string // "" for the store of New
	store    *warmtier.Store
	recorder *recorder
	wake     chan struct{} // makes the sampler look immediately
}

func newServed(name string, store *warmtier.Store) *served {
	sv := &served{name: name, store: store, recorder: newRecorder(store.Space), wake: make(chan struct{}, 1)}
	sv.observe() // so that no stream begins with nothing
	return sv
}

// observe records the statistics of this moment.
func (sv *served) observe() { sv.recorder.observe(time.Now(), sv.store.Stats()) }

// look makes the sampler look at the store immediately.
func (sv *served) look() {
	select {
	case sv.wake <- struct{}{}:
	default: // it is about to look
	}
}

// storeOf returns the store that a request is about: the one that ?store= names, or the only one. It has
// answered the request when there is none.
func (h *Handler) storeOf(w http.ResponseWriter, r *http.Request) *served {
	query := r.URL.Query()
	if name := query.Get("store"); len(h.stores) == 1 && !query.Has("store") {
		return h.stores[0]
	} else if i := slices.IndexFunc(h.stores, func(sv *served) bool { return sv.name == name }); i >= 0 {
		return h.stores[i]
	}
	var names []string
	for _, sv := range h.stores {
		names = append(names, fmt.Sprintf("%q", sv.name))
	}
	text := "the parameter store is one of " + strings.Join(names, ", ")
	if len(names) == 0 {
		text = "this handler has no stores"
	}
	writeJSON(w, http.StatusBadRequest, wireError{Code: "store", Error: text})
	return nil
}

// about makes a handler of one that answers about a store.
func (h *Handler) about(answer func(*served, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if sv := h.storeOf(w, r); sv != nil {
			answer(sv, w, r)
		}
	}
}

// wireStores is the list of all stores.
type wireStores struct {
	Stores []wireStore `json:"stores"`
}

// wireStore has the figures of a store that tell at a glance how it is.
type wireStore struct {
	Name               string    `json:"name"`
	Directory          string    `json:"directory,omitempty"`
	Opened             time.Time `json:"opened"`
	Ready              bool      `json:"ready"`
	Reason             string    `json:"reason,omitempty"` // why it is not ready
	Memories           int       `json:"memories"`
	LiveBytes          int64     `json:"live_bytes"`
	DeadBytes          int64     `json:"dead_bytes"`
	MappedBytes        int64     `json:"mapped_bytes"`
	MaxBytes           int64     `json:"max_bytes"`
	FragmentationRatio float64   `json:"fragmentation_ratio"`
	Compacting         bool      `json:"compacting"`
}

func (h *Handler) list(w http.ResponseWriter, _ *http.Request) {
	out := wireStores{Stores: []wireStore{}}
	for _, sv := range h.stores {
		st := sv.store.Stats()
		reason := notReady(st)
		out.Stores = append(out.Stores, wireStore{
			Name: sv.name, Directory: st.Directory, Opened: st.Opened, Ready: reason == "", Reason: reason,
			Memories: st.Memories, LiveBytes: st.LiveBytes, DeadBytes: st.DeadBytes, MappedBytes: st.MappedBytes,
			MaxBytes: st.MaxBytes, FragmentationRatio: st.FragmentationRatio, Compacting: st.CompactionInProgress,
		})
	}
	writeJSON(w, http.StatusOK, out)
}

// wireHealth is the answer to a probe. It has no name of a store: probes are answered whatever their Host.
type wireHealth struct {
	Status string `json:"status"`           // ok, or not ready
	Reason string `json:"reason,omitempty"` // of the first store that is not ready
}

// notReady returns why a store cannot do its work, "" when it can.
func notReady(st warmtier.Stats) string {
	switch {
	case st.Closed:
		return "closed"
	case st.Sync.Failure != nil:
		return "a flush failed, no more writes"
	}
	return ""
}

// healthz answers that the process is alive: every store lets a look-up through its locks.
func (h *Handler) healthz(w http.ResponseWriter, _ *http.Request) {
	for _, sv := range h.stores {
		sv.store.Has("healthz")
	}
	writeJSON(w, http.StatusOK, wireHealth{Status: "ok"})
}

// readyz answers whether every store takes reads and writes.
func (h *Handler) readyz(w http.ResponseWriter, _ *http.Request) {
	reason := ""
	if h.lifetime.Err() != nil {
		reason = "closed"
	}
	for _, sv := range h.stores {
		if reason == "" {
			reason = notReady(sv.store.Stats())
		}
	}
	if reason != "" {
		writeJSON(w, http.StatusServiceUnavailable, wireHealth{Status: "not ready", Reason: reason})
		return
	}
	writeJSON(w, http.StatusOK, wireHealth{Status: "ok"})
}

// isProbe reports whether r asks for health, which is answered whatever its Host: a kubelet addresses a pod by
// an address that nobody knows ahead, and the answer has nothing that a stranger could use.
func isProbe(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		(r.URL.Path == "/healthz" || r.URL.Path == "/readyz")
}
