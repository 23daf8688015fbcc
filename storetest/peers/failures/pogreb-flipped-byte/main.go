// Command pogreb-flipped-byte shows one flipped bit in a value of pogreb, which is read without an
// error: checksums are looked at after a crash alone.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/akrylysov/pogreb"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	for _, what := range []string{"the value", "the key"} {
		dir, err := os.MkdirTemp("", "pogreb")
		must(err)
		defer os.RemoveAll(dir)
		db, err := pogreb.Open(dir, nil)
		must(err)
		must(db.Put([]byte("the key"), []byte("the value that was stored")))
		must(db.Close())

		path := filepath.Join(dir, "00000-1.psg")
		text, err := os.ReadFile(path)
		must(err)
		text[bytes.Index(text, []byte(what))] ^= 0x20
		must(os.WriteFile(path, text, 0o600))
		db, err = pogreb.Open(dir, nil)
		must(err)
		value, err := db.Get([]byte("the key"))
		fmt.Printf("a bit of %s flipped: %q %v %v\n", what, value, err, db.Close())
	}
}
