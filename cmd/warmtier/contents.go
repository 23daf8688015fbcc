package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/warmtier/warmtier"
)

/*
What warmtier serve gives beside the page: ids and contents, for get, ls, count and export --url, and what import and
backup --url ask for. Whoever may read the directory may read them; others on the same machine may not, so there they
are only for who brings the token.

	GET /api/v1/memory?id=ID          a content
	GET /api/v1/memories?prefix=ID    ids and lengths, a JSON object a line
	    with &contents=1              with contents, as export --format jsonl
	GET /api/v1/export                what Store.Export writes
	POST /api/v1/import               stores what Store.Export wrote, all of it or nothing
	POST /api/v1/backup?name=NAME     makes the checkpoint NAME in the directory for them

A list that could not be ended says why in the trailer Warmtier-Error. The trailer Warmtier-Memories has the number of
memories of an export that is whole.
*/

const (
	memoryPath   = "/api/v1/memory"
	memoriesPath = "/api/v1/memories"
	exportPath   = "/api/v1/export"
	importPath   = "/api/v1/import"
	backupPath   = "/api/v1/backup"
	clearPath    = "/api/v1/clear" // of the page

	errorTrailer    = "Warmtier-Error"
	memoriesTrailer = "Warmtier-Memories"

	codeNotWhole = "not_whole" // an export that is damaged or of another format
	codeExists   = "exists"    // a checkpoint
	codeName     = "name"      // of a checkpoint, that is none
)

// contentsHandler serves ids and contents, and leaves the rest to next.
type contentsHandler struct {
	store   *warmtier.Store
	token   string
	backups string // where checkpoints go; "" for nowhere
	next    http.Handler
}

func (h *contentsHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	reads := map[string]http.HandlerFunc{memoryPath: h.memory, memoriesPath: h.memories, exportPath: h.export}
	writes := map[string]http.HandlerFunc{importPath: h.importAll, backupPath: h.backup}
	serve, method := reads[r.URL.Path], http.MethodGet
	if serve == nil {
		serve, method = writes[r.URL.Path], http.MethodPost
	}
	switch {
	case serve == nil:
		h.next.ServeHTTP(w, r)
	case r.Method != method:
		w.Header().Set("Allow", method)
		refuse(w, http.StatusMethodNotAllowed, "method", "this is asked for with "+method)
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

// importAnswer says what became of an export.
type importAnswer struct {
	Memories int64 `json:"memories"`
	Existing int64 `json:"existing"`
	Expired  int64 `json:"expired"`
}

// importAll stores what is sent, all of it or nothing. A client that leaves before that is done ends it.
func (h *contentsHandler) importAll(w http.ResponseWriter, r *http.Request) {
	body := patientReader{w, r.Body}
	st, err := h.store.Import(r.Context(), body)
	if err != nil {
		_, _ = io.Copy(io.Discard, body) // a client that is still sending reads no answer
	}
	takeTime(w)
	switch {
	case errors.Is(err, warmtier.ErrCorrupt) || errors.Is(err, warmtier.ErrVersion):
		refuse(w, http.StatusUnprocessableEntity, codeNotWhole, errorText(err))
	case err != nil:
		refuse(w, http.StatusInternalServerError, "error", errorText(err))
	default:
		answer(w, importAnswer{st.Memories, st.Existing, st.Expired})
	}
}

// backupAnswer says where a checkpoint is.
type backupAnswer struct {
	To string `json:"to"`
}

// backup makes a checkpoint. Who has the token gives it a name and does not choose where it lies: whoever started the
// server has done that.
func (h *contentsHandler) backup(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	switch {
	case h.backups == "":
		refuse(w, http.StatusForbidden, "no_backups", "backups are only made by a server that has a place for them: "+
			"start warmtier serve with --backups")
		return
	case !filepath.IsLocal(name) || name != filepath.Base(name) || name[0] == '.':
		refuse(w, http.StatusBadRequest, codeName, "a backup in a server has a name, and no path; none begins with a dot")
		return
	}
	to := filepath.Join(h.backups, name)
	takeTime(w)
	err := h.store.Checkpoint(r.Context(), to)
	takeTime(w)
	switch {
	case errors.Is(err, fs.ErrExist):
		refuse(w, http.StatusConflict, codeExists, errorText(err))
	case err != nil:
		refuse(w, http.StatusInternalServerError, "error", errorText(err))
	default:
		answer(w, backupAnswer{to})
	}
}

// answer sends a document.
func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = writeJSON(w, v) // fails when the client is gone
}

// takeTime gives what follows the time that the server gives a whole answer.
func takeTime(w http.ResponseWriter) {
	// Only a middleware could hide that deadlines can be set, and there is none.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(requestTimeout))
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
		takeTime(p.ResponseWriter)
		var written int
		written, err = p.ResponseWriter.Write(part)
		n, b = n+written, b[len(part):]
	}
	return n, err
}

// patientReader gives each part of a request the time that the server gives a whole one, and what follows all of it
// no end: the connection is watched then for a client that leaves, and a deadline would be taken for that.
type patientReader struct {
	w    http.ResponseWriter
	body io.Reader
}

func (p patientReader) Read(b []byte) (int, error) {
	deadline := http.NewResponseController(p.w).SetReadDeadline
	_ = deadline(time.Now().Add(requestTimeout)) // as in takeTime
	n, err := p.body.Read(b)
	if errors.Is(err, io.EOF) {
		_ = deadline(time.Time{})
	}
	return n, err
}
