package olricengine_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The tests of Olric itself, as the module cache has them, run against this engine: a copy of the
// module, made for the run, has the files below testdata in place of its own engine. Its test of
// Encode is left out, which wants the last access to travel, and so are those of compaction, which
// look into tables.

// notOurs are tests of what only Olric's own engine has, each with the reason.
var notOurs = map[string][]string{
	"./internal/kvstore": {
		"TestKVStore_Fork",                 // a fork has a table of 1 MiB at once
		"TestKVStore_Put_ErrEntryTooLarge", // tables bound an entry; here the store does, at 1 GiB
		"TestKVStore_PutRawGetRaw",         // stores bytes that are no entry, and wants others back
	},
	"./internal/dmap": {
		"TestDMap_Put_ErrEntryTooLarge", // tables bound an entry to 1 MiB
		// Waits for a partition to move, which may be over or not have begun: it fails with Olric's
		// own engine too, 8 times of 100.
		"TestDMap_LockWithTimeout_ErrLockNotAcquired_Cluster",
	},
}

// TestOlric_OwnTests takes a minute and a half, of which most are tests that wait.
func TestOlric_OwnTests(t *testing.T) {
	arguments := os.Getenv("WARMTIER_OLRIC_TESTS")
	if arguments == "" {
		t.Skip("set WARMTIER_OLRIC_TESTS to arguments of go test, -count=1 for example")
	}
	directory := olricCopy(t)
	for tests, others := range notOurs {
		command := append([]string{"test", "-timeout=500s", "-skip", "^(" + strings.Join(others, "|") + ")"},
			strings.Fields(arguments)...)
		output := run(t, directory, "go", append(command, tests)...)
		require.Contains(t, output, "ok  \tgithub.com/olric-data/olric")
		t.Log(output)
	}
}

// olricCopy returns the directory of a copy of Olric with this engine.
func olricCopy(t *testing.T) string {
	t.Helper()
	here, err := os.Getwd()
	require.NoError(t, err)
	source := strings.TrimSpace(run(t, here, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/olric-data/olric"))
	target := t.TempDir()
	require.NoError(t, os.CopyFS(target, os.DirFS(source)))
	require.NoError(t, filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	}))
	for _, own := range []string{"kvstore.go", "compaction.go", "transport.go", "compaction_test.go",
		"entry/entry.go", "entry/entry_test.go"} {
		require.NoError(t, os.Remove(filepath.Join(target, "internal/kvstore", own)))
	}
	for to, from := range map[string]string{"kvstore.go": "kvstore.go.txt", "entry/entry.go": "entry.go.txt"} {
		text, err := os.ReadFile(filepath.Join("testdata/olric", from))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(target, "internal/kvstore", to), text, 0o600))
	}
	root := filepath.Dir(here)
	run(t, target, "go", "mod", "edit", "-go=1.26.0",
		"-require=github.com/warmtier/warmtier@v0.1.0", "-replace=github.com/warmtier/warmtier="+root,
		"-require=github.com/warmtier/warmtier/olricengine@v0.1.0",
		"-replace=github.com/warmtier/warmtier/olricengine="+here)
	run(t, target, "go", "mod", "tidy")
	return target
}

// run returns the output of a command, which must succeed.
func run(t *testing.T, directory, name string, arguments ...string) string {
	t.Helper()
	command := exec.Command(name, arguments...)
	command.Dir = directory
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s %v:\n%s", name, arguments, output)
	return string(output)
}
