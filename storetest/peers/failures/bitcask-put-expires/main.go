// Command bitcask-put-expires shows a Put that is lost to the deadline of an earlier PutWithTTL.
package main

import (
	"fmt"
	"log"
	"os"
	"time"

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
	must(db.PutWithTTL([]byte("key"), []byte("for a while"), 100*time.Millisecond))
	must(db.Put([]byte("key"), []byte("for good")))
	value, err := db.Get([]byte("key"))
	fmt.Printf("at once: %s %v\n", value, err)
	<-time.After(200 * time.Millisecond)
	value, err = db.Get([]byte("key"))
	fmt.Printf("after 200 ms: %s %v\n", value, err)
}
