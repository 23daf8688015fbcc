//go:build unix

package warmtier

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const directoryVariable = "WARMTIER_TEST_DIRECTORY_CHILD"

// nobody is the user id of a user without rights.
const nobody = 65534

// runDirectoryChild runs a scenario in a process of its own, and as nobody when asked to and able
// to.
func runDirectoryChild(t *testing.T, scenario, dir string, asNobody bool) (output string, err error) {
	t.Helper()
	binary, err := os.Open(os.Args[0])
	require.NoError(t, err)
	defer func() { _ = binary.Close() }()
	path := os.Args[0]
	var credential *syscall.SysProcAttr
	if asNobody && os.Geteuid() == 0 {
		if runtime.GOOS == "linux" {
			path = "/proc/self/fd/3" // nobody may not look into the directory of the binary
		}
		credential = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd := exec.Command(path, "-test.run=^TestDirectoryChild$", "-test.count=1")
	cmd.SysProcAttr = credential
	cmd.ExtraFiles = []*os.File{binary}
	cmd.Env = append(os.Environ(), directoryVariable+"="+scenario+"\n"+dir)
	out, err := cmd.CombinedOutput()
	return string(out[:min(len(out), 1500)]), err
}

// TestDirectoryChild is the child process.
func TestDirectoryChild(t *testing.T) {
	scenario, dir, ok := strings.Cut(os.Getenv(directoryVariable), "\n")
	if !ok {
		t.Skip("is the child process of the directory tests")
	}
	switch {
	case scenario == "expect locked":
		_, err := Open(dir, nil)
		require.ErrorIs(t, err, ErrLocked)
		require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getppid()))
	case scenario == "read without permission":
		_, err := Open(dir, quietly())
		require.ErrorIs(t, err, fs.ErrPermission)
		s := openDir(t, dir, &Options{ReadOnly: true})
		requireContents(t, s, 0, 100, 100, all)
		requireReadOnly(t, s)
		closeIntact(t, s)
	case scenario == "unwritable":
		_, err := Open(filepath.Join(dir, "new"), quietly())
		require.ErrorIs(t, err, fs.ErrPermission)
	case strings.HasPrefix(scenario, "limit of "):
		childLimits(t, dir, strings.TrimPrefix(scenario, "limit of "))
	case strings.HasPrefix(scenario, "history "):
		life, err := strconv.Atoi(strings.TrimPrefix(scenario, "history "))
		require.NoError(t, err)
		childHistory(t, dir, life)
	case strings.HasPrefix(scenario, "lack: "):
		childLack(t, dir, strings.TrimPrefix(scenario, "lack: "))
	case strings.HasPrefix(scenario, "made cut: "):
		childMadeCut(t, dir, strings.TrimPrefix(scenario, "made cut: "))
	case scenario == "cut in view":
		childCutInView(t, dir)
	case scenario == "cut in view of a retired segment":
		childCutRetired(t, dir)
	case scenario == "cut in all":
		childCutInAll(t, dir)
	default:
		var which string
		var size int64
		_, err := fmt.Sscanf(scenario, "cut %s to %d", &which, &size)
		require.NoError(t, err)
		childCut(t, dir, which, size)
	}
}
