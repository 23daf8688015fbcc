package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPutGetRm(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	for id, content := range nasty {
		shown := showID(id)
		require.True(t, printable(shown), shown)
		command(t, content, "put", "-d", dir, "--segment-size", "64KiB", shown).exits(exitOK)
		require.Equal(t, content, command(t, "", "get", "-d", dir, shown).exits(exitOK).out)
	}
	require.Equal(t, nasty, contents(t, dir))

	file := filepath.Join(t.TempDir(), "out")
	command(t, "", "get", "-d", dir, "plain", "-o", file).exits(exitOK)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, nasty["plain"], string(b))
	require.Equal(t, map[string]any{"id": "plain", "bytes": 5.0, "replaced": true},
		command(t, "", "put", "--json", "-d", dir, "plain", file).exits(exitOK).json())
	require.Equal(t, map[string]any{"id": "plain", "content": "text\n"},
		command(t, "", "get", "--json", "-d", dir, "plain").exits(exitOK).json())
	require.Equal(t, map[string]any{"id_base64": "/wBiaW5hcnk=", "content": "ok"},
		command(t, "", "get", "--json", "-d", dir, showID("\xff\x00binary")).exits(exitOK).json())
	require.Equal(t, map[string]any{"id": "with space ", "content_base64": "AAH/"},
		command(t, "", "get", "--json", "-d", dir, showID("with space ")).exits(exitOK).json())
	require.Contains(t, command(t, "", "get", "-d", dir, "--hex", "plain").exits(exitOK).out, "74 65 78 74 0a")

	r := command(t, "", "get", "-d", dir, "absent").exits(exitFinding)
	require.Equal(t, "warmtier: absent: memory not found\n", r.err)
	require.Empty(t, r.out)

	r = command(t, "", "rm", "--json", "-d", dir, "plain", "absent", "hex:00").exits(exitFinding)
	require.Equal(t, map[string]any{"deleted": 1.0,
		"absent": []any{map[string]any{"id": "absent"}, map[string]any{"id": "\x00"}}}, r.json())
	require.Contains(t, command(t, "", "rm", "-d", dir, "absent", "hex:00").exits(exitFinding).err,
		"warmtier: absent: memory not found; hex:00: memory not found\n")
	command(t, "", "rm", "-d", dir, "hex:not").exits(exitUsage)
	command(t, "", "rm", "-d", dir, showID("hex:not")).exits(exitOK)
	command(t, "", "get", "-d", dir, showID("hex:not")).exits(exitFinding)
}

func TestIDs(t *testing.T) {
	for text, want := range map[string]string{
		"a b": "a b", "": "", "hex:": "", "hex:00FF": "\x00\xff", "é": "é",
	} {
		var got id
		require.NoError(t, got.UnmarshalText([]byte(text)))
		require.Equal(t, want, string(got))
	}
	for shown, of := range map[string]string{
		"a b": "a b", "hex:206120": " a ", "hex:6865783a": "hex:", "é": "é", "hex:c3": "\xc3", "hex:e280ae": "\u202e",
	} {
		require.Equal(t, shown, showID(of))
	}
}

func TestLs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, nasty)
	lines := func(args ...string) []string {
		out := command(t, "", append([]string{"ls", "-d", dir}, args...)...).exits(exitOK).out
		return strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	}
	want := []string{}
	for id := range nasty {
		want = append(want, showID(id))
	}
	require.ElementsMatch(t, want, lines())
	require.Len(t, lines("--limit", "3"), 3)
	require.ElementsMatch(t, []string{"plain"}, lines("--prefix", "pl"))
	require.ElementsMatch(t, []string{showID("\xff\x00binary")}, lines("--prefix", "hex:ff00"))
	require.Contains(t, lines("--long"), "5\tplain")

	require.Equal(t, []string{""}, lines("--expiring"))
	command(t, "x", "put", "-d", dir, "--ttl", "12h", "session").exits(exitOK)
	at, id, _ := strings.Cut(lines("--expiring")[0], "\t")
	require.Equal(t, "session", id)
	expires, err := time.Parse(time.RFC3339, at)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(12*time.Hour), expires, 5*time.Minute)
	refused := command(t, "x", "put", "-d", dir, "--ttl", "0s", "a").exits(exitUsage)
	require.Contains(t, refused.err, "--ttl is 0s, want more than 0")
	command(t, "", "rm", "-d", dir, "session").exits(exitOK)

	ids := map[string]int{}
	for _, line := range lines("--json") {
		var m memoryJSON
		require.NoError(t, json.Unmarshal([]byte(line), &m))
		if m.ID != nil {
			ids[*m.ID] = *m.Bytes
		} else {
			ids[string(*m.IDBase64)] = *m.Bytes
		}
	}
	require.Len(t, ids, len(nasty))
	for id, size := range ids {
		require.Len(t, nasty[id], size)
	}
}

func TestLoad_FilesAndDirectory(t *testing.T) {
	source := t.TempDir()
	dir := filepath.Join(source, "sub", "store") // below what is loaded
	require.NoError(t, os.MkdirAll(filepath.Join(source, "sub", "deep"), 0o700))
	want := map[string]string{"a.txt": "A", "sub/b.bin": "\x00\xff", "sub/deep/empty": "", "sub/c.csv": "x,y\n1,2\n"}
	for name, content := range want {
		require.NoError(t, os.WriteFile(filepath.Join(source, name), []byte(content), 0o600))
	}
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(source, "link")))

	r := command(t, "", "load", "--json", "-d", dir, "--segment-size", "64KiB", source).exits(exitOK).json()
	require.Equal(t, []any{4.0, 11.0, 0.0, 1.0}, []any{r["memories"], r["bytes"], r["replaced"], r["skipped"]})
	require.Contains(t, r, "seconds")
	require.Equal(t, want, contents(t, dir))

	file := filepath.Join(source, "a.txt")
	r = command(t, "", "load", "--json", "-d", dir, source, file, "--prefix", "p/").exits(exitOK).json()
	require.EqualValues(t, 5, r["memories"])
	for name, content := range maps.Clone(want) {
		want["p/"+name] = content
	}
	want["p/"+file] = "A"
	require.Equal(t, want, contents(t, dir))
	require.Contains(t, command(t, "", "load", "-d", dir, source).exits(exitOK).out, "of them replaced  4")
}

func TestLoad_Lines(t *testing.T) {
	objects := `{"id":"a","text":"one","n":1}` + "\n\n" +
		`{"id":7,"text":{"deep":[1, 2]},"n":2} {"id":"ü","text":"","n":3}`
	table := "\ufeffsku,name,text\n1,\"a \"\"b\"\"\",\"two\nlines\"\n2,é,\n"
	for _, c := range []struct {
		name, suffix, input string
		args                []string
		want                map[string]string
	}{
		{"JSON, whole objects", "jsonl", objects, nil, map[string]string{"a": `{"id":"a","text":"one","n":1}`,
			"7": `{"id":7,"text":{"deep":[1, 2]},"n":2}`, "ü": `{"id":"ü","text":"","n":3}`}},
		{"JSON, from Windows", "jsonl", byteOrderMark + `{"id":"a"}`, nil, map[string]string{"a": `{"id":"a"}`}},
		{"JSON, fields", "jsonl", objects, []string{"--id-field", "n", "--content-field", "text", "--prefix", "x"},
			map[string]string{"x1": "one", "x2": `{"deep":[1, 2]}`, "x3": ""}},
		{"CSV, whole rows", "csv", table, nil, map[string]string{
			"1": `{"sku":"1","name":"a \"b\"","text":"two\nlines"}`, "2": `{"sku":"2","name":"é","text":""}`}},
		{"CSV, with semicolons", "csv", "a;b;c\n1;x;\n",
			[]string{"--delimiter", ";", "--content-field", "b"}, map[string]string{"1": "x"}},
		{"CSV, with tabs", "csv", "a\tb\n1\tx\n", []string{"--delimiter", "tab", "--content-field", "b"},
			map[string]string{"1": "x"}},
		{"CSV, columns", "csv", table, []string{"--id-field", "name", "--content-field", "text"},
			map[string]string{`a "b"`: "two\nlines", "é": ""}},
		{"a content", "file", "any\x00thing", []string{"--id", "it"}, map[string]string{"it": "any\x00thing"}},
		{"no JSON", "jsonl", "", nil, map[string]string{}},
		{"no CSV", "csv", "", nil, map[string]string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, dir2 := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
			args := append([]string{"load", "--segment-size", "64KiB"}, c.args...)
			command(t, c.input, slices.Concat(args, []string{"-d", dir, "-", "--format", c.suffix})...).exits(exitOK)
			require.Equal(t, c.want, contents(t, dir))
			if c.suffix == "file" {
				return
			}
			file := filepath.Join(t.TempDir(), "input."+c.suffix)
			require.NoError(t, os.WriteFile(file, []byte(c.input), 0o600))
			command(t, "", slices.Concat(args, []string{"-d", dir2, file})...).exits(exitOK)
			require.Equal(t, c.want, contents(t, dir2))
		})
	}
}

func TestLoad_BadInput(t *testing.T) {
	for _, c := range []struct {
		name, format, input, message string
		code                         int
	}{
		{"JSON cut off", "jsonl", `{"id":"a"}` + "\n" + `{"id":"b`, "line 2: the object that begins here is", exitFinding},
		{"JSON that is no object", "jsonl", `{"id":"a"} 17`, "line 1: want a JSON object", exitFinding},
		{"JSON array", "jsonl", `{"id":"a"}` + "\n\n" + `[{"id":"b"}]`,
			`line 3: want a JSON object, as in {"id": ...}, not an array`, exitFinding},
		{"id null", "jsonl", `{"id":"a"}{"id":null}`, `line 1: field "id" is null`, exitFinding},
		{"id of several lines", "jsonl", "{\"id\":\"a\"}\n{\"id\":[\n1]}{}", `line 2: field "id" is an array`, exitFinding},
		{"not UTF-8", "jsonl", "{\"id\":\"a\"}{\"id\":\"\xff\"}", "line 1: not UTF-8", exitFinding},
		{"no JSON", "jsonl", `{"id":"a"},{"id":"b"}`, "line 1: this is not JSON: ", exitFinding},
		{"half a character", "jsonl", `{"id":"a"}{"id":"\ud800"}`, `line 1: field "id" has half of a`, exitFinding},
		{"no id", "jsonl", `{"id":"a"}{"ID":"b"}`, `no field "id"`, exitFinding},
		{"row too short", "csv", "id,b\na,1\nb\n", "line 3", exitFinding},
		{"quote left open", "csv", "id,b\na,1\nb,\"2", "line 3", exitFinding},
		{"empty id", "csv", "id,b\na,1\n,2\n", "line 3: invalid id", exitFinding},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			r := command(t, c.input, "load", "-d", dir, "--segment-size", "64KiB", "-", "--format", c.format).exits(c.code)
			require.Contains(t, r.err, c.message)
			require.Contains(t, r.err, "; 1 memory was stored before\n")
			require.Len(t, contents(t, dir), 1)
		})
	}
	dir := filepath.Join(t.TempDir(), "store")
	command(t, "id,n\n1,a\n", "load", "-d", dir, "-", "--format", "csv", "--delimiter", ";").exits(exitFinding)
	command(t, `{"id":"a","c":"\udc00"}`, "load", "-d", dir, "-", "--format", "jsonl", "--content-field", "c").
		exits(exitFinding)
	require.Empty(t, contents(t, dir))
	command(t, "id\na\n", "load", "-d", dir, "-", "--format", "csv", "--id-field", "sku").exits(exitFinding)
	for input, message := range map[string]string{
		"id;name\n1;tea\n": "--delimiter", "id;a,b\n1;2,3\n": `the first column is "id;a"`,
		"id\tname\n": "--delimiter", "id,id\n1,2\n": "two columns",
		"id,name\n1,\xe9\n": `line 2: column "name" is not UTF-8`,
	} {
		dir := filepath.Join(t.TempDir(), "store")
		r := command(t, input, "load", "-d", dir, "--segment-size", "64KiB", "-", "--format", "csv").exits(exitFinding)
		require.Contains(t, r.err, message)
		require.Empty(t, contents(t, dir))
	}
}

func TestHasLoneSurrogate(t *testing.T) {
	for raw, lone := range map[string]bool{
		`"a"`: false, `"\u0041"`: false, `"\ud83d\ude00"`: false, `"\\ud800"`: false, `"\\\\ud800"`: false,
		`"\ud83d\ude00\u00e9"`: false, `"\ufffd"`: false,
		`"\ud800"`: true, `"\udc00"`: true, `"\uDC00\uD800"`: true, `"\ud800\u0041"`: true, `"\ud800\n"`: true,
		`"\\\ud800"`: true, `"\ud800\ud800\udc00"`: true,
	} {
		require.Equal(t, lone, hasLoneSurrogate([]byte(raw)), raw)
	}
}
