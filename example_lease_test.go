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
//
// A lease may end while its owner still works, who is the last to know. So what it writes asks for the lock as well, in
// the same batch: after the end of the lease it is refused. Other systems can do the same with the version as a fencing
// token, since each owner gets a higher one than all before.
func Example_lease() {
	s, err := warmtier.Open("", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	acquire := func(owner string) (held warmtier.Version, ok bool) { // owner is a name that nobody else has
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
	write := func(held warmtier.Version, report string) (ok bool) {
		var b warmtier.Batch
		b.Check("lock", held)
		b.Put("report", []byte(report))
		return s.Apply(&b) == nil
	}
	release := func(held warmtier.Version) (ok bool) {
		var b warmtier.Batch
		b.Check("lock", held)
		b.Delete("lock")
		return s.Apply(&b) == nil
	}

	first, ok := acquire("worker 1")
	fmt.Println("worker 1 has it:", ok)
	_, ok = acquire("worker 2")
	fmt.Println("worker 2 has it:", ok)
	fmt.Println("worker 1 writes:", write(first, "one half"))

	_, _ = s.Delete("lock") // as if the minute were over
	second, ok := acquire("worker 2")
	fmt.Println("worker 2 has it:", ok, second > first)
	fmt.Println("worker 1 writes:", write(first, "the other half"))
	fmt.Println("worker 2 writes:", write(second, "all"))
	fmt.Println("released:", release(first), release(second), release(second))
	// Output:
	// worker 1 has it: true
	// worker 2 has it: false
	// worker 1 writes: true
	// worker 2 has it: true true
	// worker 1 writes: false
	// worker 2 writes: true
	// released: false true false
}
