package sessions

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/alexedwards/scs/v2"
	"github.com/gofiber/storage"
	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier"
)

/*
Goal: Storage is what the interfaces say. Method: the sentences of gofiber/storage v1.3.3, of Fiber 3 and of scs v2.9.0,
one by one: the conformance tests of gofiber are not to be had as a module. scs is run as a whole.
*/

var (
	_ storage.Storage   = (*Storage)(nil)
	_ scs.Store         = (*Storage)(nil)
	_ scs.IterableStore = (*Storage)(nil)
	_ fiber3            = (*Storage)(nil)
)

// fiber3 is the Storage of github.com/gofiber/fiber/v3 at v3.0.0, which is large.
type fiber3 interface {
	GetWithContext(ctx context.Context, key string) ([]byte, error)
	Get(key string) ([]byte, error)
	SetWithContext(ctx context.Context, key string, val []byte, exp time.Duration) error
	Set(key string, val []byte, exp time.Duration) error
	DeleteWithContext(ctx context.Context, key string) error
	Delete(key string) error
	ResetWithContext(ctx context.Context) error
	Reset() error
	Close() error
}

func open(t *testing.T) *Storage {
	t.Helper()
	store, err := warmtier.Open("", nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return New(store)
}

func get(t *testing.T, s *Storage, key string) any {
	t.Helper()
	value, err := s.Get(key)
	require.NoError(t, err)
	if value == nil {
		return nil
	}
	return string(value)
}

func TestStorage_GetIsNilWithoutAValue(t *testing.T) {
	s := open(t)
	require.Nil(t, get(t, s, "nobody"))
	require.Nil(t, get(t, s, ""))
	require.Nil(t, get(t, s, strings.Repeat("x", warmtier.MaxIDLen+1)))
}

func TestStorage_SetReplacesValueAndExpiration(t *testing.T) {
	s := open(t)
	require.NoError(t, s.Set("k", []byte("one"), 0))
	require.Equal(t, "one", get(t, s, "k"))
	require.NoError(t, s.Set("k", []byte("two"), time.Millisecond))
	require.Eventually(t, func() bool { return get(t, s, "k") == nil }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.Set("k", []byte("three"), time.Hour))
	require.Equal(t, "three", get(t, s, "k"))
	require.NoError(t, s.Set("k", []byte("four"), 0))
	at, err := s.store.Expiry("k")
	require.NoError(t, err)
	require.Zero(t, at)
}

func TestStorage_SetIgnoresAnEmptyKeyOrValue(t *testing.T) {
	s := open(t)
	require.NoError(t, s.Set("k", []byte("kept"), 0))
	require.NoError(t, s.Set("k", nil, 0))
	require.NoError(t, s.Set("k", []byte{}, time.Hour))
	require.NoError(t, s.Set("", []byte("v"), 0))
	require.Equal(t, "kept", get(t, s, "k"))
	require.Equal(t, 1, s.store.Len())
}

func TestStorage_SetOfAPastExpirationDeletes(t *testing.T) {
	s := open(t)
	require.NoError(t, s.Set("k", []byte("one"), 0))
	require.NoError(t, s.Set("k", []byte("two"), -time.Second))
	require.Nil(t, get(t, s, "k"))
}

func TestStorage_SlicesAreTheCallers(t *testing.T) {
	s, value := open(t), []byte("value")
	require.NoError(t, s.Set("k", value, 0))
	clear(value)
	got, err := s.Get("k")
	require.NoError(t, err)
	clear(got)
	require.Equal(t, "value", get(t, s, "k"))
}

func TestStorage_DeleteAndReset(t *testing.T) {
	s := open(t)
	require.NoError(t, s.Delete("nobody"))
	require.NoError(t, s.Delete(""))
	require.NoError(t, s.Set("a", []byte("1"), 0))
	require.NoError(t, s.Set("b", []byte("2"), time.Hour))
	require.NoError(t, s.Delete("a"))
	require.Nil(t, get(t, s, "a"))
	require.NoError(t, s.Reset())
	require.Nil(t, get(t, s, "b"))
	require.NoError(t, s.Set("b", []byte("3"), 0))
	require.Equal(t, "3", get(t, s, "b"))
}

func TestStorage_ErrorsAreTheStores(t *testing.T) {
	s := open(t)
	require.ErrorIs(t, s.Set(strings.Repeat("x", warmtier.MaxIDLen+1), []byte("v"), 0), warmtier.ErrInvalidID)
	require.NoError(t, s.Close())
	_, err := s.Get("k")
	require.ErrorIs(t, err, warmtier.ErrClosed)
	_, _, err = s.Find("k")
	require.ErrorIs(t, err, warmtier.ErrClosed)
	require.ErrorIs(t, s.Set("k", []byte("v"), 0), warmtier.ErrClosed)
	require.ErrorIs(t, s.Commit("k", []byte("v"), time.Now().Add(time.Hour)), warmtier.ErrClosed)
	require.ErrorIs(t, s.Delete("k"), warmtier.ErrClosed)
	require.ErrorIs(t, s.Reset(), warmtier.ErrClosed)
}

func TestStorage_ContextsThatAreDone(t *testing.T) {
	s := open(t)
	require.NoError(t, s.SetWithContext(t.Context(), "k", []byte("v"), 0))
	value, err := s.GetWithContext(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(value))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.GetWithContext(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, s.SetWithContext(ctx, "k", []byte("w"), 0), context.Canceled)
	require.ErrorIs(t, s.DeleteWithContext(ctx, "k"), context.Canceled)
	require.ErrorIs(t, s.ResetWithContext(ctx), context.Canceled)
	require.Equal(t, "v", get(t, s, "k"), "nothing was done")

	require.NoError(t, s.DeleteWithContext(t.Context(), "k"))
	require.NoError(t, s.ResetWithContext(t.Context()))
	require.Nil(t, get(t, s, "k"))
}

func TestStore_FindCommitDelete(t *testing.T) {
	s := open(t)
	for _, malformed := range []string{"", "nobody", strings.Repeat("x", warmtier.MaxIDLen+1)} {
		value, found, err := s.Find(malformed)
		require.NoError(t, err)
		require.False(t, found)
		require.Nil(t, value)
	}
	require.NoError(t, s.Commit("token", []byte("one"), time.Now().Add(time.Hour)))
	require.NoError(t, s.Commit("token", []byte("two"), time.Now().Add(time.Minute)))
	value, found, err := s.Find("token")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "two", string(value))
	at, err := s.store.Expiry("token")
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(time.Minute), at, 50*time.Second)

	require.NoError(t, s.Commit("token", []byte("three"), time.Now().Add(-time.Second)))
	_, found, err = s.Find("token")
	require.NoError(t, err)
	require.False(t, found, "it has expired")
	require.NoError(t, s.Delete("token"))
}

func TestStore_All(t *testing.T) {
	s := open(t)
	all, err := s.All()
	require.NoError(t, err)
	require.NotNil(t, all)
	require.Empty(t, all)
	require.NoError(t, s.Commit("a", []byte("1"), time.Now().Add(time.Hour)))
	require.NoError(t, s.Commit("b", nil, time.Now().Add(time.Hour)))
	require.NoError(t, s.Commit("gone", []byte("3"), time.Now().Add(-time.Hour)))
	all, err = s.All()
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a": []byte("1"), "b": {}}, all)
}

// Goal: no part of the sessions is taken for all of them.
func TestStore_AllOfClosed(t *testing.T) {
	s := open(t)
	require.NoError(t, s.Commit("a", []byte("1"), time.Now().Add(time.Hour)))
	require.NoError(t, s.Close())
	all, err := s.All()
	require.ErrorIs(t, err, warmtier.ErrClosed)
	require.Nil(t, all)
}

// Goal: damage is an error, also where it is in a token.
func TestStore_AllOfDamaged(t *testing.T) {
	s := open(t)
	for _, token := range []string{"a", "token", "b"} {
		require.NoError(t, s.Set(token, []byte("the value"), 0))
	}
	all, err := s.All()
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.NoError(t, s.store.View("token", func(content []byte) error {
		*(*byte)(unsafe.Add(unsafe.Pointer(&content[0]), -1)) ^= 1 // the last byte of the token, before its value
		return nil
	}))
	all, err = s.All()
	require.ErrorIs(t, err, warmtier.ErrCorrupt)
	require.Nil(t, all)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "twice")
}

// TestSCS runs a server with sessions: logging in, counting, a new token, logging out.
func TestSCS(t *testing.T) {
	s, manager := open(t), scs.New()
	manager.Store = s
	mux := http.NewServeMux()
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		manager.Put(r.Context(), "n", manager.GetInt(r.Context(), "n")+1)
		_, _ = w.Write([]byte(strings.Repeat("x", manager.GetInt(r.Context(), "n"))))
	})
	for path, call := range map[string]func(context.Context) error{
		"/renew": manager.RenewToken, "/leave": manager.Destroy,
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if err := call(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	server := httptest.NewServer(manager.LoadAndSave(mux))
	defer server.Close()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: jar}
	get := func(path string) string {
		answer, err := client.Get(server.URL + path)
		require.NoError(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, answer.StatusCode)
		return string(body)
	}
	require.Equal(t, "x", get("/count"))
	require.Equal(t, "xx", get("/count"))
	get("/renew")
	require.Equal(t, "xxx", get("/count"))
	require.Equal(t, 1, s.store.Len(), "the old token is gone")
	var seen int
	require.NoError(t, manager.Iterate(t.Context(), func(ctx context.Context) error {
		seen = manager.GetInt(ctx, "n")
		return nil
	}))
	require.Equal(t, 3, seen)
	get("/leave")
	require.Zero(t, s.store.Len())
	require.Equal(t, "x", get("/count"))
}
