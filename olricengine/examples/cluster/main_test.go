package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The test binary is each of the nodes too, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "node" {
		main()
		return
	}
	m.Run()
}

func TestRun_OneKill(t *testing.T) {
	if testing.Short() {
		t.Skip("waits until a node that was killed is missed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	arguments := []string{"-kills", "1"}
	if raceEnabled {
		// The store keeps its memory on the heap then, so a kill takes what is in a directory too.
		arguments = append(arguments, "-memory")
	}
	require.NoError(t, run(ctx, arguments))
}
