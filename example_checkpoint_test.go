//go:build unix

package warmtier_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/warmtier/warmtier"
)

// A backup every night, of a store that is in use: a checkpoint beside it, to be copied to another machine from there.
func ExampleStore_Checkpoint() {
	root, err := os.MkdirTemp("", "example-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	s, err := warmtier.Open(filepath.Join(root, "data"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if err := s.Put("user:1", []byte("Ada")); err != nil {
		log.Fatal(err)
	}

	tonight := filepath.Join(root, "checkpoints", time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC).Format(time.DateOnly))
	if err := s.Checkpoint(context.Background(), tonight); err != nil {
		log.Fatal(err)
	}
	if err := s.Put("user:1", []byte("Grace")); err != nil {
		log.Fatal(err)
	}

	// The checkpoint is a store of its own, as of that moment.
	backup, err := warmtier.Open(tonight, &warmtier.Options{ReadOnly: true})
	if err != nil {
		log.Fatal(err)
	}
	defer backup.Close()
	content, err := backup.Get("user:1")
	fmt.Println(string(content), err)
	// Output: Ada <nil>
}
