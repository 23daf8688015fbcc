// Command buntdb-two-processes shows a file of buntdb that is opened twice, as by two processes:
// nobody refuses, and one loses what the other was told is stored.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/tidwall/buntdb"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir, err := os.MkdirTemp("", "buntdb")
	must(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	var both []*buntdb.DB
	for range 2 {
		db, err := buntdb.Open(path)
		must(err)
		both = append(both, db)
	}
	for i := range 100 {
		for who, db := range both {
			must(db.Update(func(tx *buntdb.Tx) error {
				_, _, err := tx.Set(fmt.Sprint(who, "/", i), "value", nil)
				return err
			}))
		}
	}
	for _, db := range both {
		must(db.Close())
	}
	db, err := buntdb.Open(path)
	must(err)
	lost := 0
	for who := range both {
		for i := range 100 {
			err := db.View(func(tx *buntdb.Tx) error {
				_, err := tx.Get(fmt.Sprint(who, "/", i))
				return err
			})
			if err != nil {
				lost++
			}
		}
	}
	fmt.Printf("of 200 writes that returned nil %d are lost\n", lost)
}
