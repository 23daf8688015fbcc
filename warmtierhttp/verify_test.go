package warmtierhttp

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

const verifyPath = "/api/v1/maintenance/verify"

// Goal: a running store answers what Verify finds, findings included and ids not, to those with the token.
func TestVerify_Report(t *testing.T) {
	dir := t.TempDir()
	s, err := warmtier.Open(dir, nil)
	require.NoError(t, err)
	require.NoError(t, s.Put("secret", []byte("content")))
	require.NoError(t, s.Sync())
	h := handlerOf(t, s, Options{Token: "token"})
	require.Equal(t, http.StatusUnauthorized, ask(h, "POST", verifyPath, nil).Code)
	with := func(r *http.Request) { r.Header.Set("Authorization", "Bearer token") }
	w := ask(h, "POST", verifyPath, with)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	report := decoded[wireVerification](t, w.Body.Bytes())
	require.Equal(t, 1, report.Memories)
	require.Empty(t, report.Findings)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("rubbish"), 0o600))
	w = ask(h, "POST", verifyPath, with)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	report = decoded[wireVerification](t, w.Body.Bytes())
	require.Equal(t, 1, report.FindingCount)
	require.Equal(t, "MANIFEST", report.Findings[0].File)
	require.NotContains(t, w.Body.String(), "secret")
	require.NoError(t, h.Close())
	require.NoError(t, s.Close())
	require.Equal(t, http.StatusServiceUnavailable, ask(h, "POST", verifyPath, with).Code)
}

// Goal: one verification runs at a time, and a client that is gone ends its own.
func TestVerify_OneAtATime(t *testing.T) {
	h := handlerOf(t, fragmented(t, &warmtier.Options{}), Options{})
	h.verifying.Store(true)
	require.Equal(t, http.StatusConflict, ask(h, "POST", verifyPath, nil).Code)
	h.verifying.Store(false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, verifyPath, nil).WithContext(ctx)
	r.Host = "localhost"
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusInternalServerError, w.Code, w.Body)
	require.Contains(t, w.Body.String(), "canceled")
	require.Equal(t, http.StatusOK, ask(h, "POST", verifyPath, nil).Code)
}
