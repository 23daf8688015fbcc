//go:build linux

// Command nutsdb-full-disk shows a store of nutsdb that ends the process that opens it when the
// file system was full once, and has room again: what is left of a refused write lies behind the
// next one. Needs root, for a file system of 16 MiB.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"syscall"

	"github.com/nutsdb/nutsdb"
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
	opts := nutsdb.DefaultOptions
	opts.Dir, opts.SegmentSize = dir, 1<<20
	db, err := nutsdb.Open(opts)
	must(err)
	must(db.Update(func(tx *nutsdb.Tx) error { return tx.NewKVBucket("bucket") }))
	put := func(key string, size int) error {
		value := bytes.Repeat([]byte{255}, size)
		return db.Update(func(tx *nutsdb.Tx) error { return tx.Put("bucket", []byte(key), value, 0) })
	}
	for i := 0; err == nil; i++ {
		err = put(fmt.Sprint("key", i), 4100)
	}
	fmt.Println("refused:", err)
	fmt.Println("a smaller one:", put("small", 100))
	fmt.Println("close:", db.Close())
	must(syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
	_, err = nutsdb.Open(opts)
	fmt.Println("opened with room again:", err)
}
