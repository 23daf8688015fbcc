package warmtier_test

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

	"github.com/warmtier/warmtier"
)

// typed is a store of values of one type, by a codec.
type typed[T any] struct {
	store  *warmtier.Store
	append func(content []byte, v T) ([]byte, error)
	decode func(content []byte) (T, error) // keeps nothing of content
}

// typedJSON stores values as JSON, which any tool reads.
func typedJSON[T any](s *warmtier.Store) typed[T] {
	return typed[T]{
		store: s,
		append: func(content []byte, v T) ([]byte, error) {
			text, err := json.Marshal(v)
			return append(content, text...), err
		},
		decode: func(content []byte) (v T, err error) {
			err = json.Unmarshal(content, &v) // copies every string out of content
			return v, err
		},
	}
}

// typedBinary stores values as their own methods encode them: smaller, and several times faster than JSON.
func typedBinary[T any, P interface {
	*T
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}](s *warmtier.Store) typed[T] {
	return typed[T]{
		store:  s,
		append: func(content []byte, v T) ([]byte, error) { return P(&v).AppendBinary(content) },
		decode: func(content []byte) (v T, err error) {
			err = P(&v).UnmarshalBinary(content)
			return v, err
		},
	}
}

func (t typed[T]) put(id string, v T) error {
	content, err := t.append(nil, v)
	if err != nil {
		return err
	}
	return t.store.Put(id, content)
}

// get decodes where the content lies: View copies nothing, and its bytes are valid until decode returns.
func (t typed[T]) get(id string) (v T, err error) {
	err = t.store.View(id, func(content []byte) (err error) {
		v, err = t.decode(content)
		return err
	})
	return v, err
}

// all yields every value; one that cannot be decoded ends the iteration.
func (t typed[T]) all(failed *error) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for id, content := range t.store.All() {
			v, err := t.decode(content)
			if err != nil {
				*failed = fmt.Errorf("%s: %w", id, err)
				return
			}
			if !yield(id, v) {
				return
			}
		}
	}
}

// point is a value with a binary form of its own.
type point struct{ X, Y int64 }

func (p *point) AppendBinary(b []byte) ([]byte, error) {
	return binary.AppendVarint(binary.AppendVarint(b, p.X), p.Y), nil
}

func (p *point) UnmarshalBinary(b []byte) error {
	x, n := binary.Varint(b)
	if n <= 0 {
		return errors.New("point: x is cut short")
	}
	y, m := binary.Varint(b[n:])
	if m <= 0 || n+m != len(b) {
		return errors.New("point: y is cut short, or not the end")
	}
	p.X, p.Y = x, y
	return nil
}

// A store of values of one type is a store, a codec, and three short methods. One store holds several types
// when the ids say which.
func Example_typed() {
	s, _ := warmtier.Open("", nil)
	defer s.Close()

	type user struct {
		Name  string `json:"name"`
		Drink string `json:"drink"`
	}
	users := typedJSON[user](s)
	_ = users.put("user:42", user{Name: "Ada", Drink: "tea"})
	ada, err := users.get("user:42")
	fmt.Println(ada.Name, ada.Drink, err)

	points := typedBinary[point](s)
	_ = points.put("point:1", point{X: 3, Y: -4})
	p, err := points.get("point:1")
	fmt.Println(p, err)

	_, err = points.get("user:42")
	fmt.Println(err) // what the codec says; View passes it on
	_, err = users.get("user:43")
	fmt.Println(errors.Is(err, warmtier.ErrNotFound))

	_, _ = s.Delete("user:42")
	for id, p := range points.all(&err) {
		fmt.Println(id, p.X)
	}
	// Output:
	// Ada tea <nil>
	// {3 -4} <nil>
	// point: y is cut short, or not the end
	// true
	// point:1 3
}
