// Command bitcask-flipped-index shows flipped bits in the index that Close has left, which take a
// key away without an error.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"git.mills.io/prologic/bitcask"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	silent, bytes := 0, 0
	for at := 0; bytes == 0 || at < bytes; at++ {
		dir, err := os.MkdirTemp("", "bitcask")
		must(err)
		db, err := bitcask.Open(dir)
		must(err)
		must(db.Put([]byte("the key"), []byte("value")))
		must(db.Close())
		path := filepath.Join(dir, "index")
		text, err := os.ReadFile(path)
		must(err)
		bytes = len(text)
		text[at] ^= 0x10
		must(os.WriteFile(path, text, 0o600))
		if db, err = bitcask.Open(dir); err == nil && !db.Has([]byte("the key")) && db.Close() == nil {
			silent++
		}
		must(os.RemoveAll(dir))
	}
	fmt.Printf("of %d bytes of the index %d take the key away when they are flipped, without an error\n", bytes, silent)
}
