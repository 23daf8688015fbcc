package warmtier_test

import (
	"bytes"
	"context"
	"fmt"
	"log"

	"github.com/warmtier/warmtier"
)

func ExampleStore_Export() {
	s, err := warmtier.Open("", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if err := s.Put("user:1", []byte("Ada")); err != nil {
		log.Fatal(err)
	}
	var file bytes.Buffer
	st, err := s.Export(context.Background(), &file)
	fmt.Println(st.Memories, err)
	// Output: 1 <nil>
}

// What is there stays, and a stream that is not whole changes nothing.
func ExampleStore_Import() {
	from, err := warmtier.Open("", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer from.Close()
	for _, id := range []string{"user:1", "user:2"} {
		if err := from.Put(id, []byte("of "+id)); err != nil {
			log.Fatal(err)
		}
	}
	var file bytes.Buffer
	if _, err := from.Export(context.Background(), &file); err != nil {
		log.Fatal(err)
	}

	to, err := warmtier.Open("", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer to.Close()
	if err := to.Put("user:1", []byte("newer")); err != nil {
		log.Fatal(err)
	}
	cut := file.Bytes()[:file.Len()-1]
	_, err = to.Import(context.Background(), bytes.NewReader(cut))
	fmt.Println(err, to.Len())
	st, err := to.Import(context.Background(), &file)
	fmt.Println(st.Memories, st.Existing, err)
	// Output:
	// warmtier: import: corrupt record: export at offset 165: it ends before its end mark 1
	// 1 1 <nil>
}
