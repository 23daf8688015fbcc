// Command pogreb-deleted-back shows, with pogreb's defaults and one goroutine, deleted keys that
// come back: a Put that finds a place where another key was deleted does not look whether an older
// entry of its own lies behind it, and the next Delete takes the newer entry only.
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/akrylysov/pogreb"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir, err := os.MkdirTemp("", "pogreb")
	must(err)
	defer os.RemoveAll(dir)
	db, err := pogreb.Open(dir, nil)
	must(err)
	const keys = 1000
	for i := range keys {
		must(db.Put(fmt.Append(nil, "key", i), []byte("old")))
	}
	for i := 0; i < keys; i += 2 {
		must(db.Delete(fmt.Append(nil, "key", i)))
	}
	back := 0
	for i := 1; i < keys; i += 2 {
		key := fmt.Append(nil, "key", i)
		must(db.Put(key, []byte("new")))
		must(db.Delete(key))
		value, err := db.Get(key)
		must(err)
		if value != nil {
			back++
		}
	}
	must(db.Close())
	fmt.Printf("of 500 keys that were deleted %d are back, with the value before the last\n", back)
}
