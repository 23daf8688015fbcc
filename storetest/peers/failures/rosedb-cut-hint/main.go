// Command rosedb-cut-hint shows what a cut of the file that a Merge leaves for the next opening
// takes from rosedb: keys, and no error.
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
	opts := rosedb.DefaultOptions
	size, silent, example := int64(2), 0, ""
	for cut := int64(1); cut < size; cut++ {
		dir, err := os.MkdirTemp("", "rosedb")
		must(err)
		opts.DirPath = filepath.Join(dir, "db")
		db, err := rosedb.Open(opts)
		must(err)
		for i := range 20 {
			must(db.Put(fmt.Append(nil, "key", i), []byte("value")))
		}
		must(db.Merge(true))
		must(db.Close())
		path := filepath.Join(opts.DirPath, "000000001.HINT")
		info, err := os.Stat(path)
		must(err)
		size = info.Size()
		must(os.Truncate(path, cut))
		if db, err = rosedb.Open(opts); err == nil {
			there := db.Stat().KeysNum
			if err := db.Close(); err == nil && there < 20 {
				silent++
				example = fmt.Sprintf("%d of 20 keys are there", there)
			}
		}
		must(os.RemoveAll(dir))
	}
	fmt.Printf("of %d cuts %d lose keys without an error: %s\n", size-1, silent, example)
}
