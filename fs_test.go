package warmtier

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// awkwardIDs has ids that are no file names, and the names that stand for them.
var awkwardIDs = map[string]string{
	"plain.txt":    "plain.txt",
	".":            "%2E",
	"..":           "%2E%2E",
	"...":          "...",
	"/":            "%2F",
	"a/b":          "a%2Fb",
	"a/../b":       "a%2F..%2Fb",
	"%2E":          "%252E",
	"%2F":          "%252F",
	"a b+c":        "a%20b+c",
	"*?[x]":        "%2A%3F%5Bx%5D",
	`back\slash`:   "back%5Cslash",
	"\x00\xff\xfe": "%00%FF%FE",
	"grüße":        "gr%C3%BC%C3%9Fe",
	"\ufffd":       "%EF%BF%BD",
	"CON":          "CON",
	"index.html":   "index.html",
}

// Goal: every id has one valid name, and the file system is what the standard library expects of
// one.
func TestFS_TestFS(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "directory": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(dir, quiet())
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			require.NoError(t, fstest.TestFS(s.FS()), "an empty one")
			var names []string
			for id, name := range awkwardIDs {
				require.NoError(t, s.Put(id, []byte("content of "+id)))
				require.True(t, fs.ValidPath(name))
				names = append(names, name)
			}
			long := strings.Repeat("\x00", MaxIDLen)
			require.NoError(t, s.Put(long, nil))
			require.NoError(t, fstest.TestFS(s.FS(), append(names, strings.Repeat("%00", MaxIDLen))...))
			entries, err := fs.ReadDir(s.FS(), ".")
			require.NoError(t, err)
			require.Len(t, entries, len(awkwardIDs)+1)
			for id, name := range awkwardIDs {
				content, err := fs.ReadFile(s.FS(), name)
				require.NoError(t, err, name)
				require.Equal(t, "content of "+id, string(content))
			}
		})
	}
}

// Goal: no second name leads to a memory, and errors are the usual ones of file systems.
func TestFS_Errors(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	require.NoError(t, s.Put("a", []byte("content")))
	require.NoError(t, s.Put("b/", nil))
	view := s.FS()
	for _, name := range []string{"%61", "b%2f", "absent", "%", "%zz", "a/b", "b"} {
		_, err := view.Open(name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
		_, err = fs.Stat(view, name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
		_, err = fs.ReadDir(view, name)
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
	for _, name := range []string{"", "/a", "a/", "..", "./a", "b/", "\xff"} {
		_, err := view.Open(name)
		require.ErrorIs(t, err, fs.ErrInvalid, name)
		var pathError *fs.PathError
		require.ErrorAs(t, err, &pathError)
		require.Equal(t, name, pathError.Path)
	}
	_, err := fs.ReadDir(view, "a")
	require.Error(t, err)
	f, err := view.Open("a")
	require.NoError(t, err)
	require.NoError(t, s.Put("a", []byte("changed")))
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "content", string(got), "what was there when it was opened")
	require.NoError(t, f.Close())
	_, err = f.Read(make([]byte, 1))
	require.ErrorIs(t, err, fs.ErrClosed)
	require.ErrorIs(t, f.Close(), fs.ErrClosed)

	require.NoError(t, s.Close())
	_, err = view.Open("a")
	require.ErrorIs(t, err, ErrClosed)
	_, err = fs.ReadDir(view, ".")
	require.ErrorIs(t, err, ErrClosed)
}

// Goal: http.FileServerFS serves memories, ranges of them, and the list.
func TestFS_FileServer(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	for id := range awkwardIDs {
		require.NoError(t, s.Put(id, []byte("content of "+id)))
	}
	handler := http.FileServerFS(s.FS())
	get := func(path, bytes string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if bytes != "" {
			r.Header.Set("Range", bytes)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Result()
	}
	body := func(r *http.Response) string {
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		return string(b)
	}
	for id, name := range awkwardIDs {
		if id == "index.html" {
			continue // is what "/" serves
		}
		r := get("/"+url.PathEscape(name), "")
		require.Equal(t, http.StatusOK, r.StatusCode, id)
		require.Equal(t, "content of "+id, body(r))
	}
	r := get("/plain.txt", "bytes=0-6")
	require.Equal(t, http.StatusPartialContent, r.StatusCode)
	require.Equal(t, "content", body(r))
	require.Equal(t, http.StatusNotFound, get("/absent", "").StatusCode)
	require.Equal(t, "content of index.html", body(get("/", "")))
	_, err := s.Delete("index.html")
	require.NoError(t, err)
	require.Contains(t, body(get("/", "")), `<a href="a%252Fb">a%2Fb</a>`)
}

// Goal: a directory can be read in parts.
func TestFS_ReadDirInParts(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10, 20)
	f, err := s.FS().Open(".")
	require.NoError(t, err)
	d, ok := f.(fs.ReadDirFile)
	require.True(t, ok)
	var names []string
	for {
		entries, err := d.ReadDir(3)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.LessOrEqual(t, len(entries), 3)
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	require.Len(t, names, 10)
	require.IsIncreasing(t, names)
}
