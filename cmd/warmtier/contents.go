package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

/*
What warmtier serve gives beside the page: ids and contents, for get, ls, count and export --url. Whoever may read
the directory may read them; others on the same machine may not, so there they are only for who brings the token.

	GET /api/v1/memory?id=ID          a content
	GET /api/v1/memories?prefix=ID    ids and lengths, a JSON object a line
	    with &contents=1              with contents, as export --format jsonl
	GET /api/v1/export                what Store.Export writes

A list that could not be ended says why in the trailer Warmtier-Error. The trailer Warmtier-Memories has the number of
memories of an export that is whole.
*/

const (
	memoryPath   = "/api/v1/memory"
	memoriesPath = "/api/v1/memories"
	exportPath   = "/api/v1/export"

	errorTrailer    = "Warmtier-Error"
	memoriesTrailer = "Warmtier-Memories"
)

// contentsHandler serves ids and contents, and leaves the rest to next.
type contentsHandler struct {
	store *warmtier.Store
	token string
	next  http.Handler
}

func (h *contentsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serve := map[string]func(http.ResponseWriter, *http.Request){
		memoryPath: h.memory, memoriesPath: h.memories, exportPath: h.export}[r.URL.Path]
	switch {
	case serve == nil:
		h.next.ServeHTTP(w, r)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, http.StatusMethodNotAllowed, "method", "this is only read, with GET")
	case h.token == "":
		refuse(w, http.StatusForbidden, "no_token", "ids and contents are only given by a server that has a token: "+
			"start warmtier serve with WARMTIER_TOKEN")
	case !h.authorized(r):
		w.Header().Set("WWW-Authenticate", `Bearer realm="warmtier"`)
		refuse(w, http.StatusUnauthorized, "token", "this needs the token, as Authorization: Bearer")
	default:
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		serve(w, r)
	}
}

// authorized reports whether r brings the token; digests take the same time to compare for any length.
func (h *contentsHandler) authorized(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given, want := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(h.token))
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = writeJSON(w, map[string]string{"code": code, "error": message}) // fails when the client is gone
}

func (h *contentsHandler) memory(w http.ResponseWriter, r *http.Request) {
	content, err := h.store.Get(r.URL.Query().Get("id"))
	switch {
	case errors.Is(err, warmtier.ErrNotFound):
		refuse(w, http.StatusNotFound, "not_found", errorText(err))
	case err != nil:
		refuse(w, http.StatusInternalServerError, "error", errorText(err))
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = patientWriter{w}.Write(content) // fails when the client is gone
	}
}

func (h *contentsHandler) memories(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/jsonl")
	store, prefix := openStore{h.store}, r.URL.Query().Get("prefix")
	h.stream(w, func(out io.Writer) error {
		if r.URL.Query().Has("contents") {
			return store.each(r.Context(), prefix, func(m memory) error { return writeJSON(out, newMemoryJSON(m)) })
		}
		return store.sizes(r.Context(), prefix, func(id string, size int, expires time.Time) error {
			m := idJSON(id)
			m.Bytes = &size
			m.expire(expires)
			return writeJSON(out, m)
		})
	})
}

func (h *contentsHandler) export(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/octet-stream")
	h.stream(w, func(out io.Writer) error {
		n, err := openStore{h.store}.export(r.Context(), out)
		if err == nil {
			w.Header().Set(memoriesTrailer, strconv.Itoa(n))
		}
		return err
	})
}

func (h *contentsHandler) stream(w http.ResponseWriter, write func(io.Writer) error) {
	w.Header().Set("Trailer", errorTrailer+", "+memoriesTrailer) // declared: else a short answer would have none
	out := bufio.NewWriterSize(patientWriter{w}, 64<<10)
	err := write(out)
	if err = errors.Join(err, out.Flush()); err != nil { // also that the client is gone
		w.Header().Set(errorTrailer, errorText(err))
	}
}

// patientWriter gives each part of an answer the time that the server gives a whole one.
type patientWriter struct{ http.ResponseWriter }

func (p patientWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		part := b[:min(len(b), 1<<20)]
		// Only a middleware could hide that deadlines can be set, and there is none.
		_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(requestTimeout))
		var written int
		written, err = p.ResponseWriter.Write(part)
		n, b = n+written, b[len(part):]
	}
	return n, err
}
