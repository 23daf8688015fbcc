//go:build linux

// Command badger-full-disk shows what a full file system does to a process that uses badger: its
// files are longer than the space they have, and mapped. Needs root, for a file system of 16 MiB.
package main

import (
	"fmt"
	"log"
	"os"
	"syscall"

	"github.com/dgraph-io/badger/v4"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir, err := os.MkdirTemp("", "disk")
	must(err)
	defer os.RemoveAll(dir)
	must(syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"))
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	db, err := badger.Open(badger.DefaultOptions(dir).WithLogger(nil))
	must(err)
	for i := 0; err == nil; i++ {
		err = db.Update(func(tx *badger.Txn) error { return tx.Set(fmt.Append(nil, "key", i), make([]byte, 4000)) })
	}
	fmt.Println("an error would be right:", err)
}
