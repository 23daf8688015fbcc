package warmtier

import (
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Goal: the race detector sees contents: it puts segments on the Go heap, so a write to bytes that
// another goroutine reads is reported.
//
// Method: this test runs itself again, in a process in which two Views of one memory, at the same
// time, read and write its first byte. The detector must end that process with a report.
func TestRace_PlantedRaceIsReported(t *testing.T) {
	const plant = "WARMTIER_PLANT_RACE"
	if os.Getenv(plant) != "" {
		plantRace(t)
		return
	}
	if !raceEnabled {
		t.Skip("needs the race detector")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestRace_PlantedRaceIsReported$", "-test.count=1")
	cmd.Env = append(os.Environ(), plant+"=1", "GORACE=")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", out)
	require.Positive(t, exit.ExitCode())
	require.Contains(t, string(out), "DATA RACE")
	require.Contains(t, string(out), "plantRace")
}

// plantRace writes to a content that another View reads. Both have their pins before either
// accesses it, and nothing after that orders them.
func plantRace(t *testing.T) {
	s, err := Open("", quiet())
	require.NoError(t, err)
	fill(t, s, 0, 1, 100)
	var inside, done sync.WaitGroup
	inside.Add(2)
	var sum byte
	for _, access := range []func(content []byte){
		func(content []byte) { content[50]++ },
		func(content []byte) { sum += content[50] },
	} {
		done.Go(func() {
			err := s.View(idOf(0), func(content []byte) error {
				inside.Done()
				inside.Wait()
				access(content)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	t.Logf("read %d", sum)
	_ = s.Close()
}
