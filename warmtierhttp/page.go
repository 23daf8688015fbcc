package warmtierhttp

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

// files are the page and what it loads: nothing is built, and nothing comes from elsewhere.
//
//go:embed page
var files embed.FS

// assets are the files below static/, by their names in it, with their content types.
var assets = map[string]struct{ file, kind string }{
	"page.css":          {"page/page.css", "text/css; charset=utf-8"},
	"page.js":           {"page/page.js", "text/javascript; charset=utf-8"},
	"figures.js":        {"page/figures.js", "text/javascript; charset=utf-8"},
	"charts.js":         {"page/charts.js", "text/javascript; charset=utf-8"},
	"text.js":           {"page/text.js", "text/javascript; charset=utf-8"},
	"icon.svg":          {"page/icon.svg", "image/svg+xml"},
	"uPlot.min.css":     {"page/uplot/uPlot.min.css", "text/css; charset=utf-8"},
	"uPlot.iife.min.js": {"page/uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"},
	"uPlot.LICENSE":     {"page/uplot/LICENSE", "text/plain; charset=utf-8"},
}

func (h *Handler) page(w http.ResponseWriter, r *http.Request) {
	serveFile(w, r, "page/index.html", "text/html; charset=utf-8")
}

func (h *Handler) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := assets[r.PathValue("name")]
	if !ok {
		writeJSON(w, http.StatusNotFound, wireError{Code: "not_found", Error: "no such file"})
		return
	}
	serveFile(w, r, a.file, a.kind)
}

// serveFile serves a file that a browser may keep, if it asks each time whether it is still the
// same.
func serveFile(w http.ResponseWriter, r *http.Request, file, kind string) {
	content, err := files.ReadFile(file)
	if err != nil { // a test asks for each file
		http.Error(w, "no such file", http.StatusInternalServerError)
		return
	}
	sum := sha256.Sum256(content)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	http.ServeContent(w, r, path.Base(file), time.Time{}, bytes.NewReader(content))
}
