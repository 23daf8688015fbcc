//go:build unix

package warmtier

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/dir/shadow"
	"github.com/warmtier/warmtier/internal/stream"
)

// Goal: a kill while an import stores, before any other manifest is written, finds no record missing: the numbers that
// it has skipped have none.
func TestImport_KilledAfterSkip(t *testing.T) {
	var b bytes.Buffer
	w, err := stream.NewWriter(&b, 1)
	require.NoError(t, err)
	for _, id := range []string{"a", "b"} {
		require.NoError(t, w.Put(stream.Memory{ID: []byte(id), Version: 1 << 50}))
	}
	_, err = w.End()
	require.NoError(t, err)
	d := newShadow()
	var killed *shadow.FS
	var at latePoints
	s, err := openShadow(d, shadowOptions(), hooks{hash: oneLane, at: at.hook})
	require.NoError(t, err)
	require.NoError(t, s.Put("before", nil))
	stored := 0
	at.set(func(p point) error {
		if p == pointPutAppended {
			if stored++; stored == 2 {
				killed = d.Kill()
			}
		}
		return nil
	})
	_, err = s.Import(t.Context(), &b)
	require.NoError(t, err)
	at.set(nil)
	closeShadow(t, s, d)
	s = shadowStore(t, killed, shadowOptions())
	require.True(t, s.Has("before"))
	require.True(t, s.Has("a"))
	_, v, err := s.GetVersion("a")
	require.NoError(t, err)
	require.Greater(t, v, Version(1<<50))
	closeShadow(t, s, killed)
}
