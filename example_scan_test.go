package warmtier_test

import (
	"fmt"

	"github.com/warmtier/warmtier"
)

// The ids of all memories, without their contents.
func ExampleStore_IDs() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("user:42", []byte("likes tea"))
	for id := range s.IDs() {
		fmt.Println(id)
	}
	// Output: user:42
}

// A page of ids for each request of a caller who sends the cursor back with the next one.
func ExampleStore_Scan() {
	s := mustOpen()
	defer s.Close()
	for i := range 25 {
		_ = s.Put(fmt.Sprintf("user:%d", i), nil)
	}
	for cursor := warmtier.Cursor(0); ; {
		ids, next, err := s.Scan(cursor, 10)
		if err != nil {
			panic(err)
		}
		fmt.Println(len(ids), "ids")
		if cursor = next; cursor == 0 {
			break
		}
	}
	// Output:
	// 10 ids
	// 10 ids
	// 5 ids
}

// Everything goes at once, and memory and files with it.
func ExampleStore_Clear() {
	s := mustOpen()
	defer s.Close()
	for i := range 1000 {
		_ = s.Put(fmt.Sprintf("user:%d", i), make([]byte, 1000))
	}
	fmt.Println(s.Clear(), s.Len(), s.Stats().TotalBytes)
	// Output: <nil> 0 0
}
