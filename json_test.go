package warmtier

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: Stats as JSON has names with units, durations in seconds, no time that never was, and the text of the
// failure. warmtierprom compares every figure with its metric.
func TestStats_JSON(t *testing.T) {
	s := openTest(t, &Options{Maintenance: MaintenanceOptions{Disabled: true}}, hooks{})
	require.NoError(t, s.Put("a", []byte("tea")))
	st := s.Stats()
	st.MaxSwapPause = 1500 * time.Millisecond
	var v map[string]any
	text, err := json.Marshal(map[string]any{"store": st}) // nested, as expvar has it
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	v = v["store"].(map[string]any)
	require.Equal(t, 1.0, v["memories"])
	require.Equal(t, float64(st.LiveBytes), v["live_bytes"])
	compactions := v["compactions"].(map[string]any)
	require.Equal(t, 1.5, compactions["max_swap_pause_seconds"])
	require.NotContains(t, compactions, "last")
	require.NotContains(t, compactions, "progress")
	require.NotContains(t, v["maintenance"], "next_cycle")
	require.NotContains(t, v["sync"], "failure")

	st.Sync.Failure = fmt.Errorf("%w: %w", ErrSyncFailed, errors.New("gone"))
	st.CompactionInProgress = true
	st.CompactionDetails.Progress = CompactionProgress{Stage: StageBuild, Elapsed: time.Minute}
	text, err = json.Marshal(st)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &v))
	require.Contains(t, v["sync"].(map[string]any)["failure"], "gone")
	progress := v["compactions"].(map[string]any)["progress"].(map[string]any)
	require.Equal(t, "build", progress["stage"])
	require.Equal(t, 60.0, progress["elapsed_seconds"])
}
