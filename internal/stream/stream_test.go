package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// export returns a stream of several chunks, and what is in it.
func export(t testing.TB, sizes ...int) (b []byte, memories []Memory) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, 0x0102030405060708)
	require.NoError(t, err)
	for i, size := range sizes {
		m := Memory{ID: []byte{byte(i), 'x'}, Content: bytes.Repeat([]byte{byte(i + 1)}, size), Version: uint64(10 + i)}
		if i%2 == 1 {
			m.Deadline = int64(1000 + i)
		}
		require.NoError(t, w.Put(m))
		memories = append(memories, m)
	}
	total, err := w.End()
	require.NoError(t, err)
	require.Equal(t, int64(len(sizes)), total.Memories)
	require.Equal(t, int64(buf.Len()), w.Written())
	return buf.Bytes(), memories
}

// read returns what is in a stream, with copies of the slices.
func read(r io.Reader) (memories []Memory, err error) {
	s, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	for {
		m, err := s.Next()
		if errors.Is(err, io.EOF) {
			return memories, nil
		}
		if err != nil {
			return memories, err
		}
		m.ID, m.Content = bytes.Clone(m.ID), append([]byte{}, m.Content...)
		memories = append(memories, m)
	}
}

func TestStream(t *testing.T) {
	for _, sizes := range [][]int{nil, {0}, {5, 0, 7}, {maxBody, maxBody - 1, 3, 4 * maxBody, 9}} {
		b, want := export(t, sizes...)
		for _, r := range []io.Reader{bytes.NewReader(b), iotest.HalfReader(bytes.NewReader(b)),
			iotest.DataErrReader(bytes.NewReader(b))} {
			got, err := read(r)
			require.NoError(t, err)
			require.Len(t, got, len(want))
			for i := range want {
				require.True(t, bytes.Equal(want[i].Content, got[i].Content))
				got[i].Content = want[i].Content
			}
			require.Equal(t, want, got)
		}
	}
}

// Goal: one bit that is flipped, one byte that is missing, doubled or inserted, and any end that is cut off, are
// noticed; so are chunks that are missing, doubled, swapped or of another export.
func TestStream_EveryByteCounts(t *testing.T) {
	b, _ := export(t, 5, 0, 7)
	refused := func(b []byte, what string, at int) {
		_, err := read(bytes.NewReader(b))
		var damage *DamageError
		require.ErrorAs(t, err, &damage, "%s %d", what, at)
		require.LessOrEqual(t, damage.Offset, int64(len(b)))
	}
	for at := range b {
		for bit := range 8 {
			damaged := bytes.Clone(b)
			damaged[at] ^= 1 << bit
			refused(damaged, "flipped", at)
		}
		refused(append(bytes.Clone(b[:at]), b[at+1:]...), "missing", at)
		refused(append(append(bytes.Clone(b[:at]), b[at]^1), b[at:]...), "inserted", at)
		refused(b[:at], "cut", at)
	}
	refused(append(bytes.Clone(b), 0), "something follows", len(b))

	b, _ = export(t, maxBody, maxBody, maxBody)
	chunk := func(i int) []byte {
		size := chunkSize + memorySize + 8*(i%2) + 2 + maxBody + 4
		at := headerSize
		for j := range i {
			at += chunkSize + memorySize + 8*(j%2) + 2 + maxBody + 4
		}
		return b[at : at+size]
	}
	end := b[len(b)-chunkSize-endSize-4:]
	head := b[:headerSize]
	require.Equal(t, b, bytes.Join([][]byte{head, chunk(0), chunk(1), chunk(2), end}, nil))
	for i, parts := range [][][]byte{
		{head, chunk(0), chunk(1), end}, {head, chunk(1), chunk(2), end}, {head, chunk(0), chunk(0), chunk(1), chunk(2), end},
		{head, chunk(2), chunk(1), chunk(0), end}, {head, end}, {head, chunk(0), chunk(1), chunk(2)},
	} {
		refused(bytes.Join(parts, nil), "chunks", i)
	}
	var other bytes.Buffer
	w, err := NewWriter(&other, 9)
	require.NoError(t, err)
	_, err = w.End()
	require.NoError(t, err)
	head = other.Bytes()[:headerSize]
	refused(bytes.Join([][]byte{head, chunk(0), chunk(1), chunk(2), end}, nil), "of another export", 0)
}

// Goal: errors of the reader and the writer are theirs, and another version is told from damage.
func TestStream_Errors(t *testing.T) {
	b, _ := export(t, 5, maxBody)
	broken := errors.New("broken")
	for _, n := range []int{0, 10, headerSize, headerSize + 5, len(b) - 1} {
		_, err := read(io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(broken)))
		require.ErrorIs(t, err, broken)
	}
	_, err := read(io.MultiReader(bytes.NewReader(b), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken, "in place of the end")

	later := bytes.Clone(b)
	later[8]++
	binary.LittleEndian.PutUint32(later[headerSize-4:], crc32.Checksum(later[:headerSize-4], castagnoli))
	_, err = read(bytes.NewReader(later))
	require.ErrorIs(t, err, ErrVersion)
	b, _ = export(t, 5)
	later = bytes.Clone(b)
	const flags = headerSize + chunkSize + 2
	later[flags] |= 4
	sum := sums{id: [8]byte(b[16:])}
	body := later[headerSize+chunkSize : headerSize+chunkSize+memorySize+2+5]
	binary.LittleEndian.PutUint32(later[headerSize+chunkSize+len(body):], sum.of(later[headerSize+8:headerSize+16], body))
	_, err = read(bytes.NewReader(later))
	require.ErrorIs(t, err, ErrVersion)
	require.ErrorContains(t, err, "flags 0x4")
	_, err = read(bytes.NewReader([]byte("{\"id\":1}                                          ")))
	require.ErrorContains(t, err, "does not begin like an export")

	for size := range b {
		if size > 100 && size%4099 > 0 {
			continue
		}
		w, err := NewWriter(&limited{left: size, err: broken}, 1)
		if err == nil {
			err = errors.Join(w.Put(Memory{ID: []byte("a"), Content: make([]byte, 5)}),
				w.Put(Memory{ID: []byte("b"), Content: make([]byte, maxBody)}))
		}
		if err == nil {
			_, err = w.End()
		}
		require.ErrorIs(t, err, broken, size)
	}
}

// Goal: a writer that takes less than it got, and says nothing, is noticed.
func TestWriter_ShortWrite(t *testing.T) {
	w, err := NewWriter(io.Discard, 1)
	require.NoError(t, err)
	w.w = &limited{left: 30}
	require.NoError(t, w.Put(Memory{ID: []byte("a"), Content: make([]byte, 5)}))
	_, err = w.End()
	require.ErrorIs(t, err, io.ErrShortWrite)
}

// Goal: a reader takes memory for what comes, and not for what is announced, in a chunk that is forged or cut; and
// for a long one a quarter more than its bytes.
func TestReader_Memory(t *testing.T) {
	const size = 32<<20 + 5
	b, _ := export(t, size)
	allocated := func(b []byte) (n uint64, err error) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := NewReader(bytes.NewReader(b))
		for err == nil {
			_, err = r.Next()
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc, err
	}
	n, err := allocated(b)
	require.ErrorIs(t, err, io.EOF)
	require.Less(t, n, uint64(size)*4/3+1<<20)

	forged := bytes.Clone(b[:headerSize+chunkSize])
	binary.LittleEndian.PutUint32(forged[headerSize+4:], MaxContentLen)
	sum := sums{id: [8]byte(b[16:])}.of(forged[headerSize : headerSize+16])
	binary.LittleEndian.PutUint32(forged[headerSize+16:], sum)
	n, err = allocated(append(forged, make([]byte, 2<<20)...))
	require.ErrorContains(t, err, "it ends before its end mark")
	require.Less(t, n, uint64(12<<20))
}

// Goal: a reader that is used again has nothing of before.
func TestReader_Reset(t *testing.T) {
	first, _ := export(t, 5, maxBody, 7)
	b, want := export(t, 9, 0)
	for _, cut := range []int{headerSize, 100, len(first) - 1, len(first)} {
		r, err := NewReader(bytes.NewReader(first[:cut]))
		for err == nil {
			_, err = r.Next()
		}
		require.NoError(t, r.Reset(bytes.NewReader(b)))
		for range want {
			_, err = r.Next()
			require.NoError(t, err)
		}
		_, err = r.Next()
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, int64(len(b)), r.Read())
		require.Equal(t, int64(2), r.Total().Memories)
		require.Error(t, r.Reset(bytes.NewReader(first[1:])))
	}
}

// limited is a writer that takes so many bytes.
type limited struct {
	left int
	err  error
}

func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.left {
		return l.left, l.err
	}
	l.left -= len(b)
	return len(b), nil
}

// FuzzReader reads anything: no panic, no memory beyond what came in, and what is read as whole is what a writer
// writes for it.
func FuzzReader(f *testing.F) {
	for _, sizes := range [][]int{nil, {1}, {5, 0, 7}} {
		b, _ := export(f, sizes...)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		memories, err := read(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		w, err := NewWriter(&again, uint64(0))
		require.NoError(t, err)
		for _, m := range memories {
			require.NoError(t, w.Put(m))
		}
		_, err = w.End()
		require.NoError(t, err)
		got, err := read(bytes.NewReader(again.Bytes()))
		require.NoError(t, err)
		require.Equal(t, memories, got)
	})
}
