//go:build linux

// Command pebble-full-disk shows what a full file system does to a process that uses pebble: a
// commit that fails ends it, by the Fatalf of its logger. Needs root, for a file system of 16 MiB.
package main

import (
	"fmt"
	"log"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
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
	db, err := pebble.Open(dir, &pebble.Options{})
	must(err)
	for i := 0; err == nil; i++ {
		err = db.Set(fmt.Append(nil, "key", i), make([]byte, 4000), pebble.Sync)
	}
	fmt.Println("an error would be right:", err)
}
