// Command rosedb-kill-in-merge shows a store that cannot be opened, or has values of other keys,
// after a process was killed that wrote and merged. It is this program again; a hundred kills or
// more may be needed.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rosedblabs/rosedb/v2"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func value(i int) string { return fmt.Sprint("value of key", i, strings.Repeat(".", i)) }

func main() {
	opts := rosedb.DefaultOptions
	if len(os.Args) > 1 {
		opts.DirPath = os.Args[1]
		db, err := rosedb.Open(opts)
		must(err)
		go func() {
			for {
				must(db.Merge(true))
			}
		}()
		for i := 0; ; i = (i + 1) % 90 {
			must(db.Put(fmt.Append(nil, "key", i), []byte(value(i))))
		}
	}
	for kills := 1; kills <= 3000; kills++ {
		dir, err := os.MkdirTemp("", "rosedb")
		must(err)
		opts.DirPath = dir + "/db"
		child := exec.Command(os.Args[0], opts.DirPath)
		must(child.Start())
		<-time.After(time.Duration(20+kills%40) * time.Millisecond)
		must(child.Process.Kill())
		_ = child.Wait()
		db, err := rosedb.Open(opts)
		for i := 0; i < 90 && err == nil; i++ {
			got, missing := db.Get(fmt.Append(nil, "key", i))
			if missing == nil && string(got) != value(i) {
				err = fmt.Errorf("key%d has %.30q", i, got)
			}
		}
		if must(os.RemoveAll(dir)); err != nil {
			log.Fatalf("after %d kills: %v", kills, err)
		}
	}
}
