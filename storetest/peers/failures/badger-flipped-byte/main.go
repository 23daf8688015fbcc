// Command badger-flipped-byte shows one flipped bit in a table of badger, which ends the process
// that opens it when it is told to look at checksums.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	dir, err := os.MkdirTemp("", "badger")
	must(err)
	defer os.RemoveAll(dir)
	opts := badger.DefaultOptions(dir).WithLogger(nil).WithChecksumVerificationMode(options.OnTableAndBlockRead)
	db, err := badger.Open(opts)
	must(err)
	for i := range 1000 {
		must(db.Update(func(tx *badger.Txn) error { return tx.Set(fmt.Append(nil, "key", i), make([]byte, 100)) }))
	}
	must(db.Close())

	path := filepath.Join(dir, "000001.sst")
	text, err := os.ReadFile(path)
	must(err)
	text[len(text)/2] ^= 1
	must(os.WriteFile(path, text, 0o600))
	_, err = badger.Open(opts)
	fmt.Println("an error would be right:", err)
}
