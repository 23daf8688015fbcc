package warmtier

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Goal: what a load brings with a time to live is loaded again when that is over, and not before; 0 is for good, and
// what comes with a negative one is returned and not stored.
func TestGetOrLoadTTL(t *testing.T) {
	clock := newTestClock()
	s := openTest(t, quiet(), hooks{now: clock.Load})
	loads := 0
	get := func(ttl time.Duration, err error) (string, error) {
		content, err := s.GetOrLoadTTL(t.Context(), "a", func(context.Context) ([]byte, time.Duration, error) {
			loads++
			return []byte{byte('0' + loads)}, ttl, err
		})
		return string(content), err
	}
	_, err := get(time.Second, errors.New("boom"))
	require.EqualError(t, err, "boom")
	require.False(t, s.Has("a"))

	got, err := get(-time.Second, nil)
	require.ErrorIs(t, err, ErrInvalidTTL)
	require.ErrorContains(t, err, "-1s")
	require.Equal(t, "2", got)
	require.False(t, s.Has("a"))

	for range 2 {
		got, err = get(time.Second, nil)
		require.NoError(t, err)
		require.Equal(t, "3", got)
	}
	at, err := s.Expiry("a")
	require.NoError(t, err)
	require.Equal(t, clock.Load()+1000, at.UnixMilli())
	clock.pass(time.Second)
	for range 2 {
		got, err = get(0, nil)
		require.NoError(t, err)
		require.Equal(t, "4", got)
		clock.pass(1000 * time.Hour)
	}
	at, err = s.Expiry("a")
	require.NoError(t, err)
	require.Zero(t, at)
	require.Panics(t, func() { _, _ = s.GetOrLoadTTL(t.Context(), "b", nil) })
}
