// Command rosedb-flipped-byte shows one flipped bit, in the length of a record of rosedb, which
// ends the process that opens it: the length is used before its checksum is looked at.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/rosedblabs/rosedb/v2"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir, err := os.MkdirTemp("", "rosedb")
	must(err)
	defer os.RemoveAll(dir)
	opts := rosedb.DefaultOptions
	opts.DirPath = dir
	db, err := rosedb.Open(opts)
	must(err)
	must(db.Put([]byte("key"), []byte("value")))
	must(db.Close())

	path := filepath.Join(dir, "000000001.SEG")
	text, err := os.ReadFile(path)
	must(err)
	text[5] ^= 0x80
	must(os.WriteFile(path, text, 0o600))
	_, err = rosedb.Open(opts)
	fmt.Println("an error would be right:", err)
}
