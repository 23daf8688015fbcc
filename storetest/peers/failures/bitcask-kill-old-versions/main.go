// Command bitcask-kill-old-versions shows acknowledged writes that a kill loses, with WithSync:
// that the index of the last Close is out of date is known in memory alone. The process that is
// killed is this program again.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"time"

	"git.mills.io/prologic/bitcask"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func put(dir, value string) *bitcask.Bitcask {
	db, err := bitcask.Open(dir, bitcask.WithSync(true))
	must(err)
	must(db.Put([]byte("key"), []byte(value)))
	return db
}

func main() {
	if len(os.Args) > 1 {
		put(os.Args[1], "new")
		fmt.Println("acknowledged")
		<-time.After(time.Hour)
	}
	dir, err := os.MkdirTemp("", "bitcask")
	must(err)
	defer os.RemoveAll(dir)
	must(put(dir, "old").Close())

	child := exec.Command(os.Args[0], dir)
	out, err := child.StdoutPipe()
	must(err)
	must(child.Start())
	_, err = out.Read(make([]byte, 100)) // what it says comes after the write
	must(err)
	must(child.Process.Kill())
	_ = child.Wait()

	db, err := bitcask.Open(dir, bitcask.WithSync(true))
	must(err)
	value, err := db.Get([]byte("key"))
	fmt.Printf("new was acknowledged; after a kill there is: %s %v\n", value, err)
}
