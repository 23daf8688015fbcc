package main

import (
	"context"
	"html/template"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/warmtier/warmtier/olricengine/internal/nodeapi"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>three nodes</title>
<style>body{font:16px system-ui;margin:2em} td,th{padding:.3em 1em;text-align:left} .away{color:#b00}</style>
<h1>Three nodes</h1>
<p>Each is a process. Every memory is on two of them. The page is loaded again every second.
<table><tr><th>node<th>address<th>state<th>sees<th>memories<th>memory<th></tr>
{{range .Lines}}<tr><td>{{.Number}}
{{if .Away}}<td colspan="6" class="away">away: it was killed, or is starting{{else}}
<td>{{.Stats.Address}}
<td>{{if .Stats.Settled}}has nothing to send
{{- else if .Stats.Trouble}}tries again: {{.Stats.Trouble}}
{{- else if .Stats.Recovered}}sends what it has found in its directory: {{.Stats.Recovered}} entries
{{- else}}sends others what they lack{{end}}
<td>{{len .Stats.Members}} nodes<td>{{.Stats.Memories}}<td>{{.KiB}} KiB
<td><a href="{{.URL}}/store/">its store</a>{{end}}</tr>
{{end}}</table>
<p>Any Redis client can read at each address: <code>DM.GET warmtier "example 7"</code>. Deleted memories are markers.
<h2>What has happened</h2>
<p>{{range .Said}}{{.}}<br>{{end}}
`))

// line is what the page has of a node.
type line struct {
	Number int
	Away   bool
	URL    string
	Stats  nodeapi.Stats
	KiB    int64
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
		lines = append(lines, line{
			Number: n.number, Away: err != nil, URL: client.URL, Stats: stats, KiB: stats.MappedBytes >> 10,
		})
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	s.mu.Lock()
	said := slices.Clone(s.said)
	s.mu.Unlock()
	_ = page.Execute(w, struct { // a browser that is gone is not told
		Lines []line
		Said  []string
	}{lines, said})
}
