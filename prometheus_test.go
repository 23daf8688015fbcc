package warmtier

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: the page of several stores has each family once, and in it the samples of each store, which
// differ from those on the store's own page by the label store alone. Package warmtierprom checks the
// same with Prometheus' parser.
func TestWritePrometheus_SeveralStores(t *testing.T) {
	stats := map[string]Stats{}
	var want []string
	for i, name := range []string{"users", "sessions"} {
		s := openTest(t, quiet(), hooks{})
		fill(t, s, 0, 10*(i+1), 100)
		stats[name] = s.Stats()
		var own bytes.Buffer
		require.NoError(t, stats[name].WritePrometheus(&own))
		for line := range strings.Lines(own.String()) {
			want = append(want, withoutStore(line)+name)
		}
	}
	var page bytes.Buffer
	require.NoError(t, WritePrometheus(&page, stats))
	var got []string
	headers := map[string]bool{}
	for line := range strings.Lines(page.String()) {
		if strings.HasPrefix(line, "#") {
			require.False(t, headers[line], "twice: %s", line)
			headers[line] = true
			got = append(got, line+"users", line+"sessions")
			continue
		}
		_, rest, ok := strings.Cut(line, `store="`)
		require.True(t, ok, line)
		name, _, _ := strings.Cut(rest, `"`)
		got = append(got, withoutStore(line)+name)
	}
	slices.Sort(want)
	slices.Sort(got)
	require.Equal(t, want, got)
	require.Contains(t, page.String(),
		"\n"+`warmtier_memories{store="sessions"} 20`+"\n"+`warmtier_memories{store="users"} 10`+"\n")
	require.Contains(t, page.String(), `warmtier_operations_total{op="put",result="ok",store="users"} 10`)

	page.Reset()
	require.NoError(t, WritePrometheus(&page, nil))
	require.Zero(t, page.Len())
}

// withoutStore takes the label store out of a line of a page.
func withoutStore(line string) string {
	for _, name := range []string{"users", "sessions"} {
		label := `store="` + name + `"`
		line = strings.NewReplacer("{"+label+"}", "", "{"+label+",", "{", ","+label, "").Replace(line)
	}
	return line
}
