package cluster_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier/olricengine/cluster"
	"github.com/warmtier/warmtier/olricengine/internal/nodeapi"
)

// Points of a re-offer that a node is killed at.
const (
	atOffering = "it is about to offer"
	atGiven    = "a chunk was taken by all, and is not forgotten"
	atReceived = "a chunk has come, and is not merged"

	// receiving is how Olric's line in the log begins, of which atReceived is made.
	receiving = "[INFO] Received DMap"
)

// killAt makes a child kill itself when it is at a point for the third time, or for the first that it offers.
func killAt(opts *cluster.Options, point string) {
	var passed atomic.Int64
	kill := func() {
		if passed.Add(1) < 3 && point != atOffering {
			return
		}
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		panic(fmt.Sprint("still there: ", err))
	}
	switch point {
	case atOffering:
		cluster.BeforeOffers(opts, kill)
	case atGiven:
		cluster.AfterChunks(opts, kill)
	case atReceived:
		opts.Logger = slog.New(calling{slog.DiscardHandler, kill})
	}
}

// calling calls a function for every line of Olric that a chunk has come.
type calling struct {
	slog.Handler
	received func()
}

func (calling) Enabled(context.Context, slog.Level) bool { return true }

func (c calling) Handle(_ context.Context, record slog.Record) error {
	if strings.HasPrefix(record.Message, receiving) {
		c.received()
	}
	return nil
}

// A node that is killed in the middle of a re-offer, which it sends or takes, with writes and deletions before and
// after, loses nothing and brings nothing back.
func TestKilled_InReoffer(t *testing.T) {
	if os.Getenv("WARMTIER_CLUSTER_KILLS") == "" {
		t.Skip("set WARMTIER_CLUSTER_KILLS to 1: three minutes, most of it until nodes are missed")
	}
	for _, medium := range []string{"memory", "directories"} {
		if medium == "directories" && raceEnabled {
			continue // the store keeps its memory on the heap then, which a kill takes
		}
		for _, point := range []string{atOffering, atGiven, atReceived} {
			t.Run(medium+"/"+point, func(t *testing.T) { killedAt(t, medium, point) })
		}
	}
}

func killedAt(t *testing.T, medium, point string) {
	f := &fleet{}
	if medium == "directories" {
		f.directory = t.TempDir()
	}
	for range 3 {
		f.add(t, process{})
	}
	f.ready(t)
	l := nodeapi.NewLedger("a", 200)
	write := func(n int) {
		for range n {
			require.NoError(t, l.Write(timeout(t), f.clients))
		}
	}
	write(600)
	p := f.remove(2)
	kill := func() {
		require.NoError(t, p.command.Process.Kill())
		_ = p.command.Wait() // it was killed
	}
	kill()
	write(100)
	if medium == "memory" {
		f.ready(t) // what it held is nowhere else before that
	}

	p.killedAt = point
	killed := launch(t, p, f.nodes)
	require.ErrorContains(t, killed.command.Wait(), "killed", "it ends by itself")
	write(100)
	if medium == "memory" {
		f.ready(t)
	}

	p.killedAt = ""
	f.add(t, p)
	f.ready(t)
	for _, node := range f.clients() {
		found, err := l.Check(t.Context(), node)
		require.NoError(t, err)
		require.Zero(t, found)
	}
}
