package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

// TestRun runs the whole program on one directory of the Go source, the way a newcomer runs it on
// all of it.
func TestRun(t *testing.T) {
	source, err := goSource(t.Context())
	require.NoError(t, err)
	var out, shown bytes.Buffer
	require.NoError(t, run(t.Context(), filepath.Join(source, "go"), &out, &progress{w: &shown}))
	require.Contains(t, out.String(), "wrong reads: 0\n")
	require.Contains(t, out.String(), "fragmentation")
	require.Regexp(t, `[1-9][0-9,]* evicted, [1-9][0-9,]* expired and dropped`, out.String())
	require.Contains(t, shown.String(), "while compactions run")
}

func TestRun_Interrupted(t *testing.T) {
	source, err := goSource(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = run(ctx, filepath.Join(source, "go"), &bytes.Buffer{}, &progress{w: &bytes.Buffer{}})
	require.ErrorIs(t, err, context.Canceled)
}

func TestRun_NoSource(t *testing.T) {
	err := run(t.Context(), t.TempDir(), &bytes.Buffer{}, &progress{w: &bytes.Buffer{}})
	require.ErrorContains(t, err, "too little Go source")
}

func TestDeclarations(t *testing.T) {
	const source = `package p

import "fmt"

// A is one.
const (
	A = 1
	B = 2
)

func (t *T[K]) M() {}

func init() { fmt.Println() }
func init() {}
`
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "p.go"), []byte(source), 0o600))
	store, err := warmtier.Open("", nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	memories, err := load(t.Context(), store, dir, &progress{w: &bytes.Buffer{}})
	require.NoError(t, err)

	ids := make([]string, 0, len(memories))
	for _, m := range memories {
		ids = append(ids, m.id)
	}
	require.Equal(t, []string{"p.go#A", "p.go#T.M", "p.go#init", "p.go#init~2"}, ids)
	content, err := store.Get("p.go#A")
	require.NoError(t, err)
	require.Equal(t, "// A is one.\nconst (\n\tA = 1\n\tB = 2\n)", string(content))
}

// TestReaders_SeeWrongBytes stores something behind the program's back: the readers must notice.
func TestReaders_SeeWrongBytes(t *testing.T) {
	store, err := warmtier.Open("", nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	m := &memory{id: "a"}
	require.NoError(t, m.becomes(digestOf([]byte("right")), func() error {
		return store.Put(m.id, []byte("right"))
	}))
	readOnce := func() *readers {
		r := &readers{store: store, memories: []*memory{m}}
		content, err := store.Get(m.id)
		r.check(m, m.done.Load(), m.begun.Load(), content, err)
		return r
	}
	require.NoError(t, readOnce().verdict())
	require.NoError(t, store.Put(m.id, []byte("wrong")))
	require.ErrorContains(t, readOnce().verdict(), "1 wrong reads")
	_, err = store.Delete(m.id)
	require.NoError(t, err)
	require.ErrorContains(t, readOnce().verdict(), "memory not found")
}

func TestLatencies_Percentile(t *testing.T) {
	var l latencies
	for us := range 1000 {
		l.add(time.Duration(us) * time.Microsecond)
	}
	for _, p := range []float64{0, 0.5, 0.99, 0.999} {
		require.InEpsilon(t, 1+p*1000, 1+float64(l.percentile(p))/1000, 1.0/32, "percentile %v", p)
	}
	require.Equal(t, 999*time.Microsecond, l.longest)
}
