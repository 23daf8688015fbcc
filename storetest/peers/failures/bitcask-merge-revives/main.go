// Command bitcask-merge-revives shows keys that are deleted while Merge runs, and are back when it
// ends.
package main

import (
	"fmt"
	"log"
	"os"

	"git.mills.io/prologic/bitcask"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir, err := os.MkdirTemp("", "bitcask")
	must(err)
	defer os.RemoveAll(dir)
	db, err := bitcask.Open(dir)
	must(err)
	const keys = 20_000
	for i := range keys {
		must(db.Put(fmt.Append(nil, "key", i), make([]byte, 100)))
	}
	merged := make(chan error)
	go func() { merged <- db.Merge() }()
	for i := range keys {
		must(db.Delete(fmt.Append(nil, "key", i)))
	}
	must(<-merged)
	back := 0
	for i := range keys {
		if _, err := db.Get(fmt.Append(nil, "key", i)); err == nil {
			back++
		}
	}
	fmt.Printf("of %d keys that were deleted beside a Merge %d are back\n", keys, back)
}
