package warmtier

import (
	"os"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: every method of a store has an example, as the README says. Method: by their names.
func TestExamples_OfEveryMethod(t *testing.T) {
	examples, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	store := reflect.TypeFor[*Store]()
	for i := range store.NumMethod() {
		require.Contains(t, string(examples), "\nfunc ExampleStore_"+store.Method(i).Name+"()")
	}
}
