package warmtier_test

import (
	"context"
	"fmt"
	"log"

	"github.com/warmtier/warmtier"
)

// A cache in front of something slow: what nobody reads makes room for what is asked for.
func ExampleEvict() {
	store, err := warmtier.Open("", &warmtier.Options{MaxBytes: 4 << 20, WhenFull: warmtier.Evict})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()

	loads := 0
	page := func(n int) []byte {
		content, err := store.GetOrLoad(context.Background(), fmt.Sprintf("page/%d", n),
			func(context.Context) ([]byte, error) {
				loads++ // a query, or a page that takes long to make
				return make([]byte, 10_000), nil
			})
		if err != nil {
			log.Fatal(err)
		}
		return content
	}
	for n := range 2000 { // five times as much as there is room for
		page(n)
		page(0)
	}
	st := store.Stats()
	fmt.Println(loads, "loads, within the bound:", st.MappedBytes <= st.MaxBytes)
	fmt.Println("some are gone:", st.Drops.Evicted > 1000)
	// Output:
	// 2000 loads, within the bound: true
	// some are gone: true
}
