// Command bbolt-flipped-byte shows one flipped bit in a value of bbolt, which is read without an
// error, and one in a key, which is absent then: meta pages have a checksum, others have none.
// Check finds nothing.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	for _, what := range []string{"the value", "the key"} {
		dir, err := os.MkdirTemp("", "bbolt")
		must(err)
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "db")
		db, err := bbolt.Open(path, 0o600, nil)
		must(err)
		must(db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket([]byte("bucket"))
			must(err)
			return b.Put([]byte("the key"), []byte("the value that was stored"))
		}))
		must(db.Close())

		text, err := os.ReadFile(path)
		must(err)
		text[bytes.Index(text, []byte(what))] ^= 0x20
		must(os.WriteFile(path, text, 0o600))
		db, err = bbolt.Open(path, 0o600, nil)
		must(err)
		must(db.View(func(tx *bbolt.Tx) error {
			for err := range tx.Check() {
				fmt.Println("Check:", err)
			}
			fmt.Printf("a bit of %s flipped: %q\n", what, tx.Bucket([]byte("bucket")).Get([]byte("the key")))
			return nil
		}))
	}
}
