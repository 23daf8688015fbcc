package warmtier_test

import (
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/warmtier/warmtier"
)

// A lock with a lease, among the goroutines of a program: who has it holds a memory that expires. It is taken by a
// batch that asks for its absence, and given back by one that asks for the version that was taken, so nobody gives
// back what another one has got since.
func Example_lease() {
	s, err := warmtier.Open("", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	acquire := func(owner string) (held warmtier.Version, ok bool) {
		var b warmtier.Batch
		b.Check("lock", 0)
		b.PutTTL("lock", []byte(owner), time.Minute)
		err := s.Apply(&b)
		if errors.Is(err, warmtier.ErrChanged) {
			return 0, false
		}
		if err != nil {
			log.Fatal(err)
		}
		content, held, err := s.GetVersion("lock") // another owner's, if the lease is over already
		return held, err == nil && string(content) == owner
	}
	release := func(held warmtier.Version) (ok bool) {
		var b warmtier.Batch
		b.Check("lock", held)
		b.Delete("lock")
		return s.Apply(&b) == nil
	}

	held, ok := acquire("worker 1")
	fmt.Println("worker 1:", ok)
	_, ok = acquire("worker 2")
	fmt.Println("worker 2:", ok)
	fmt.Println("released:", release(held), release(held))
	_, ok = acquire("worker 2")
	fmt.Println("worker 2:", ok)
	// Output:
	// worker 1: true
	// worker 2: false
	// released: true false
	// worker 2: true
}
