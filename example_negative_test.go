package warmtier_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/warmtier/warmtier"
)

var errNoUser = errors.New("no such user")

// remembering is a cache before a slow source that also remembers what the source does not have. Its memories
// begin with 8 bytes: 0, or the time in nanoseconds until which the id counts as absent.
type remembering struct {
	store  *warmtier.Store
	absent time.Duration // how long to believe that there is nothing
	now    func() time.Time
	load   func(ctx context.Context, id string) ([]byte, error) // errNoUser: there is none
}

func (r *remembering) get(ctx context.Context, id string) ([]byte, error) {
	for {
		content, err := r.store.GetOrLoad(ctx, id, func(ctx context.Context) ([]byte, error) {
			content, err := r.load(ctx, id)
			if errors.Is(err, errNoUser) {
				return binary.BigEndian.AppendUint64(nil, uint64(r.now().Add(r.absent).UnixNano())), nil
			}
			return append(make([]byte, 8), content...), err
		})
		if content == nil {
			return nil, err // a source that fails is not remembered
		}
		// Content beside an error was loaded and could not be stored. It is as good as any.
		until := int64(binary.BigEndian.Uint64(content))
		switch {
		case until == 0:
			return content[8:], nil
		case err != nil || r.now().UnixNano() < until:
			return nil, errNoUser
		}
		// Two callers may both come here, and one delete what the other has just loaded: one load too many.
		if _, err := r.store.Delete(id); err != nil {
			return nil, err
		}
	}
}

// Nothing is stored when a load returns an error, so the next caller asks the source again. What the source
// does not have is worth a memory as well, for a while.
func Example_negative() {
	s, _ := warmtier.Open("", nil)
	defer s.Close()
	now := time.Unix(1_000_000, 0)
	users, asked := map[string]string{"user:1": "Ada"}, 0
	r := &remembering{
		store: s, absent: time.Minute, now: func() time.Time { return now },
		load: func(_ context.Context, id string) ([]byte, error) {
			asked++
			if name, ok := users[id]; ok {
				return []byte(name), nil
			}
			return nil, errNoUser
		},
	}
	show := func(id string) {
		content, err := r.get(context.Background(), id)
		fmt.Printf("%q %v, asked %d times\n", content, err, asked)
	}
	show("user:1")
	show("user:2")
	show("user:2") // remembered
	users["user:2"] = "Grace"
	now = now.Add(time.Hour)
	show("user:2")
	// Output:
	// "Ada" <nil>, asked 1 times
	// "" no such user, asked 2 times
	// "" no such user, asked 2 times
	// "Grace" <nil>, asked 3 times
}
