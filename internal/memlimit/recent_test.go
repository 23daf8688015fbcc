package memlimit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: an answer is believed for a moment by who takes little of it, and by nobody else.
func TestRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Recent
		bytes, known, asked := int64(1600), true, 0
		ask := func() (int64, bool) {
			asked++
			return bytes, known
		}
		get := func(most int64, wantBytes int64, wantOK bool, wantAsked int) {
			t.Helper()
			got, ok := r.availableFrom(most, ask)
			require.Equal(t, wantOK, ok)
			require.Equal(t, wantBytes, got)
			require.Equal(t, wantAsked, asked)
		}
		get(100, 1600, true, 1)
		bytes = 800
		get(100, 1600, true, 1)
		get(101, 800, true, 2)
		get(51, 800, true, 3)
		bytes = 0
		<-time.After(recentFor - 1)
		get(50, 800, true, 3)
		<-time.After(1)
		get(50, 0, true, 4)
		get(1, 0, true, 5) // nothing is ample beside nothing
		known = false
		get(1, 0, false, 6)
		known = true
		get(1<<60, 0, false, 6) // where nothing says how much there is, nothing bounds what is taken
		<-time.After(recentFor)
		get(1, 0, true, 7)
	})
}
