package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
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
			want := map[string]any{"memories": float64(len(nasty)), "existing": 0.0, "expired": 0.0}
			require.Equal(t, want, r.exits(exitOK).json())
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

// smallExport is an export of three memories.
func smallExport(t *testing.T) []byte {
	t.Helper()
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	for i := range 3 {
		require.NoError(t, s.PutTTL(fmt.Sprintf("id%d", i), bytes.Repeat([]byte{byte(i)}, 4*i), time.Hour))
	}
	var b bytes.Buffer
	_, err = s.Export(t.Context(), &b)
	require.NoError(t, errors.Join(err, s.Close()))
	return b.Bytes()
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
	require.Equal(t, map[string]any{"memories": 0.0, "existing": 0.0, "expired": 1.0}, r.json())
	require.Empty(t, contents(t, target))
}

// An output that is one of the store's own files, or lies among them, is refused, by whatever way it is named.
func TestExport_AmongTheFilesOfTheStore(t *testing.T) {
	root := t.TempDir()
	dir, link := filepath.Join(root, "store"), filepath.Join(root, "link")
	fill(t, dir, nasty)
	require.NoError(t, os.Symlink(filepath.Join(dir, "MANIFEST"), link))
	require.NoError(t, os.Symlink(dir, filepath.Join(root, "also")))
	for _, name := range []string{filepath.Join(dir, "MANIFEST"), filepath.Join(dir, "new"), link,
		filepath.Join(root, "also", "MANIFEST"), filepath.Join(dir, ".", "LOCK")} {
		for _, args := range [][]string{{"export"}, {"export", "--format", "jsonl"}, {"get", "plain"}} {
			r := command(t, "", append(args, "-d", dir, "-o", name)...).exits(exitUsage)
			require.Contains(t, r.err, "among the files of the store")
		}
	}
	require.Equal(t, nasty, contents(t, dir))
	command(t, "", "export", "-d", dir, "-o", filepath.Join(root, "out")).exits(exitOK)
}

// Whatever is cut off or damaged is found before anything of it is stored, or a store is made, whichever way it comes
// in.
func TestImport_NotWhole(t *testing.T) {
	stream, there := smallExport(t), filepath.Join(t.TempDir(), "there")
	fill(t, there, map[string]string{"mine": "stays"})
	dir, file := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "cut")
	inputs := map[string][]byte{"twice": append(bytes.Clone(stream), stream...)}
	for n := 0; n < len(stream); n += 7 {
		inputs[fmt.Sprint("cut to ", n)] = stream[:n]
		damaged := bytes.Clone(stream)
		damaged[n] ^= 1
		inputs[fmt.Sprint("damaged at ", n)] = damaged
	}
	for name, input := range inputs {
		require.NoError(t, os.WriteFile(file, input, 0o600))
		for _, r := range []result{
			command(t, "", "import", "-d", dir, file), command(t, string(input), "import", "-d", dir, "-"),
		} {
			require.Equal(t, exitFinding, r.code, name)
			require.Contains(t, r.err, "nothing was imported", name)
			require.NoDirExists(t, dir)
		}
		r := command(t, string(input), "import", "-d", there, "-")
		require.Equal(t, exitFinding, r.code, name)
		require.Contains(t, r.err, "nothing was imported", name)
	}
	require.Equal(t, map[string]string{"mine": "stays"}, contents(t, there))
	require.NoError(t, os.WriteFile(file, stream, 0o600))
	command(t, "", "import", "-d", dir, "--segment-size", "64KiB", file).exits(exitOK)
	require.Len(t, contents(t, dir), 3)
}

// What the store has is left alone, in either format; an import again adds what is missing.
func TestImport_Existing(t *testing.T) {
	from := filepath.Join(t.TempDir(), "from")
	fill(t, from, map[string]string{"a": "imported", "b": "imported"})
	for _, format := range []string{"binary", "jsonl"} {
		out := command(t, "", "export", "-d", from, "--format", format).exits(exitOK).out
		dir := filepath.Join(t.TempDir(), "store")
		fill(t, dir, map[string]string{"a": "newer", "c": "other"})
		r := command(t, out, "import", "--json", "-d", dir, "-").exits(exitOK)
		require.Equal(t, map[string]any{"memories": 1.0, "existing": 1.0, "expired": 0.0}, r.json())
		require.Equal(t, map[string]string{"a": "newer", "b": "imported", "c": "other"}, contents(t, dir))
		table := command(t, out, "import", "-d", dir, "-").exits(exitOK).out
		require.Contains(t, table, "left alone  2 that were there", format)
	}
}

// A binary import that fails while it stores leaves nothing of it.
func TestImport_AllOrNothing(t *testing.T) {
	from, dir := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "store")
	command(t, lines(8000, 8000), "load", "-d", from, "--format", "jsonl", "-").exits(exitOK)
	out := command(t, "", "export", "-d", from).exits(exitOK).out
	fill(t, dir, map[string]string{"mine": "stays"})
	r := command(t, out, "import", "-d", dir, "--max-bytes", "4MiB", "-").exits(exitIO)
	require.Contains(t, r.err, "no space")
	require.Equal(t, map[string]string{"mine": "stays"}, contents(t, dir))
}

// What a program exports the command imports, and the other way round.
func TestExportImport_Library(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	out := command(t, "", "export", "-d", dir).exits(exitOK).out
	s, err := warmtier.Open("", nil)
	require.NoError(t, err)
	st, err := s.Import(t.Context(), strings.NewReader(out))
	require.NoError(t, err)
	require.EqualValues(t, len(nasty), st.Memories)
	require.NoError(t, s.Close())
	command(t, string(smallExport(t)), "import", "-d", dir, "-").exits(exitOK)
	require.Len(t, contents(t, dir), len(nasty)+3)
	r := command(t, "", "export", "-d", dir, "--prefix", "a").exits(exitUsage)
	require.Contains(t, r.err, "--prefix is for --format jsonl")
}

func TestImport_Lines(t *testing.T) {
	for _, c := range []struct{ name, input, message string }{
		{"cut in a line", `{"id":"a","content":"1"}` + "\n" + `{"id":"b","con`, "line 2: the object that begins here is"},
		{"no content", `{"id":"a"}`, "content_base64"},
		{"two ids", `{"id":"a","id_base64":"YQ==","content":""}`, "id_base64"},
		{"other fields", `{"id":"a","content":"1","more":1}`, "more"},
		{"no id", `{"id":"a","content":"1"}` + "\n" + `{"id":"","content":"2"}`, "line 2: an id has 1 to 65535 bytes"},
		{"long id", `{"id":"a","content":"1"}` + "\n" + `{"id":"` + strings.Repeat("x", 65536) + `","content":"2"}`,
			"line 2: an id has 1 to 65535 bytes, this one has 65536"},
		{"half a character", `{"id":"a","content":"\udc00"}`, "line 1: half of a character"},
		{"no base64", `{"id":"a","content_base64":"!"}`, "line 1: "},
		{"neither format", "something else that is no export", "does not begin like an export"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, file := filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "lines")
			require.NoError(t, os.WriteFile(file, []byte(c.input), 0o600))
			require.Contains(t, command(t, "", "import", "-d", dir, file).exits(exitFinding).err, c.message)
			require.NoDirExists(t, dir)
		})
	}
	dir := filepath.Join(t.TempDir(), "store")
	command(t, byteOrderMark+`{"id":"a","content":"1"}`, "import", "-d", dir, "-").exits(exitOK)
	require.Equal(t, map[string]string{"a": "1"}, contents(t, dir))
	future := smallExport(t)
	future[8]++
	binary.LittleEndian.PutUint32(future[28:], crc32.Checksum(future[:28], crc32.MakeTable(crc32.Castagnoli)))
	r := command(t, string(future), "import", "-d", filepath.Join(t.TempDir(), "store"), "-").exits(exitIO)
	require.Contains(t, r.err, fmt.Sprintf("version of the export is %d", exportVersion+1))
	require.Contains(t, r.err, fmt.Sprintf("reads %d", exportVersion))
}
