//go:build unix && !linux && !race

package vm

import (
	"errors"
	"os"
)

// adviseHuge does nothing: only Linux takes this advice.
func adviseHuge([]byte) {}

// syncDevice flushes the cache of the device: on macOS msync stops short of it, and File.Sync does
// not.
func syncDevice(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// discardsToZero says that memory keeps its bytes, or may keep them.
const discardsToZero = false

// populate does nothing: only Linux knows how.
func populate([]byte) (ok bool) { return false }
