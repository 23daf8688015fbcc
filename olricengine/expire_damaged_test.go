package olricengine_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

// What cannot be read keeps nothing else from being removed: neither behind it nor in other forks.
func TestExpire_PassesWhatCannotBeRead(t *testing.T) {
	store := openStore(t, &warmtier.Options{})
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	now := time.Now()
	for range 4 {
		f := fork(t, engine)
		for hkey := range uint64(3) {
			putUntil(t, f, hkey, "ends", 1, now)
		}
	}
	damaged := 0
	for id := range store.IDs() {
		if id[len(id)-1] == 0 { // the first hash key of each fork
			require.NoError(t, store.Put(id, []byte("a format of later, longer than a header")))
			damaged++
		}
	}
	require.Equal(t, 4, damaged)
	removed, err := engine.Expire(now)
	require.ErrorIs(t, err, olricengine.ErrFormat)
	require.Equal(t, 8, removed)
	require.Equal(t, 4, store.Len())
}
