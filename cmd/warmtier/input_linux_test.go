package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

/*
What is read from a terminal or a pipe: an interrupt ends the program at once, with nothing stored. The tests know
that the program waits for more when the system says that it has taken what there was.
*/

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	fd := int(keyboard.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	screen, err = os.OpenFile(fmt.Sprint("/dev/pts/", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = screen.Close() })
	return keyboard, screen
}

// taken waits until the program has read all that was sent.
func taken(t *testing.T, f *os.File) {
	t.Helper()
	require.Eventually(t, func() bool {
		n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
		return err == nil && n == 0
	}, time.Minute, time.Millisecond)
}

// ended waits for a command, but not for ever.
func ended(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		require.FailNow(t, "it goes on")
	}
}

func readingCommands(dir string) map[string][]string {
	return map[string][]string{
		"put": {"put", "-d", dir, "a"}, "load a content": {"load", "-d", dir, "-", "--id", "a"},
		"load lines": {"load", "-d", dir, "-", "--format", "jsonl"},
		"load rows":  {"load", "-d", dir, "-", "--format", "csv"}, "import": {"import", "-d", dir, "-"},
	}
}

// sent is a whole memory for each of the commands, so that one that stored what it has would succeed.
const sent = `{"id":"a","content":"whole"}` + "\n"

func TestInput_InterruptedPipe(t *testing.T) {
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		dir := filepath.Join(t.TempDir(), "store")
		for name, args := range readingCommands(dir) {
			t.Run(name+", "+signal.String(), func(t *testing.T) {
				r, w, err := os.Pipe()
				require.NoError(t, err)
				defer r.Close() //nolint:errcheck // of no consequence here
				defer w.Close() //nolint:errcheck // of no consequence here
				var errOut bytes.Buffer
				cmd := exec.Command(program, args...)
				cmd.Stdin, cmd.Stderr = r, &errOut
				require.NoError(t, cmd.Start())
				_, err = w.WriteString(sent)
				require.NoError(t, err)
				taken(t, r)
				require.NoError(t, cmd.Process.Signal(signal))
				ended(t, cmd)
				require.Equal(t, exitIO, cmd.ProcessState.ExitCode())
				require.Equal(t, "warmtier: interrupted: standard input\n", errOut.String())
				require.NoDirExists(t, dir)
			})
		}
	}
}

func TestInput_InterruptedAtTerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	for name, args := range readingCommands(dir) {
		t.Run(name, func(t *testing.T) {
			keyboard, screen := openTerminal(t)
			cmd := exec.Command(program, args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			require.NoError(t, cmd.Start())
			_, err := keyboard.WriteString(sent)
			require.NoError(t, err)
			_, err = io.ReadFull(keyboard, make([]byte, len(sent))) // its echo: the terminal has it
			require.NoError(t, err)
			taken(t, screen)
			_, err = keyboard.WriteString("\x03") // Ctrl-C
			require.NoError(t, err)
			ended(t, cmd)
			require.Equal(t, exitIO, cmd.ProcessState.ExitCode())
			require.NoDirExists(t, dir)
		})
	}
}

// What ends as it should at a terminal is stored.
func TestInput_EndedAtTerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	keyboard, screen := openTerminal(t)
	cmd := exec.Command(program, "put", "-d", dir, "a")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, cmd.Start())
	_, err := keyboard.WriteString("typed\n\x04") // Ctrl-D
	require.NoError(t, err)
	ended(t, cmd)
	require.Zero(t, cmd.ProcessState.ExitCode())
	require.Equal(t, map[string]string{"a": "typed\n"}, contents(t, dir))
}

// A command that waits for something else than its input: the second interrupt ends it.
func TestInput_SecondInterrupt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	fill(t, dir, map[string]string{"a": strings.Repeat("x", 1<<20)}) // more than a pipe holds
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()                  //nolint:errcheck // of no consequence here
	heard := make(chan os.Signal, 1) // where interrupts are ignored, as in a script's background, the program would, too
	signal.Notify(heard, os.Interrupt)
	defer signal.Stop(heard)
	cmd := exec.Command(program, "get", "-d", dir, "a")
	cmd.Stdout = w
	require.NoError(t, cmd.Start())
	require.NoError(t, w.Close())
	_, err = r.Read(make([]byte, 1)) // and no more
	require.NoError(t, err)
	again := time.NewTicker(10 * time.Millisecond) // until the first one was heard
	defer again.Stop()
	go func() {
		for range again.C {
			if cmd.Process.Signal(os.Interrupt) != nil {
				return
			}
		}
	}()
	ended(t, cmd)
	require.Equal(t, syscall.SIGINT, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
}

// What is over 1 MiB waits in a file, a FIFO is read as standard input is, and a file of /proc has no size.
func TestInput_Kinds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	large := strings.Repeat("0123456789", 300_000)
	command(t, large, "put", "-d", dir, "piped").exits(exitOK)

	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	wrote := make(chan error)
	go func() { wrote <- os.WriteFile(fifo, []byte(large), 0) }()
	command(t, "", "put", "-d", dir, "fifo", fifo).exits(exitOK)
	require.NoError(t, <-wrote)
	go func() { wrote <- os.WriteFile(fifo, []byte(sent), 0) }()
	command(t, "", "load", "-d", dir, fifo, "--format", "jsonl", "--content-field", "content").exits(exitOK)
	require.NoError(t, <-wrote)
	command(t, "", "put", "-d", dir, "proc", "/proc/version").exits(exitOK)

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("first rest"), 0o600))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()       //nolint:errcheck // of no consequence here
	_, err = f.Seek(6, 0) // as after a shell's read
	require.NoError(t, err)
	cmd := exec.Command(program, "put", "-d", dir, "rest")
	cmd.Stdin = f
	require.NoError(t, cmd.Run())

	version, err := os.ReadFile("/proc/version")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"piped": large, "fifo": large, "a": "whole", "rest": "rest",
		"proc": string(version)}, contents(t, dir))
	require.Empty(t, listOf(t, temp))
}
