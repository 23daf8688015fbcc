package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
)

func TestExportImport(t *testing.T) {
	dir, elsewhere := filepath.Join(t.TempDir(), "a"), t.TempDir()
	fill(t, dir, nasty)
	for _, format := range []string{"binary", "jsonl"} {
		file := filepath.Join(elsewhere, "export."+format)
		r := command(t, "", "export", "--json", "-d", dir, "--format", format, "-o", file).exits(exitOK).json()
		require.Equal(t, map[string]any{"memories": float64(len(nasty)), "file": file, "format": format}, r)
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		piped := command(t, "", "export", "-d", dir, "--format", format).exits(exitOK).out
		require.Len(t, piped, len(b))

		for name, args := range map[string][]string{"file": {file}, "pipe": {"-"}, "named": {"-", "--format", format}} {
			target := filepath.Join(elsewhere, format+name)
			r := command(t, piped, append([]string{"import", "--json", "-d", target, "--segment-size", "64KiB"}, args...)...)
			require.Equal(t, map[string]any{"memories": float64(len(nasty)), "expired": 0.0}, r.exits(exitOK).json())
			require.Equal(t, nasty, contents(t, target))
		}
	}
	entries, err := os.ReadDir(elsewhere)
	require.NoError(t, err)
	require.Len(t, entries, 8, "two files, six stores, and no part of a file")
}

func TestExport_EmptyStore(t *testing.T) {
	dir, target := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	fill(t, dir, nil)
	out := command(t, "", "export", "-d", dir).exits(exitOK).out
	command(t, out, "import", "-d", target, "--segment-size", "64KiB", "-").exits(exitOK)
	require.Empty(t, contents(t, target))
}

// smallExport is of three memories, in an order that is fixed.
func smallExport(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newStreamWriter(&b)
	require.NoError(t, err)
	for i := range 3 {
		m := memory{id: fmt.Sprintf("id%d", i), content: bytes.Repeat([]byte{byte(i)}, 4*i)}
		if i == 2 {
			m.expires = time.UnixMilli(1e15)
		}
		require.NoError(t, w.put(m))
	}
	require.NoError(t, w.end())
	return b.Bytes()
}

func read(stream []byte) (ids []string, err error) {
	err = readStream(bufio.NewReader(bytes.NewReader(stream)), func(m memory) error {
		ids = append(ids, fmt.Sprint(m.id, string(m.content), m.expires.UnixMilli()))
		return nil
	})
	return ids, err
}

// What expires does so at the same moment where it is imported, in either format; what has expired is left out.
func TestImport_Expires(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	for id, ttl := range map[string]string{"a": "5m", "b": "1h", "gone": "1ms"} {
		command(t, id, "put", "-d", dir, "--segment-size", "64KiB", "--ttl", ttl, id).exits(exitOK)
	}
	command(t, "stays", "put", "-d", dir, "stays").exits(exitOK)
	expiries := func(dir string) (moments map[string]time.Time) {
		moments = map[string]time.Time{}
		s, err := warmtier.Open(dir, &warmtier.Options{ReadOnly: true})
		require.NoError(t, err)
		for id := range s.IDs() {
			moments[id], err = s.Expiry(id)
			require.NoError(t, err)
		}
		require.NoError(t, s.Close())
		return moments
	}
	want := expiries(dir)
	require.Len(t, want, 3)
	require.Equal(t, "3\n", command(t, "", "count", "-d", dir, "--prefix", "").exits(exitOK).out, "of what is there")
	for _, format := range []string{"binary", "jsonl"} {
		out := command(t, "", "export", "-d", dir, "--format", format).exits(exitOK).out
		target := filepath.Join(t.TempDir(), "target")
		command(t, out, "import", "-d", target, "--segment-size", "64KiB", "-").exits(exitOK)
		for id, at := range expiries(target) {
			require.Equal(t, want[id].IsZero(), at.IsZero(), id)
			require.WithinDuration(t, want[id], at, time.Second, id)
		}
		require.Equal(t, map[string]string{"a": "a", "b": "b", "stays": "stays"}, contents(t, target))
	}
	target := filepath.Join(t.TempDir(), "late")
	line := `{"id":"late","content":"x","expires":"2020-01-01T00:00:00Z"}`
	r := command(t, line, "import", "--json", "-d", target, "--segment-size", "64KiB", "-").exits(exitOK)
	require.Equal(t, map[string]any{"memories": 0.0, "expired": 1.0}, r.json())
	require.Empty(t, contents(t, target))
}

// Whatever is cut off is missed, whichever way it comes in.
func TestImport_Truncated(t *testing.T) {
	stream := smallExport(t)
	dir, file := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "cut")
	for n := range stream {
		require.NoError(t, os.WriteFile(file, stream[:n], 0o600))
		r := command(t, "", "import", "-d", dir, file).exits(exitFinding)
		require.Contains(t, r.err, "nothing was imported", n)
		require.NoDirExists(t, dir)
		ids, err := read(stream[:n])
		require.Error(t, err, n)
		require.Equal(t, exitFinding, exitCode(err))
		require.LessOrEqual(t, len(ids), 3)
	}
	require.NoError(t, os.WriteFile(file, stream, 0o600))
	command(t, "", "import", "-d", dir, "--segment-size", "64KiB", file).exits(exitOK)

	piped := filepath.Join(t.TempDir(), "piped")
	for n := 12; n < len(stream); n += 9 {
		r := command(t, string(stream[:n]), "import", "-d", piped, "--segment-size", "64KiB", "-").exits(exitFinding)
		require.Contains(t, r.err, "nothing was imported")
		require.NoDirExists(t, piped)
	}
}

func TestImport_EveryBit(t *testing.T) {
	stream := smallExport(t)
	whole, err := read(stream)
	require.NoError(t, err)
	for i := range stream {
		for bit := range 8 {
			damaged := bytes.Clone(stream)
			damaged[i] ^= 1 << bit
			got, err := read(damaged)
			require.Error(t, err, "byte %d bit %d", i, bit)
			// Nor may a damaged memory be stored before the end is seen.
			require.Equal(t, whole[:len(got):len(got)], append([]string{}, got...), "byte %d bit %d", i, bit)
		}
	}
	_, err = read(append(bytes.Clone(stream), 0))
	require.ErrorIs(t, err, errNoStream)
	_, err = read(append(bytes.Clone(stream), stream...))
	require.ErrorIs(t, err, errNoStream)
}

// Memories that are intact, but not all of them, or not in their order.
func TestImport_Rearranged(t *testing.T) {
	stream := smallExport(t)
	size := func(i int) int { return 1 + 2 + 4 + 3 + 4*i + 4 }
	head, a, b := stream[:12], stream[12:12+size(0)], stream[12+size(0):12+size(0)+size(1)]
	rest := stream[12+size(0)+size(1):]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	require.Equal(t, stream, join(head, a, b, rest))
	for name, damaged := range map[string][]byte{
		"dropped": join(head, a, rest), "doubled": join(head, a, a, b, rest), "swapped": join(head, b, a, rest),
	} {
		_, err := read(damaged)
		require.ErrorIs(t, err, errNoStream, name)
	}
}

// A writer that miscounts is found out by the count alone: its checksum is right.
func TestImport_Miscounted(t *testing.T) {
	var b bytes.Buffer
	w, err := newStreamWriter(&b)
	require.NoError(t, err)
	require.NoError(t, w.put(memory{id: "a"}))
	w.count++
	require.NoError(t, w.end())
	_, err = read(b.Bytes())
	require.ErrorIs(t, err, errNoStream)
}

func TestImport_HostileLength(t *testing.T) {
	stream := append(smallExport(t)[:12], 'm', 0xff, 0xff, 0, 0, 0, 0x40, 'x')
	r := &streamReader{r: bufio.NewReader(bytes.NewReader(stream[13:]))}
	r.buf.WriteByte('m')
	_, err := r.readMemory(markMemory)
	require.ErrorIs(t, err, errNoStream)
	require.Less(t, r.buf.Cap(), 1<<20, "memory is taken as bytes come")
}

func TestImport_Lines(t *testing.T) {
	for _, c := range []struct{ name, input, message string }{
		{"cut in a line", `{"id":"a","content":"1"}` + "\n" + `{"id":"b","con`, "line 2: the object that begins here is"},
		{"no content", `{"id":"a"}`, "content_base64"},
		{"two ids", `{"id":"a","id_base64":"YQ==","content":""}`, "id_base64"},
		{"other fields", `{"id":"a","content":"1","more":1}`, "more"},
		{"no base64", `{"id":"a","content_base64":"!"}`, "line 1: "},
		{"neither format", "not an export", "does not begin like one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, file := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "lines")
			require.NoError(t, os.WriteFile(file, []byte(c.input), 0o600))
			require.Contains(t, command(t, "", "import", "-d", dir, file).exits(exitFinding).err, c.message)
			require.NoDirExists(t, dir)
		})
	}
	future := strings.Replace(string(smallExport(t)), "\x01\x00\x00\x00", "\x02\x00\x00\x00", 1)
	r := command(t, future, "import", "-d", filepath.Join(t.TempDir(), "store"), "-").exits(exitIO)
	require.Contains(t, r.err, "export format 2")
}
