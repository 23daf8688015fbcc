// Package warmtierhttp lets the people who run a service see and steer the warmtier stores in it: a page, a
// JSON interface, server-sent events, metrics and probes, as one http.Handler. It listens nowhere by itself.
//
//	steering := warmtierhttp.New(store, warmtierhttp.Options{})
//	defer steering.Close()
//	http.Handle("/warmtier/", http.StripPrefix("/warmtier", steering))
//
// Several stores share a handler by name, with [NewNamed]: the page then has a choice of stores.
//
// The README has the endpoints, the timeouts that a server needs, and what keeps strangers out.
package warmtierhttp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier"
)

const (
	// maxBody bounds the body of a request, bytes; no endpoint reads one.
	maxBody = 4096
	// bodyTimeout bounds how long a body may take to arrive.
	bodyTimeout = 10 * time.Second
)

// Options configure a [Handler]. The zero value serves loopback names to anyone who can reach them.
type Options struct {
	// Token, when not empty, must come with requests that change state, in the header
	// "Authorization: Bearer TOKEN".
	Token string
	// Hosts are the names and addresses, without a port, by which clients may address the handler, beside
	// localhost and loopback addresses: "admin.internal", "10.1.2.3", "*.internal" for every name below
	// it, or a range of addresses as "10.0.0.0/8". One that is none of these matches nothing, and is
	// logged. Requests with another Host are refused, /healthz and /readyz aside: an attacker who lets
	// a name point to this machine gives a page of that name the same origin as the handler. A range
	// is as safe as an address: no name is let in by it.
	Hosts []string
	// Logger receives what was asked to change state and what was refused; nil is silent. It never
	// sees ids, contents or tokens.
	Logger *slog.Logger
}

// Handler serves the page and the endpoints of stores. Create one with [New] or [NewNamed], release it
// with [Handler.Close]. It may be mounted anywhere: all addresses in it are relative. It is safe for
// concurrent use.
type Handler struct {
	stores    []*served         // in the order of their names
	token     [sha256.Size]byte // digest, so that comparing takes the same time for any length
	guarded   bool              // there is a token
	hosts     hosts
	log       *slog.Logger
	origins   *http.CrossOriginProtection
	mux       *http.ServeMux
	streams   atomic.Int32 // open event streams
	verifying atomic.Bool  // a verification runs

	lifetime context.Context // until Close
	end      context.CancelFunc

	mu         sync.Mutex
	closed     bool           // guarded by mu; nothing is added to background once it is set
	background sync.WaitGroup // the samplers, and compactions in the background
	jobs       jobs           // guarded by mu
}

// New returns a handler for store and begins to sample its statistics, some microseconds of work five
// times a second. Close it before the store.
func New(store *warmtier.Store, opts Options) *Handler {
	return newHandler([]*served{newServed("", store)}, opts)
}

// NewNamed returns a handler for several stores, as [New]. Requests say with the parameter store which one they
// are about, the page has a choice, and metrics have the label store. Close it before the stores. It keeps no
// reference to the map.
func NewNamed(stores map[string]*warmtier.Store, opts Options) *Handler {
	var list []*served
	for _, name := range slices.Sorted(maps.Keys(stores)) {
		list = append(list, newServed(name, stores[name]))
	}
	return newHandler(list, opts)
}

func newHandler(stores []*served, opts Options) *Handler {
	h := &Handler{
		stores:  stores,
		token:   sha256.Sum256([]byte(opts.Token)),
		guarded: opts.Token != "",
		hosts:   hosts{names: map[string]bool{}},
		log:     opts.Logger,
		origins: http.NewCrossOriginProtection(),
		mux:     http.NewServeMux(),
		jobs:    jobs{byNumber: map[int]*job{}},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	for _, host := range opts.Hosts {
		if err := h.hosts.add(host); err != nil {
			h.log.Error("an allowed host matches nothing", "error", err)
		}
	}
	h.lifetime, h.end = context.WithCancel(context.Background())
	h.mux.HandleFunc("GET /{$}", h.page)
	h.mux.HandleFunc("GET /static/{name}", h.asset)
	h.mux.HandleFunc("GET /healthz", h.healthz)
	h.mux.HandleFunc("GET /readyz", h.readyz)
	h.mux.HandleFunc("GET /metrics", h.metrics)
	h.mux.HandleFunc("GET /api/v1/stores", h.list)
	h.mux.HandleFunc("GET /api/v1/stats", h.about(h.stats))
	h.mux.HandleFunc("GET /api/v1/segments", h.about(h.segments))
	h.mux.HandleFunc("GET /api/v1/events", h.about(h.events))
	h.mux.HandleFunc("POST /api/v1/maintenance/compact", h.about(h.compact))
	h.mux.HandleFunc("GET /api/v1/maintenance/compact/{number}", h.compactStatus)
	h.mux.HandleFunc("POST /api/v1/maintenance/run", h.about(h.maintain))
	h.mux.HandleFunc("POST /api/v1/maintenance/verify", h.about(h.verify))
	h.mux.HandleFunc("POST /api/v1/clear", h.about(h.clear))
	for _, sv := range stores {
		h.background.Go(func() { h.sample(sv) })
	}
	return h
}

// Close ends event streams, cancels compactions that were asked for here, and waits for the samplers
// and for compactions in the background. Afterwards requests that change state are refused. It
// returns nil.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.end()
	h.background.Wait()
	return nil
}

// sample feeds the recorder of a store until Close.
func (h *Handler) sample(sv *served) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-sv.wake:
		case <-h.lifetime.Done():
			return
		}
		sv.observe()
	}
}

// ServeHTTP answers a request, or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	if !isProbe(r) && !h.hosts.allow(r.Host) {
		h.refuse(w, r, http.StatusForbidden, "unknown_host",
			fmt.Sprintf("the host %q is not in the list of allowed ones (Options.Hosts)", r.Host))
		return
	}
	if err := h.origins.Check(r); err != nil {
		h.refuse(w, r, http.StatusForbidden, "cross_origin", "requests from other origins may not change anything")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if !h.authorized(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="warmtier"`)
			h.refuse(w, r, http.StatusUnauthorized, "token", "this needs the token, in the header Authorization: Bearer TOKEN")
			return
		}
		if !readBody(w, r) {
			h.refuse(w, r, http.StatusRequestEntityTooLarge, "body", "no more than 4096 bytes of body are read")
			return
		}
	}
	h.mux.ServeHTTP(w, r)
}

// secure sets headers that keep a browser from doing more with an answer than it should.
func secure(header http.Header) {
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; "+
		"connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
}

// refuse answers with an error, and logs it.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	h.log.Warn("request refused", "reason", code, "method", r.Method, "remote", r.RemoteAddr)
	writeJSON(w, status, wireError{Code: code, Error: message})
}

// authorized reports whether r brings the token, if there is one.
func (h *Handler) authorized(r *http.Request) bool {
	if !h.guarded {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given := sha256.Sum256([]byte(strings.TrimSpace(token)))
	return subtle.ConstantTimeCompare(given[:], h.token[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// readBody reads a body to its end, and reports whether it was short and came in time. The server
// would not notice otherwise that a client goes away.
func readBody(w http.ResponseWriter, r *http.Request) bool {
	// Where deadlines cannot be set, maxBody and the server's timeouts still hold.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody))
	return err == nil
}

// takeTime lifts the server's timeouts from a request that may take long. A read timeout would look
// like a client that went away.
func takeTime(w http.ResponseWriter) {
	c := http.NewResponseController(w)
	// A middleware may hide that deadlines can be set: then the server's timeouts stay in force.
	_, _ = c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{})
}
