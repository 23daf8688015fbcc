package warmtier_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/warmtier/warmtier"
)

// sessions are known by a secret token until they end: by themselves after some time, or when the user leaves.
type sessions struct {
	store *warmtier.Store
	life  time.Duration
}

func (s sessions) begin(user string) (token string, err error) {
	token = rand.Text()
	return token, s.store.PutTTL(token, []byte(user), s.life)
}

// user returns [warmtier.ErrNotFound] for a session that has ended.
func (s sessions) user(token string) (string, error) {
	user, err := s.store.Get(token)
	return string(user), err
}

func (s sessions) end(token string) error {
	_, err := s.store.Delete(token)
	return err
}

// A session store. Compactions give back the bytes of sessions that have ended.
func ExampleStore_PutTTL() {
	store := mustOpen()
	defer store.Close()
	s := sessions{store: store, life: time.Hour}
	token, err := s.begin("ada")
	fmt.Println(err)
	fmt.Println(s.user(token))

	_ = s.end(token)
	_, err = s.user(token)
	fmt.Println(errors.Is(err, warmtier.ErrNotFound))

	fmt.Println(errors.Is(store.PutTTL("a", nil, 0), warmtier.ErrInvalidTTL))
	// Output:
	// <nil>
	// ada <nil>
	// true
	// true
}

// What is looked up may change: it is fetched again after a minute, and what is not there after a second.
func ExampleStore_GetOrLoadTTL() {
	store := mustOpen()
	defer store.Close()
	address := func(host string) ([]byte, error) {
		return store.GetOrLoadTTL(context.Background(), host, func(context.Context) ([]byte, time.Duration, error) {
			fmt.Println("looking up", host)
			if host == "nowhere" {
				return nil, time.Second, nil
			}
			return []byte("192.0.2.1"), time.Minute, nil
		})
	}
	for _, host := range []string{"example.org", "example.org", "nowhere", "nowhere"} {
		at, err := address(host)
		fmt.Printf("%s %q %v\n", host, at, err)
	}
	// Output:
	// looking up example.org
	// example.org "192.0.2.1" <nil>
	// example.org "192.0.2.1" <nil>
	// looking up nowhere
	// nowhere "" <nil>
	// nowhere "" <nil>
}

func ExampleStore_Expiry() {
	store := mustOpen()
	defer store.Close()
	_ = store.PutTTL("session", nil, time.Minute)
	_ = store.Put("user", nil)

	at, err := store.Expiry("session")
	fmt.Println(time.Until(at) > 50*time.Second, err)
	at, err = store.Expiry("user") // never
	fmt.Println(at.IsZero(), err)
	// Output:
	// true <nil>
	// true <nil>
}
