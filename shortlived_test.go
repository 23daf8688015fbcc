//go:build unix

package warmtier

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

/*
Goal: programs that live shortly, or are killed, and replace the same memories leave no trail of dead bytes in
their directory: what one of them leaves, the next ones give back. Method: one run after the other, each a
process of its own when it is to be killed. What would break: maintenance by the clock of one process.
*/

const shortLivedVariable = "WARMTIER_TEST_SHORT_LIVED_CHILD"

const shortLivedSize = 10_000

// shortLived returns how many memories each run replaces, the options, and the most bytes of records that
// may be left.
func shortLived(t *testing.T) (memories int, opts *Options, most int64) {
	if _, ok := askedDuration(t); ok {
		return 2000, nil, 100_000_000
	}
	// A run may end in the middle of the compaction that it has begun.
	opts = &Options{SegmentSize: 4 * minSegmentSize, Maintenance: MaintenanceOptions{MinBytes: 10_000_000}}
	return 200, opts, 15_000_000
}

func TestShortLived_RunsLeaveNoTrail(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"closed", "killed", "closed and killed"} {
		t.Run(how, func(t *testing.T) {
			if how != "closed" {
				skipKillsUnderRace(t)
			}
			runs := stride(t, 24, 60)
			memories, opts, most := shortLived(t)
			dir := fastDir(t)
			for run := range runs {
				if how == "closed" || how != "killed" && odd(run) {
					replaceAll(t, openDir(t, dir, opts), run, memories, (*Store).Close)
				} else {
					runKilled(t, dir, run)
				}
			}
			last := Options{Maintenance: MaintenanceOptions{Disabled: true}}
			if opts != nil {
				last.SegmentSize = opts.SegmentSize // that of the space kept back
			}
			s := openDir(t, dir, &last)
			st := s.Stats()
			t.Logf("%d bytes of records after %d runs, %d live", st.TotalBytes, runs, st.LiveBytes)
			require.LessOrEqual(t, st.TotalBytes, most)
			require.LessOrEqual(t, diskBytes(t, dir), 2*most)
			for i := range memories {
				got, err := s.Get(idOf(i))
				require.NoError(t, err)
				require.Equal(t, contentOf(i, runs-1, shortLivedSize), got)
			}
			closeIntact(t, s)
		})
	}
}

// replaceAll is what one run does.
func replaceAll(t *testing.T, s *Store, run, memories int, end func(*Store) error) {
	t.Helper()
	for i := range memories {
		require.NoError(t, s.Put(idOf(i), contentOf(i, run, shortLivedSize)))
	}
	require.NoError(t, end(s))
}

// runKilled runs replaceAll in a process that kills itself at the end.
func runKilled(t *testing.T, dir string, run int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestShortLivedChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), shortLivedVariable+"="+strconv.Itoa(run)+"\n"+dir)
	out, err := cmd.CombinedOutput()
	require.ErrorContains(t, err, "signal: killed", "%.1500s", out)
}

// TestShortLivedChild is the child process.
func TestShortLivedChild(t *testing.T) {
	number, dir, ok := strings.Cut(os.Getenv(shortLivedVariable), "\n")
	if !ok {
		t.Skip("is the child process of the tests of programs that live shortly")
	}
	run, err := strconv.Atoi(number)
	require.NoError(t, err)
	memories, opts, _ := shortLived(t)
	replaceAll(t, openDir(t, dir, opts), run, memories, func(*Store) error {
		killSelf()
		return nil
	})
}
