package main

import (
	"context"
	"html/template"
	"net"
	"net/http"
	"time"

	"github.com/warmtier/warmtier/olricengine/internal/nodeapi"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>three nodes</title>
<style>body{font:16px system-ui;margin:2em} td,th{padding:.3em 1em;text-align:left} .away{color:#b00}</style>
<h1>Three nodes</h1>
<table><tr><th>node<th>members<th>state<th>memories<th>mapped<th></tr>
{{range .}}<tr><td>{{.Number}}
{{if .Away}}<td colspan="5" class="away">away{{else}}
<td>{{len .Stats.Members}}
<td>{{if .Stats.Settled}}settled{{else if .Stats.Recovered}}offers {{.Stats.Recovered}} entries that it has recovered
{{- else if .Stats.Trouble}}{{.Stats.Trouble}}{{else}}reconciling{{end}}
<td>{{.Stats.Memories}}<td>{{.Stats.MappedBytes}} bytes<td><a href="{{.URL}}/store/">its store</a>{{end}}</tr>
{{end}}</table>
`))

// line is what the page has of a node.
type line struct {
	Number int
	Away   bool
	URL    string
	Stats  nodeapi.Stats
}

// servePage serves the page until the function that it returns is called.
func (s *show) servePage(address string) (url string, closePage func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(s.answer)}
	go server.Serve(listener) //nolint:errcheck // it ends with the program
	return "http://" + listener.Addr().String() + "/", func() { _ = server.Close() }, nil
}

func (s *show) answer(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	lines := make([]line, 0, len(s.nodes))
	for _, n := range s.nodes {
		client := n.reached()
		stats, err := client.Stats(ctx)
		lines = append(lines, line{Number: n.number, Away: err != nil, URL: client.URL, Stats: stats})
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, lines) // a browser that is gone is not told
}
