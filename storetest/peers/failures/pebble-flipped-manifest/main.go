// Command pebble-flipped-manifest shows flipped bits in pebble's newest manifest that take
// acknowledged and synced keys away, without an error of Open, Get or Close: from a damaged record
// on, the rest is taken as unfinished.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	silent, bytes := 0, 0
	for at := 0; bytes == 0 || at < bytes; at++ {
		dir, err := os.MkdirTemp("", "pebble")
		must(err)
		db, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
		must(err)
		must(db.Set([]byte("key"), []byte("value"), pebble.Sync))
		must(db.Close())
		db, err = pebble.Open(dir, &pebble.Options{Logger: quiet{}}) // makes a table of it
		must(err)
		must(db.Close())
		manifests, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
		must(err)
		path := slices.Max(manifests)
		text, err := os.ReadFile(path)
		must(err)
		bytes = len(text)
		text[at] ^= 2
		must(os.WriteFile(path, text, 0o600))
		if db, err = pebble.Open(dir, &pebble.Options{Logger: quiet{}}); err == nil {
			_, closer, err := db.Get([]byte("key"))
			if err == nil {
				must(closer.Close())
			}
			if closed := db.Close(); err == pebble.ErrNotFound && closed == nil {
				silent++
			}
		}
		must(os.RemoveAll(dir))
	}
	fmt.Printf("of %d bytes of a manifest %d take the key away when they are flipped, without an error\n", bytes, silent)
}

type quiet struct{}

func (quiet) Infof(string, ...any)         {}
func (quiet) Errorf(string, ...any)        {}
func (quiet) Fatalf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }
