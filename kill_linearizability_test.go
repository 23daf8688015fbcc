//go:build unix

package warmtier

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"
)

/*
Goal: that of apply_linearizability_test.go across kills.

Method: a child process makes the calls, beside compactions, and writes into a file which one it begins and which one
has ended. It dies by SIGKILL. What it had begun and not ended may have been made, or not: until the end of the history
nobody knows. The next child goes on in the same directory, and in the end all ids are read.
*/

// killNote is a line of that file.
type killNote struct {
	Client, N int
	Call      groupCall
	Ended     bool
	Wrote     bool
}

const killClients = 4

// childHistory makes calls until it is killed. Each that has ended is a byte on the standard output.
func childHistory(t *testing.T, dir string, life int) {
	notes, err := os.OpenFile(dir+".history", os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	require.NoError(t, err)
	opts := compacting(2, 1)
	opts.SyncInterval = -1
	s := openDir(t, dir, opts)
	h := &historian{s: s}
	var mu sync.Mutex
	note := func(n killNote) {
		line, err := json.Marshal(n)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			_, err = notes.Write(append(line, '\n'))
		}
		if err != nil {
			panic(err)
		}
	}
	for i := range killClients {
		client := life*killClients + i
		rng := rand.New(rand.NewPCG(uint64(client), 1))
		go func() {
			for n := 0; ; n++ {
				call, do, err := h.planGroup(client, n, rng)
				if err != nil {
					panic(err)
				}
				note(killNote{Client: client, N: n, Call: call})
				made, err := do()
				if err != nil && !errors.Is(err, ErrChanged) {
					panic(err)
				}
				note(killNote{Client: client, N: n, Call: made, Ended: true, Wrote: err == nil})
				_, _ = os.Stdout.WriteString(".") // the parent is there until it has killed this process
			}
		}()
	}
	for {
		if _, err := s.Compact(context.Background()); err != nil {
			panic(err)
		}
	}
}

// killAfter runs the child, and kills it when so many calls have ended.
func killAfter(t *testing.T, dir string, life, calls int) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(os.Args[0], "-test.run=^TestDirectoryChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=history %d\n%s", directoryVariable, life, dir))
	cmd.Stderr = &output
	ended, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = io.CopyN(io.Discard, ended, int64(calls))
	killed := cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	require.NoError(t, err, output.String())
	require.NoError(t, killed)
	notes, err := os.ReadFile(dir + ".history")
	require.NoError(t, err)
	whole := bytes.LastIndexByte(notes, '\n') + 1 // a note that was cut off is of what nobody knows
	require.NoError(t, os.Truncate(dir+".history", int64(whole)))
}

// killHistory returns what children have written down.
func killHistory(t *testing.T, dir string) (history []porcupine.Operation) {
	t.Helper()
	notes, err := os.Open(dir + ".history")
	require.NoError(t, err)
	defer func() { _ = notes.Close() }()
	begun := map[[2]int]int{} // which of history are not ended
	lines := bufio.NewReader(notes)
	for clock := int64(0); ; clock++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return history
		}
		require.NoError(t, err)
		var n killNote
		require.NoError(t, json.Unmarshal(line, &n))
		key := [2]int{n.Client, n.N}
		if !n.Ended {
			begun[key] = len(history)
			history = append(history, porcupine.Operation{ClientId: n.Client, Input: n.Call, Call: clock, Return: math.MaxInt64})
			continue
		}
		op := &history[begun[key]]
		op.Input, op.Output, op.Return = n.Call, n.Wrote, clock
	}
}

func TestLinearizable_Kills(t *testing.T) {
	skipKillsUnderRace(t)
	parallel(t)
	rng := seeded(t)
	for range stride(t, 1, 10) {
		historyWithKills(t, rng)
	}
}

func historyWithKills(t *testing.T, rng *rand.Rand) {
	t.Helper()
	const lives = 4 // every call that is cut off doubles what has to be looked at
	dir := filepath.Join(fastDir(t), "store")
	for life := range lives {
		killAfter(t, dir, life, 20+rng.IntN(300))
	}
	history := killHistory(t, dir)
	cutOff := 0
	for _, op := range history {
		if op.Output == nil {
			cutOff++
		}
	}
	s := openDir(t, dir, quietly())
	h := &historian{s: s}
	for group := range groups {
		found, err := h.look(group)
		require.NoError(t, err)
		call := groupCall{Group: group, Checked: [groupIDs]bool{true, true, true}}
		for i := range found {
			call.Wanted[i] = found[i].content
		}
		history = append(history, porcupine.Operation{
			ClientId: -1, Input: call, Output: true, Call: math.MaxInt64 - 1, Return: math.MaxInt64 - 1,
		})
	}
	closeIntact(t, s)
	require.True(t, porcupine.CheckOperations(oneGroup, history))
	t.Logf("%d calls, %d kills, %d calls cut off", len(history)-groups, lives, cutOff)

	last := &history[len(history)-1] // the check finds a memory that was lost
	call := last.Input.(groupCall)
	call.Wanted[0] = math.MaxUint64 - 1 // which nobody stored
	last.Input = call
	require.False(t, porcupine.CheckOperations(oneGroup, history))
}
