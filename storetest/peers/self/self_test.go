package self

import (
	"testing"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/storetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, storetest.Config{
		Open: func(string) (storetest.Store, error) { return Open("", warmtier.Options{}) },
		TTL:  20 * time.Millisecond, MaxIDLen: warmtier.MaxIDLen, MaxContentLen: 1 << 20,
	})
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, storetest.Config{
		Open:  func(dir string) (storetest.Store, error) { return Open(dir, warmtier.Options{}) },
		Keeps: storetest.Acknowledged, TTL: 20 * time.Millisecond, MaxIDLen: warmtier.MaxIDLen,
	})
}

// TestDirectory_Small has segments that are soon full.
func TestDirectory_Small(t *testing.T) {
	t.Parallel()
	storetest.Run(t, storetest.Config{
		Open: func(dir string) (storetest.Store, error) {
			return Open(dir, warmtier.Options{SegmentSize: 64 << 10})
		},
		Keeps: storetest.Acknowledged, TTL: 20 * time.Millisecond, DiskBytes: 8 << 20,
	})
}

func TestCache(t *testing.T) {
	t.Parallel()
	storetest.Run(t, storetest.Config{
		Open: func(string) (storetest.Store, error) {
			return Open("", warmtier.Options{MaxBytes: 2 << 20, WhenFull: warmtier.Evict})
		},
		Evicts: true, TTL: 20 * time.Millisecond, MaxContentLen: 4096,
	})
}
