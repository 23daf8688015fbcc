// Command bitcask-merge-loses-write shows writes that are acknowledged while Merge runs, and are
// lost when it ends.
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
	for i := range 20_000 {
		must(db.Put(fmt.Append(nil, "key", i), make([]byte, 100)))
	}
	merged := make(chan error)
	go func() { merged <- db.Merge() }()
	written := 0
	for end := false; !end; written++ {
		select {
		case err := <-merged:
			must(err)
			end = true
		default:
		}
		must(db.Put(fmt.Append(nil, "new", written), []byte("value")))
	}
	lost := 0
	for i := range written {
		if _, err := db.Get(fmt.Append(nil, "new", i)); err != nil {
			lost++
		}
	}
	fmt.Printf("of %d writes that returned nil beside a Merge %d are lost\n", written, lost)
}
