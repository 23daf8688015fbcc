package warmtier

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: every method of a store has an example, as the README says. Method: by their names.
func TestExamples_OfEveryMethod(t *testing.T) {
	names, err := filepath.Glob("example_*test.go")
	require.NoError(t, err)
	var examples strings.Builder
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		examples.Write(b)
	}
	store := reflect.TypeFor[*Store]()
	for i := range store.NumMethod() {
		name := "ExampleStore_" + store.Method(i).Name + "()"
		require.Positive(t, strings.Count(examples.String(), "\nfunc "+name), name)
	}
}
