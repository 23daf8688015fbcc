// Command bbolt-cut-file shows a file of bbolt that was cut to half its size, which ends the
// process that opens it.
package main

import (
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
	dir, err := os.MkdirTemp("", "bbolt")
	must(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	db, err := bbolt.Open(path, 0o600, nil)
	must(err)
	must(db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("bucket"))
		must(err)
		for i := range 1000 {
			must(b.Put(fmt.Append(nil, "key", i), make([]byte, 300)))
		}
		return nil
	}))
	must(db.Close())
	info, err := os.Stat(path)
	must(err)
	must(os.Truncate(path, info.Size()/2))

	_, err = bbolt.Open(path, 0o600, nil)
	fmt.Println("an error would be right:", err)
}
