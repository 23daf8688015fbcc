package warmtier

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/singleflight"
)

type loadResult struct {
	content []byte
	err     error
}

// startLoads starts n calls of GetOrLoad in a synctest bubble, and returns when all wait.
func startLoads(
	ctx context.Context, s *Store, n int, load func(context.Context) ([]byte, error),
) <-chan loadResult {
	results := make(chan loadResult, n)
	for range n {
		go func() {
			content, err := s.GetOrLoad(ctx, "a", load)
			results <- loadResult{content, err}
		}()
	}
	synctest.Wait()
	return results
}

// Goal: a hundred concurrent misses load once, and each gets a copy of its own.
func TestGetOrLoad_Once(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTest(t, quiet(), hooks{})
		var calls atomic.Int64
		proceed := make(chan struct{})
		original := []byte("content")
		results := startLoads(t.Context(), s, 100, func(context.Context) ([]byte, error) {
			calls.Add(1)
			<-proceed
			return original, nil
		})
		close(proceed)
		seen := map[*byte]bool{&original[0]: true}
		for range 100 {
			r := <-results
			require.NoError(t, r.err)
			require.Equal(t, "content", string(r.content))
			require.False(t, seen[&r.content[0]], "two callers share a slice")
			seen[&r.content[0]] = true
			r.content[0] = 'X'
		}
		require.EqualValues(t, 1, calls.Load())
		got, err := s.Get("a")
		require.NoError(t, err)
		require.Equal(t, "content", string(got))
		st := s.Stats()
		require.EqualValues(t, 1, st.Loads.OK)
		require.EqualValues(t, 1, st.Puts)
		require.EqualValues(t, 100, st.Misses)
		require.EqualValues(t, 1, st.Loads.Duration.Count)
		require.Empty(t, s.loads.calls)

		content, err := s.GetOrLoad(t.Context(), "a", nil)
		require.NoError(t, err, "no load for what is there")
		require.Equal(t, "content", string(content))
	})
}

// Goal: a call that missed the id before another load finished finds what that load stored.
func TestGetOrLoad_StoredByOtherLoad(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.NoError(t, s.Put("a", []byte("landed")))
	content, err := s.loadAndStore(&loadCall{}, "a", nil)
	require.NoError(t, err)
	require.Equal(t, "landed", string(content))
}

// Goal: a Put or Delete during a load wins over the load, and later calls see it.
func TestGetOrLoad_ChangedDuringLoad(t *testing.T) {
	put := func(t *testing.T, s *Store) { require.NoError(t, s.Put("a", []byte("put"))) }
	remove := func(existed bool) func(*testing.T, *Store) {
		return func(t *testing.T, s *Store) {
			got, err := s.Delete("a")
			require.NoError(t, err)
			require.Equal(t, existed, got)
		}
	}
	for _, c := range []struct {
		name    string
		size    int // of the loaded content
		changes []func(*testing.T, *Store)
		waiting string // what the waiting caller gets; "" for what was loaded
		after   string // what is there then; "" for nothing
	}{
		{name: "nothing", size: 10, after: "loaded"},
		{name: "put", size: 10, changes: []func(*testing.T, *Store){put}, waiting: "put", after: "put"},
		{name: "delete of nothing", size: 10, changes: []func(*testing.T, *Store){remove(false)}},
		{name: "put and delete", size: 10, changes: []func(*testing.T, *Store){put, remove(true)}},
		{name: "delete, large content", size: 2 << 20, changes: []func(*testing.T, *Store){remove(false)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := openTest(t, quiet(), hooks{})
				proceed := make(chan struct{})
				content := contentOf(1, 1, c.size)
				results := startLoads(t.Context(), s, 1, func(context.Context) ([]byte, error) {
					<-proceed
					return content, nil
				})
				for _, change := range c.changes {
					change(t, s)
				}
				if c.changes != nil && c.after == "" { // a call from here on must not see what is older
					later, err := s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) {
						return []byte("later"), nil
					})
					require.NoError(t, err)
					require.Equal(t, "later", string(later))
					_, err = s.Delete("a")
					require.NoError(t, err)
				}
				close(proceed)
				r := <-results
				require.NoError(t, r.err)
				if c.waiting == "" {
					require.Equal(t, content, r.content)
				} else {
					require.Equal(t, c.waiting, string(r.content))
				}
				got, err := s.Get("a")
				switch c.after {
				case "":
					require.ErrorIs(t, err, ErrNotFound)
				case "loaded":
					require.Equal(t, content, got)
				default:
					require.Equal(t, c.after, string(got))
				}
			})
		})
	}
}

// Goal: an error of load is returned unchanged to every caller, stores nothing, and is forgotten.
func TestGetOrLoad_Error(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTest(t, quiet(), hooks{})
		boom := errors.New("boom")
		proceed := make(chan struct{})
		results := startLoads(t.Context(), s, 3, func(context.Context) ([]byte, error) {
			<-proceed
			return []byte("of no use"), boom
		})
		close(proceed)
		for range 3 {
			r := <-results
			require.Same(t, boom, r.err, "not wrapped")
			require.Nil(t, r.content)
		}
		require.False(t, s.Has("a"))
		content, err := s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) { return nil, nil })
		require.NoError(t, err)
		require.Equal(t, []byte{}, content)
		require.True(t, s.Has("a"))
		require.EqualValues(t, 1, s.Stats().Loads.Errors)
	})
}

// Goal: an error of load comes back unchanged whatever it means to others: singleflight ends the
// process for an error that is the panic of a group, its own or another one's.
func TestGetOrLoad_ErrorOfAnotherGroup(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	var backend singleflight.Group
	var returned error
	content, err := s.GetOrLoad(t.Context(), "a", func(context.Context) (content []byte, err error) {
		defer func() {
			returned, _ = recover().(error)
			err = returned
		}()
		_, err, _ = backend.Do("a", func() (any, error) { panic("the backend broke") })
		return nil, err
	})
	require.Nil(t, content)
	require.Error(t, returned)
	require.Same(t, returned, err)
	require.Empty(t, s.loads.calls)

	_, err = s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) {
		return nil, errorSlice{errors.New("boom")}
	})
	require.Equal(t, errorSlice{errors.New("boom")}, err, "an error that cannot be compared")
}

// errorSlice is an error of a type that == panics for.
type errorSlice []error

func (errorSlice) Error() string { return "errors" }

// Goal: a content that cannot be stored is returned with the error that says why.
func TestGetOrLoad_CannotStore(t *testing.T) {
	s, err := Open(t.TempDir(), quiet())
	require.NoError(t, err)
	content, err := s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) {
		require.Error(t, s.fail(errors.New("boom")))
		return []byte("content"), nil
	})
	require.ErrorIs(t, err, ErrSyncFailed)
	require.Equal(t, "content", string(content))
	_, err = s.GetOrLoad(t.Context(), "a", nil)
	require.ErrorIs(t, err, ErrSyncFailed, "load is not called for nothing")
	require.EqualValues(t, 1, s.Stats().Writes.PutErrors)
	require.ErrorIs(t, s.Close(), ErrSyncFailed)

	opts := quiet()
	opts.ReadOnly = true
	s = openTest(t, opts, hooks{})
	_, err = s.GetOrLoad(t.Context(), "a", nil)
	require.ErrorIs(t, err, ErrReadOnly, "load is not called for nothing")
	_, err = s.GetOrLoad(t.Context(), "", nil)
	require.ErrorIs(t, err, ErrInvalidID)
}

// Goal: a panic of load reaches every caller, with its value, and Goexit is an error; neither
// affects other loads.
func TestGetOrLoad_LoadDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTest(t, quiet(), hooks{})
		boom := errors.New("boom")
		proceed := make(chan struct{})
		panics := make(chan any, 2)
		for range 2 {
			go func() {
				defer func() { panics <- recover() }()
				_, _ = s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) {
					<-proceed
					panic(boom)
				})
			}()
		}
		synctest.Wait()
		close(proceed)
		for range 2 {
			err, ok := (<-panics).(error)
			require.True(t, ok)
			require.ErrorIs(t, err, boom)
			require.Contains(t, err.Error(), "TestGetOrLoad_LoadDoesNotReturn", "the stack of the load")
		}
		_, err := s.GetOrLoad(t.Context(), "a", func(context.Context) ([]byte, error) {
			runtime.Goexit()
			return nil, nil
		})
		require.ErrorIs(t, err, errExited)
		require.Empty(t, s.loads.calls)
		require.EqualValues(t, 2, s.Stats().Loads.Errors)
	})
}

// Goal: when one caller leaves, the others get the content; when all have left, the load is
// cancelled, and whatever it returns is not stored.
func TestGetOrLoad_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTest(t, quiet(), hooks{})
		type word struct{}
		patient := context.WithValue(t.Context(), word{}, "value")
		impatient, leave := context.WithCancel(patient)
		proceed := make(chan struct{})
		load := func(ctx context.Context) ([]byte, error) {
			require.Equal(t, "value", ctx.Value(word{}))
			select {
			case <-proceed:
				return []byte("content"), nil
			case <-ctx.Done():
				return []byte("too late"), nil
			}
		}
		first := startLoads(impatient, s, 1, load)
		second := startLoads(patient, s, 1, load)
		leave()
		require.ErrorIs(t, (<-first).err, context.Canceled)
		synctest.Wait()
		close(proceed)
		require.Equal(t, loadResult{content: []byte("content")}, <-second)
		_, err := s.Delete("a")
		require.NoError(t, err)

		proceed = make(chan struct{})
		both, leave := context.WithCancel(patient)
		results := startLoads(both, s, 2, load)
		leave()
		require.ErrorIs(t, (<-results).err, context.Canceled)
		require.ErrorIs(t, (<-results).err, context.Canceled)
		synctest.Wait()
		require.False(t, s.Has("a"))
		require.EqualValues(t, 2, s.Stats().Loads.OK, "the load has ended")
		_, err = s.GetOrLoad(both, "a", nil)
		require.ErrorIs(t, err, context.Canceled, "load is not called for nothing")
	})
}

// Goal: Close ends calls and load, and does not wait for a load that does not listen.
func TestGetOrLoad_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open("", quiet())
		require.NoError(t, err)
		proceed := make(chan struct{})
		cause := make(chan error, 1)
		results := startLoads(t.Context(), s, 2, func(ctx context.Context) ([]byte, error) {
			<-proceed
			cause <- context.Cause(ctx)
			return []byte("content"), nil
		})
		require.NoError(t, s.Close())
		require.ErrorIs(t, (<-results).err, ErrClosed)
		require.ErrorIs(t, (<-results).err, ErrClosed)
		close(proceed)
		require.ErrorIs(t, <-cause, ErrClosed)
		synctest.Wait()
		require.Zero(t, s.mapper.bytes.Load())
	})
}

// Goal: no call returns a content older than a change that had ended before the call began, and no
// such content stays in the store. Method: a cold store has one number for each id, which only
// grows; writers put the new number or delete the memory, readers load. Run with the race detector
// too.
func TestGetOrLoad_NeverOlder(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const ids = 3
	var cold, settled [ids]atomic.Uint64 // settled: the warm tier has been told
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	for i := range ids {
		writers.Add(1)
		go func() {
			defer writers.Done()
			for v := uint64(1); v <= uint64(scaled(5_000)); v++ {
				cold[i].Store(v)
				var err error
				if v%3 == 0 {
					err = s.Put(idOf(i), binary.LittleEndian.AppendUint64(nil, v))
				} else {
					_, err = s.Delete(idOf(i))
				}
				if err != nil {
					t.Error(err)
				}
				settled[i].Store(v)
				runtime.Gosched()
			}
		}()
	}
	for range 4 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for i := 0; ; i = (i + 1) % ids {
				select {
				case <-done:
					return
				default:
				}
				runtime.Gosched()
				least := settled[i].Load()
				content, err := s.GetOrLoad(t.Context(), idOf(i), func(context.Context) ([]byte, error) {
					b := binary.LittleEndian.AppendUint64(nil, cold[i].Load())
					runtime.Gosched()
					return b, nil
				})
				if err != nil || binary.LittleEndian.Uint64(content) < least {
					t.Errorf("id %d: %v, %v, at least %d", i, content, err, least)
					return
				}
			}
		}()
	}
	writers.Wait()
	close(done)
	readers.Wait()
	st := s.Stats()
	t.Logf("%d loads, %d hits", st.Loads.OK, st.Gets-st.Misses)
	require.Positive(t, st.Loads.OK)
}
