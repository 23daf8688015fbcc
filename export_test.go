//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/stream"
)

// exportOf returns an export of s.
func exportOf(t testing.TB, s *Store) []byte {
	t.Helper()
	var b bytes.Buffer
	st, err := s.Export(context.Background(), &b)
	require.NoError(t, err)
	require.Equal(t, int64(b.Len()), st.Bytes)
	require.Equal(t, int64(s.Len()), st.Memories)
	return b.Bytes()
}

// onlyReader hides that a reader can seek.
type onlyReader struct{ io.Reader }

// spoolsIn returns a check that imports have left no temporary file.
func spoolsIn(t *testing.T) (check func()) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return func() {
		t.Helper()
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestExport_Import(t *testing.T) {
	noSpools := spoolsIn(t)
	ctx := context.Background()
	from := openTest(t, quiet(), hooks{})
	fill(t, from, 0, 100, 200)
	deleteWhere(t, from, 0, 100, odd)
	require.NoError(t, from.PutTTL("expires", []byte("soon"), time.Hour))
	require.NoError(t, from.Put("empty", nil))
	require.NoError(t, from.Put("large", make([]byte, 1<<20+100)))
	mustCompact(t, from)
	want := contentsOf(t, from)
	var highest Version
	for id := range want {
		_, v, err := from.GetVersion(id)
		require.NoError(t, err)
		highest = max(highest, v)
	}
	b := exportOf(t, from)
	for _, kind := range []string{"memory", "directory"} {
		for _, r := range []func() io.Reader{
			func() io.Reader { return bytes.NewReader(b) },
			func() io.Reader { return onlyReader{iotest.HalfReader(bytes.NewReader(b))} },
		} {
			dir := ""
			if kind == "directory" {
				dir = fastDir(t)
			}
			to := openDir(t, dir, quietly())
			require.NoError(t, to.Put(idOf(0), []byte("stays")))
			st, err := to.Import(ctx, r())
			require.NoError(t, err)
			require.Equal(t, []int64{int64(len(want) - 1), 1, 0, int64(len(b))},
				[]int64{st.Memories, st.Existing, st.Expired, st.Bytes})
			was := want[idOf(0)]
			want[idOf(0)] = []byte("stays")
			requireSame(t, to, want)
			for id := range want {
				_, v, err := to.GetVersion(id)
				require.NoError(t, err)
				require.True(t, id == idOf(0) || v > highest, "version %d was seen in the other store", v)
			}
			deadline, err := to.Expiry("expires")
			require.NoError(t, err)
			expiry, err := from.Expiry("expires")
			require.NoError(t, err)
			require.Equal(t, expiry, deadline)
			st, err = to.Import(ctx, r())
			require.NoError(t, err)
			require.Equal(t, int64(len(want)), st.Existing, "again adds nothing")
			closeIntact(t, to)
			if dir != "" {
				to = openDir(t, dir, quietly())
				requireSame(t, to, want)
				closeIntact(t, to)
			}
			want[idOf(0)] = was
			noSpools()
		}
	}
}

// Goal: one byte that is flipped or missing, anywhere, is ErrCorrupt, and nothing is imported, whatever the reader.
func TestImport_EveryByteCounts(t *testing.T) {
	noSpools := spoolsIn(t)
	from := openTest(t, quiet(), hooks{})
	fill(t, from, 0, 2, 5)
	b := exportOf(t, from)
	to := openTest(t, quiet(), hooks{})
	fill(t, to, 1, 2, 9)
	refused := func(b []byte, at int, what string) {
		for _, r := range []io.Reader{bytes.NewReader(b), onlyReader{bytes.NewReader(b)}} {
			st, err := to.Import(context.Background(), r)
			var damage *CorruptError
			require.ErrorAs(t, err, &damage, "%s %d", what, at)
			require.ErrorIs(t, err, ErrCorrupt)
			require.Zero(t, st.Memories)
		}
		require.Equal(t, 1, to.Len(), "%s %d", what, at)
	}
	for at := range b {
		damaged := bytes.Clone(b)
		damaged[at] ^= 0x10
		refused(damaged, at, "flipped")
		refused(append(bytes.Clone(b[:at]), b[at+1:]...), at, "missing")
		refused(b[:at], at, "cut")
	}
	refused(append(bytes.Clone(b), 0), len(b), "followed")
	requireContents(t, to, 1, 2, 9, all)
	noSpools()
}

// Goal: what fails when a part is stored takes that part back, and leaves alone what others have stored since.
func TestImport_Undone(t *testing.T) {
	ctx := context.Background()
	from := openTest(t, quiet(), hooks{})
	fill(t, from, 0, 3000, 1000)
	b := exportOf(t, from)

	t.Run("no room", func(t *testing.T) {
		for _, dir := range []string{"", fastDir(t)} {
			opts := quietly()
			opts.MaxBytes, opts.SegmentSize = 2<<20, minSegmentSize
			to := openDir(t, dir, opts)
			require.NoError(t, to.Put(idOf(1), []byte("stays")))
			st, err := to.Import(ctx, bytes.NewReader(b))
			require.ErrorIs(t, err, ErrNoSpace)
			require.Zero(t, st.Memories)
			require.Equal(t, map[string][]byte{idOf(1): []byte("stays")}, contentsOf(t, to))
			closeIntact(t, to)
		}
	})
	t.Run("the reader changes", func(t *testing.T) {
		to := openTest(t, quiet(), hooks{})
		changed := &changingReader{ReadSeeker: bytes.NewReader(b), b: b}
		changed.again = func() { changed.b[len(b)-100] ^= 1 }
		_, err := to.Import(ctx, changed)
		require.ErrorIs(t, err, ErrCorrupt)
		require.Zero(t, to.Len())
		changed.b[len(b)-100] ^= 1
	})
	t.Run("cancelled", func(t *testing.T) {
		var at latePoints
		to := openTest(t, quiet(), hooks{at: at.hook})
		ctx, cancel := context.WithCancel(ctx)
		var puts atomic.Int64
		at.set(func(p point) error {
			if p == pointPutAppended && puts.Add(1) == 50 {
				cancel()
			}
			return nil
		})
		_, err := to.Import(ctx, bytes.NewReader(b))
		require.ErrorIs(t, err, context.Canceled)
		require.Zero(t, to.Len())
		require.Equal(t, int64(50), puts.Load())
	})
	t.Run("others have written", func(t *testing.T) {
		var to *Store
		var at latePoints
		to = openTest(t, quiet(), hooks{at: at.hook})
		ctx, cancel := context.WithCancel(ctx)
		kept, puts := "", 0
		at.set(func(p point) error {
			if p != pointPutFound {
				return nil
			}
			if puts++; puts == 50 {
				puts = math.MinInt
				cancel()
				elsewhere(func() {
					for id := range to.IDs() {
						kept = id
						break
					}
					if err := to.Put(kept, []byte("mine")); err != nil {
						t.Error(err)
					}
				})
			}
			return nil
		})
		_, err := to.Import(ctx, bytes.NewReader(b))
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, map[string][]byte{kept: []byte("mine")}, contentsOf(t, to))
	})
	t.Run("panics", func(t *testing.T) {
		to := openTest(t, quiet(), hooks{})
		changed := &changingReader{ReadSeeker: bytes.NewReader(b), b: b}
		changed.read = func(n int64) {
			if n > int64(len(b))*3/2 {
				panic("reader")
			}
		}
		require.PanicsWithValue(t, "reader", func() { _, _ = to.Import(ctx, changed) })
		require.Zero(t, to.Len())
	})
}

// Goal: an import that succeeds has all of its stream in the store, beside another one of that stream that is undone.
//
// The interleaving: the second one comes when the first has stored a part. It would leave that alone, and end before
// the first takes it back.
func TestImport_BesideOneThatFails(t *testing.T) {
	from := openTest(t, quiet(), hooks{})
	fill(t, from, 0, 3000, 1000)
	b := exportOf(t, from)
	var at latePoints
	to := openTest(t, quiet(), hooks{at: at.hook})
	waits := make(chan struct{})
	at.set(func(p point) error {
		if p == pointImportWaits {
			close(waits)
		}
		return nil
	})
	type result struct {
		st  ExportStats
		err error
	}
	second, ended := make(chan result, 1), make(chan struct{})
	broken := errors.New("broken")
	first := &changingReader{ReadSeeker: bytes.NewReader(b)}
	var fails error
	first.read = func(n int64) {
		if n < int64(len(b))*3/2 || fails != nil {
			return
		}
		fails = broken
		go func() {
			defer close(ended)
			st, err := to.Import(context.Background(), bytes.NewReader(b))
			second <- result{st, err}
		}()
		select {
		case <-waits:
		case <-ended:
		}
	}
	_, err := to.Import(context.Background(), &failingReader{first, &fails})
	require.ErrorIs(t, err, broken)
	r := <-second
	require.NoError(t, r.err)
	require.Equal(t, int64(3000), r.st.Memories)
	require.Equal(t, contentsOf(t, from), contentsOf(t, to))

	// One that waits ends with its context.
	to.importing <- struct{}{}
	ctx, cancel := context.WithCancel(context.Background())
	at.set(func(p point) error {
		if p == pointImportWaits {
			cancel()
		}
		return nil
	})
	_, err = to.Import(ctx, bytes.NewReader(b))
	require.ErrorIs(t, err, context.Canceled)
	<-to.importing
}

// failingReader is a reader that fails as soon as there is an error.
type failingReader struct {
	io.ReadSeeker
	err *error
}

func (f *failingReader) Read(b []byte) (int, error) {
	n, err := f.ReadSeeker.Read(b)
	if *f.err != nil {
		return 0, *f.err
	}
	return n, err
}

// Goal: a kill leaves no temporary files: where an open file can lose its name they have none.
func TestImport_NamelessFiles(t *testing.T) {
	none := spoolsIn(t)
	from := openTest(t, quiet(), hooks{})
	fill(t, from, 0, 100, 1000)
	var at latePoints
	to := openTest(t, quiet(), hooks{at: at.hook})
	looked := 0
	at.set(func(p point) error {
		if p == pointPutAppended { // both files are in use
			none()
			looked++
		}
		return nil
	})
	_, err := to.Import(context.Background(), onlyReader{bytes.NewReader(exportOf(t, from))})
	require.NoError(t, err)
	require.Equal(t, 100, looked)
}

// changingReader is a reader with a second read that differs from the first.
type changingReader struct {
	io.ReadSeeker
	b     []byte
	again func()
	read  func(n int64)
	n     int64
}

func (c *changingReader) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart && c.again != nil {
		c.again()
	}
	return c.ReadSeeker.Seek(offset, whence)
}

func (c *changingReader) Read(b []byte) (int, error) {
	n, err := c.ReadSeeker.Read(b)
	if c.n += int64(n); c.read != nil {
		c.read(c.n)
	}
	return n, err
}

// Goal: Close waits until an import that it ends has taken back what it had stored: after the next Open nothing is
// there.
func TestImport_BesideClose(t *testing.T) {
	from := openTest(t, quiet(), hooks{})
	fill(t, from, 0, 6000, 50) // what is stored takes tombstones of several segments
	b := exportOf(t, from)
	dir := fastDir(t)
	var at latePoints
	opts := quietly()
	opts.SegmentSize = minSegmentSize
	to, err := open(dir, opts, hooks{at: at.hook})
	require.NoError(t, err)
	require.NoError(t, to.Put("mine", nil))
	closed, told, puts := make(chan error, 1), make(chan struct{}), 0
	at.set(func(p point) error {
		switch p {
		case pointCloseTold:
			close(told)
		case pointPutAppended:
			if puts++; puts == 5000 {
				go func() { closed <- to.Close() }()
				<-told
			}
		}
		return nil
	})
	_, err = to.Import(context.Background(), bytes.NewReader(b))
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, <-closed)
	to = openDir(t, dir, quietly())
	require.Equal(t, 1, to.Len())
	closeIntact(t, to)
}

// Goal: numbers that an import skips are not missed by a recovery after a kill, and versions are not used twice.
func TestImport_SkipsNumbers(t *testing.T) {
	skipKillsUnderRace(t)
	var b bytes.Buffer
	w, err := stream.NewWriter(&b, 1)
	require.NoError(t, err)
	require.NoError(t, w.Put(stream.Memory{ID: []byte("a"), Version: 1 << 50}))
	_, err = w.End()
	require.NoError(t, err)
	dir, killed := fastDir(t), fastDir(t)
	s := openDir(t, dir, quietly())
	require.NoError(t, s.Put("before", nil))
	_, err = s.Import(context.Background(), &b)
	require.NoError(t, err)
	require.NoError(t, s.Put("after", nil))
	copyDir(t, dir, killed)
	_, v, err := s.GetVersion("a")
	require.NoError(t, err)
	require.Greater(t, v, Version(1<<50))
	closeIntact(t, s)
	s = openDir(t, killed, quietly())
	require.Equal(t, 3, s.Len())
	closeIntact(t, s)

	b.Reset()
	w, err = stream.NewWriter(&b, 1)
	require.NoError(t, err)
	require.NoError(t, w.Put(stream.Memory{ID: []byte("a"), Version: mostImported + 1}))
	_, err = w.End()
	require.NoError(t, err)
	s = openTest(t, quiet(), hooks{})
	_, err = s.Import(context.Background(), &b)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Zero(t, s.Len())
}

// Goal: a store whose versions are beyond the limit, since it has imported one that was made up, takes its own exports.
func TestImport_OwnBeyondTheLimit(t *testing.T) {
	var b bytes.Buffer
	w, err := stream.NewWriter(&b, 1)
	require.NoError(t, err)
	require.NoError(t, w.Put(stream.Memory{ID: []byte("a"), Version: mostImported}))
	_, err = w.End()
	require.NoError(t, err)
	s := openTest(t, quiet(), hooks{})
	_, err = s.Import(context.Background(), &b)
	require.NoError(t, err)
	own := exportOf(t, s)
	require.NoError(t, s.Clear())
	_, err = s.Import(context.Background(), bytes.NewReader(own))
	require.NoError(t, err)
	require.True(t, s.Has("a"))
	_, err = openTest(t, quiet(), hooks{}).Import(context.Background(), bytes.NewReader(own))
	require.ErrorContains(t, err, "the limit is 4611686018427387904")
}

func TestExport_Errors(t *testing.T) {
	ctx := context.Background()
	broken := errors.New("broken")
	ended, cancel := context.WithCancelCause(ctx)
	cancel(errors.New("enough"))
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10, 100)
	b := exportOf(t, s)
	_, err := s.Export(ended, io.Discard)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "warmtier: export: context canceled: enough")
	_, err = s.Import(ended, bytes.NewReader(b))
	require.ErrorIs(t, err, context.Canceled)
	r, w := io.Pipe()
	require.NoError(t, r.CloseWithError(broken))
	_, err = s.Export(ctx, w)
	require.ErrorIs(t, err, broken)
	_, err = s.Import(ctx, io.MultiReader(bytes.NewReader(b[:50]), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	_, err = s.Import(ctx, strings.NewReader("WARMEXP\x00\x01\x00\x00\x00"))
	require.ErrorIs(t, err, ErrCorrupt)

	_, err = s.Export(ctx, writerFunc(func(b []byte) (int, error) { return len(b), s.Put("x", nil) }))
	require.NoError(t, err, "w may call the store")
	_, err = s.Export(ctx, writerFunc(func(b []byte) (int, error) { return len(b) / 2, nil }))
	require.ErrorIs(t, err, io.ErrShortWrite)
	locationBytes := recordOf(t, s, idOf(3))
	mend := flipByte(locationBytes, len(locationBytes)-20)
	_, err = s.Export(ctx, io.Discard)
	require.ErrorIs(t, err, ErrCorrupt)
	mend()
	require.NoError(t, s.Close())
	_, err = s.Export(ctx, io.Discard)
	require.ErrorIs(t, err, ErrClosed)
	_, err = s.Import(ctx, bytes.NewReader(b))
	require.ErrorIs(t, err, ErrClosed)

	dir := filepath.Join(fastDir(t), "store")
	require.NoError(t, openDir(t, dir, quietly()).Close())
	reader := openDir(t, dir, &Options{ReadOnly: true})
	_, err = reader.Export(ctx, io.Discard)
	require.NoError(t, err)
	_, err = reader.Import(ctx, bytes.NewReader(b))
	require.ErrorIs(t, err, ErrReadOnly)
	require.NoError(t, reader.Close())
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Goal: an export beside writers has each memory with a content, a version and a deadline that it had together.
func TestExport_BesideWriters(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	const ids = 50
	put := func(i, n int) error {
		content := binary.LittleEndian.AppendUint64(nil, uint64(n))
		if n%2 == 0 {
			return s.Put(idOf(i), content)
		}
		return s.PutTTL(idOf(i), content, time.Duration(n)*time.Hour)
	}
	for i := range ids {
		require.NoError(t, put(i, 2))
	}
	var ended atomic.Bool
	done := make(chan error, 1)
	go func() {
		var err error
		for n := 3; !ended.Load() && err == nil; n++ {
			err = put(n%ids, n)
		}
		done <- err
	}()
	for range 10 {
		r, err := stream.NewReader(bytes.NewReader(exportOf(t, s)))
		require.NoError(t, err)
		for range ids {
			m, err := r.Next()
			require.NoError(t, err)
			n := binary.LittleEndian.Uint64(m.Content)
			require.Equal(t, n%2 == 1, m.Deadline != 0, "content %d", n)
			if n%2 == 1 {
				hours := time.Until(time.UnixMilli(m.Deadline)).Hours()
				require.InDelta(t, float64(n), hours, 0.1)
			}
		}
	}
	ended.Store(true)
	require.NoError(t, <-done)
}
