// Command buntdb-flipped-byte shows flipped bits, and a cut, in a file of buntdb, which are read
// without an error: commands have no checksum, and an unfinished one at the end is taken as that of
// a crash.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/tidwall/buntdb"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func show(path string) {
	db, err := buntdb.Open(path)
	must(err)
	must(db.View(func(tx *buntdb.Tx) error {
		for _, key := range []string{"one", "two"} {
			value, err := tx.Get(key)
			fmt.Printf("%s: %q %v\n", key, value, err)
		}
		return nil
	}))
	must(db.Close())
}

func main() {
	dir, err := os.MkdirTemp("", "buntdb")
	must(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	db, err := buntdb.Open(path)
	must(err)
	must(db.Update(func(tx *buntdb.Tx) error {
		_, _, err := tx.Set("one", "the first value", nil)
		must(err)
		_, _, err = tx.Set("two", "the second value", nil)
		return err
	}))
	must(db.Close())
	text, err := os.ReadFile(path)
	must(err)
	for _, what := range []string{"the first", "one"} {
		flipped := bytes.Clone(text)
		flipped[bytes.Index(text, []byte(what))] ^= 0x20
		must(os.WriteFile(path, flipped, 0o600))
		show(path)
	}
	must(os.WriteFile(path, text[:len(text)-3], 0o600))
	show(path)
}
