package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Running all faults takes an hour, and so it is not done with every change. Whether a change has taken a fault its
// text, or its test, takes no time to see.
func TestFaults_TextAndTest(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	names := map[string]bool{}
	for _, f := range allFaults() {
		require.False(t, names[f.name], "two faults have the name %q", f.name)
		names[f.name] = true
		text, err := os.ReadFile(f.file)
		require.NoError(t, err, f.name)
		require.Equal(t, 1, strings.Count(string(text), f.old), "%s: %q in %s", f.name, f.old, f.file)
		require.NotEqual(t, f.old, f.new, f.name)
		require.True(t, hasTest(t, filepath.Dir(f.file), f.test), "%s: no test %s", f.name, f.test)
	}
}

// hasTest reports whether a test of the package in directory has this name. Of one with "/" it looks at the first part.
func hasTest(t *testing.T, directory, test string) bool {
	name, _, _ := strings.Cut(test, "/")
	files, err := filepath.Glob(filepath.Join(directory, "*_test.go"))
	require.NoError(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if strings.Contains(string(text), fmt.Sprintf("\nfunc %s(", name)) {
			return true
		}
	}
	return false
}
