//go:build linux

// Command bitcask-full-disk shows a store of bitcask that cannot be opened when the file system was
// full once, though it has room again. Needs root, for a file system of 16 MiB.
package main

import (
	"fmt"
	"log"
	"os"
	"syscall"

	"git.mills.io/prologic/bitcask"
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
	db, err := bitcask.Open(dir)
	must(err)
	written := 0
	for ; err == nil; written++ {
		err = db.Put(fmt.Append(nil, "key", written), make([]byte, 4100))
	}
	fmt.Println("written:", written-1, "refused:", err)
	fmt.Println("close:", db.Close())
	must(syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
	_, err = bitcask.Open(dir)
	fmt.Println("opened with room again:", err)
}
