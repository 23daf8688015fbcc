package warmtier_test

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/warmtier/warmtier"
)

// A transfer between two accounts, which others may be changing.
func ExampleStore_Apply() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("alice", []byte("100"))
	_ = s.Put("bob", []byte("20"))

	balance := func(id string) (int, warmtier.Version) {
		content, v, err := s.GetVersion(id)
		if err != nil {
			panic(err)
		}
		n, _ := strconv.Atoi(string(content))
		return n, v
	}
	transfer := func(from, to string, amount int) error {
		for {
			source, sourceVersion := balance(from)
			target, targetVersion := balance(to)
			if source < amount {
				return fmt.Errorf("%s has %d", from, source)
			}
			var b warmtier.Batch
			b.Check(from, sourceVersion)
			b.Check(to, targetVersion)
			b.Put(from, []byte(strconv.Itoa(source-amount)))
			b.Put(to, []byte(strconv.Itoa(target+amount)))
			if err := s.Apply(&b); !errors.Is(err, warmtier.ErrChanged) {
				return err
			}
		}
	}
	fmt.Println(transfer("alice", "bob", 70))
	fmt.Println(transfer("alice", "bob", 70))
	alice, _ := balance("alice")
	bob, _ := balance("bob")
	fmt.Println(alice, bob)
	// Output:
	// <nil>
	// alice has 30
	// 30 90
}

// A batch is for many writes, too: it costs less than as many Puts.
func ExampleBatch() {
	s := mustOpen()
	defer s.Close()
	var b warmtier.Batch
	for i := range 2500 {
		b.Put(fmt.Sprint("id ", i), []byte("content"))
		if b.Len() == 1000 {
			if err := s.Apply(&b); err != nil {
				panic(err)
			}
			b.Reset()
		}
	}
	if err := s.Apply(&b); err != nil {
		panic(err)
	}
	fmt.Println(s.Len())
	// Output:
	// 2500
}
