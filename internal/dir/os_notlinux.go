//go:build !linux

package dir

import (
	"errors"
	"fmt"
	"os"
)

func reserveSpace(f *os.File, size int64) error { return writeZeros(f, size) }

func statOf(f *os.File) (Stat, error) { return inodeOf(f) }

// AvailableSpace knows nothing: what statfs returns differs from system to system.
func AvailableSpace(string) (bytes int64, known bool) { return 0, false }

// Available is the method of [FS]. It knows nothing either.
func (d *OS) Available() (bytes int64, known bool) { return 0, false }

// lockHolder returns "": only Linux lists who holds a lock, and the number in a file outlives its meaning.
func lockHolder(*os.File, string) string { return "" }

// syncDevice flushes the cache of the device: on macOS msync stops short of it, and File.Sync does
// not.
func (d *OS) syncDevice(name string) error {
	f, err := d.openAt(name, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsynced, err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// isCoherent reports false: OpenBSD keeps pages that are mapped and what is written apart, and others were not tried.
func isCoherent(*os.File) bool { return false }

func duplicate(*os.File) int { return noDescriptor }

func closeDescriptor(int) {}

func writeAt(int, int, []byte, []byte) (n int, err error) { return 0, errors.ErrUnsupported }

func beginSync(int, int, int) error { return nil }
