package warmtier_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/warmtier/warmtier"
)

// refreshing is a cache before a slow source whose callers wait for the first load of an id alone: what is older
// than age is returned as it is, and loaded again beside. Its memories begin with the time they were loaded.
type refreshing struct {
	store *warmtier.Store
	age   time.Duration
	now   func() time.Time
	load  func(ctx context.Context, id string) ([]byte, error)

	mu      sync.Mutex
	loading map[string]int // refreshes under way, by number
	begun   int
	running sync.WaitGroup
}

func (r *refreshing) get(ctx context.Context, id string) ([]byte, error) {
	content, err := r.store.GetOrLoad(ctx, id, func(ctx context.Context) ([]byte, error) { return r.stamped(ctx, id) })
	if content == nil {
		return nil, err
	}
	// Content beside an error was loaded and could not be stored. It is as good as any.
	if loaded := time.Unix(0, int64(binary.BigEndian.Uint64(content))); r.now().Sub(loaded) > r.age {
		r.refresh(ctx, id)
	}
	return content[8:], nil
}

func (r *refreshing) stamped(ctx context.Context, id string) ([]byte, error) {
	at := r.now() // before the load, so that nothing looks newer than it is
	content, err := r.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())), content...), nil
}

// refresh loads id once more, unless that is under way. A caller that goes away does not end it.
func (r *refreshing) refresh(ctx context.Context, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loading[id] != 0 {
		return
	}
	r.begun++
	mine := r.begun
	r.loading[id] = mine
	r.running.Go(func() {
		content, err := r.stamped(context.WithoutCancel(ctx), id)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.loading[id] != mine {
			return // deleted while it was loaded
		}
		delete(r.loading, id)
		if err == nil {
			_ = r.store.Put(id, content) // the old one stays, and the next caller tries again
		}
	})
}

// remove deletes id for good: a refresh under way does not bring it back.
func (r *refreshing) remove(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.loading, id)
	_, err := r.store.Delete(id)
	return err
}

// Callers of GetOrLoad wait for a load that another has begun. Where an old content is better than a wait, it is
// returned at once and refreshed beside.
func Example_refreshAhead() {
	s, _ := warmtier.Open("", nil)
	defer s.Close()
	now, version, meanwhile := time.Unix(1_000_000, 0), 0, func() {}
	r := &refreshing{
		store: s, age: time.Minute, now: func() time.Time { return now }, loading: map[string]int{},
		load: func(context.Context, string) ([]byte, error) {
			version++
			meanwhile()
			return fmt.Appendf(nil, "version %d", version), nil
		},
	}
	show := func() {
		content, err := r.get(context.Background(), "prices")
		r.running.Wait() // only so that this example prints the same each time
		fmt.Printf("%s %v\n", content, err)
	}
	show()
	now = now.Add(2 * time.Minute)
	show() // the old one, and version 2 is loaded beside
	show()
	now = now.Add(2 * time.Minute)
	meanwhile = func() { _ = r.remove("prices") } // while version 3 is loaded, which is not stored then
	show()
	meanwhile = func() {}
	show()
	// Output:
	// version 1 <nil>
	// version 1 <nil>
	// version 2 <nil>
	// version 2 <nil>
	// version 4 <nil>
}
