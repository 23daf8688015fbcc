package warmtier_test

import (
	"context"
	"encoding/binary"
	"errors"
	"expvar"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warmtier/warmtier"
)

func Example() {
	s, err := warmtier.Open("", nil)
	if err != nil {
		panic(err)
	}
	defer s.Close()

	if err := s.Put("user:42", []byte("likes tea")); err != nil {
		panic(err)
	}
	content, err := s.Get("user:42")
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", content)
	// Output: likes tea
}

// mustOpen opens a store with small segments for short examples; a program handles the error.
func mustOpen() *warmtier.Store {
	s, err := warmtier.Open("", &warmtier.Options{SegmentSize: 1 << 20})
	if err != nil {
		panic(err)
	}
	return s
}

func ExampleOpen() {
	s, err := warmtier.Open("", &warmtier.Options{
		SegmentSize: 8 << 20, // 8 MiB
		Compaction:  warmtier.CompactionOptions{Workers: 2},
		Maintenance: warmtier.MaintenanceOptions{
			Interval:               10 * time.Second,
			FragmentationThreshold: 0.3,
		},
	})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	fmt.Println(s.Len(), "memories")

	_, err = warmtier.Open("", &warmtier.Options{SegmentSize: -1})
	fmt.Println(errors.Is(err, warmtier.ErrInvalidOptions))
	// Output:
	// 0 memories
	// true
}

// A budget bounds everything that the store maps. What is dead makes room by itself; when the rest does
// not suffice, a write is refused and changes nothing.
func ExampleOptions_maxBytes() {
	s, err := warmtier.Open("", &warmtier.Options{MaxBytes: 8 << 20})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	content := make([]byte, 1000)
	for range 20_000 { // 20 MB, of which little is live
		if err := s.Put("counter", content); err != nil {
			panic(err)
		}
	}
	for n := 0; err == nil; n++ {
		err = s.Put(fmt.Sprint("memory ", n), content)
	}
	fmt.Println(errors.Is(err, warmtier.ErrNoSpace))

	st := s.Stats()
	fmt.Println(st.MappedBytes+st.SegmentDetails.SpareBytes <= st.MaxBytes)

	for n := range 1000 {
		if _, err := s.Delete(fmt.Sprint("memory ", n)); err != nil {
			panic(err)
		}
	}
	fmt.Println(s.Put("one more", content)) // may wait for a compaction
	// Output:
	// true
	// true
	// <nil>
}

func ExampleStore_Put() {
	s := mustOpen()
	defer s.Close()

	content := []byte("first version")
	if err := s.Put("note", content); err != nil {
		panic(err)
	}
	clear(content) // the store keeps nothing of what it was given

	got, _ := s.Get("note")
	fmt.Printf("%s\n", got)

	_ = s.Put("note", []byte("second version"))
	got, _ = s.Get("note")
	fmt.Printf("%s\n", got)

	fmt.Println(errors.Is(s.Put("", nil), warmtier.ErrInvalidID))
	// Output:
	// first version
	// second version
	// true
}

func ExampleStore_Get() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("greeting", []byte("hello"))

	content, err := s.Get("greeting")
	fmt.Printf("%s %v\n", content, err)

	_, err = s.Get("absent")
	fmt.Println(errors.Is(err, warmtier.ErrNotFound))
	// Output:
	// hello <nil>
	// true
}

func ExampleStore_AppendContent() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("a", []byte("one"))
	_ = s.Put("b", []byte("two"))

	buf := make([]byte, 0, 4096) // used for many memories: no allocation
	for _, id := range []string{"a", "b"} {
		var err error
		buf, err = s.AppendContent(buf[:0], id)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %s\n", id, buf)
	}
	// Output:
	// a: one
	// b: two
}

func ExampleStore_View() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("numbers", []byte{1, 2, 3, 4})

	sum := 0
	err := s.View("numbers", func(content []byte) error {
		for _, b := range content { // no copy was made; content is valid in here only
			sum += int(b)
		}
		return nil
	})
	fmt.Println(sum, err)
	// Output: 10 <nil>
}

func ExampleStore_Has() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("here", nil) // a memory may be empty

	fmt.Println(s.Has("here"), s.Has("elsewhere"))
	// Output: true false
}

func ExampleStore_Delete() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("session", []byte("..."))

	for range 2 {
		existed, err := s.Delete("session")
		fmt.Println(existed, err)
	}
	// Output:
	// true <nil>
	// false <nil>
}

func ExampleStore_Len() {
	s := mustOpen()
	defer s.Close()
	for i := range 3 {
		_ = s.Put(fmt.Sprint("memory ", i), nil)
	}
	fmt.Println(s.Len())
	// Output: 3
}

func ExampleStore_All() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("cat", []byte("meow"))
	_ = s.Put("dog", []byte("woof"))
	_ = s.Put("fish", nil)

	var lines []string
	for id, content := range s.All() {
		if len(content) == 0 {
			_, _ = s.Delete(id) // the loop may write to the store
			continue
		}
		lines = append(lines, fmt.Sprintf("%s says %s", id, content))
	}
	slices.Sort(lines) // All has no order
	for _, line := range lines {
		fmt.Println(line)
	}
	fmt.Println(s.Len(), "left")
	// Output:
	// cat says meow
	// dog says woof
	// 2 left
}

func ExampleStore_Compact() {
	s := mustOpen()
	defer s.Close()
	for i := range 100 {
		_ = s.Put(fmt.Sprint("memory ", i), make([]byte, 1000))
	}
	for i := range 75 {
		_, _ = s.Delete(fmt.Sprint("memory ", i))
	}

	// A compaction runs beside reads and writes, and stops when its context is cancelled.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stats, err := s.Compact(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println("moved", stats.MemoriesMoved, "memories")
	fmt.Printf("fragmentation %.2f -> %.2f\n", stats.FragmentationBefore, stats.FragmentationAfter)
	// Output:
	// moved 25 memories
	// fragmentation 0.75 -> 0.00
}

func ExampleStore_Maintain() {
	s, err := warmtier.Open("", &warmtier.Options{
		SegmentSize: 1 << 20,
		// No background cycle: the program says when.
		Maintenance: warmtier.MaintenanceOptions{Disabled: true, FragmentationThreshold: 0.4, MinBytes: 1000},
	})
	if err != nil {
		panic(err)
	}
	defer s.Close()
	for i := range 10 {
		_ = s.Put(fmt.Sprint("memory ", i), make([]byte, 1000))
	}

	for _, id := range []string{"memory 0", "memory 1", "memory 2", "memory 3"} {
		_, _ = s.Delete(id)
		report, err := s.Maintain(context.Background())
		if err != nil {
			panic(err)
		}
		fmt.Printf("%.1f compacted: %v %s\n", report.FragmentationRatio, report.Compacted, report.Skipped)
	}
	// Output:
	// 0.1 compacted: false threshold
	// 0.2 compacted: false threshold
	// 0.3 compacted: false threshold
	// 0.4 compacted: true
}

func ExampleStore_Stats() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("a", make([]byte, 995)) // with header, id and padding: 1024 bytes
	_ = s.Put("b", make([]byte, 995))
	_, _ = s.Delete("a")

	st := s.Stats()
	fmt.Println(st.Memories, "memory,", st.LiveBytes, "live bytes,", st.DeadBytes, "dead bytes")
	fmt.Println("fragmentation ratio", st.FragmentationRatio)
	// Output:
	// 1 memory, 1024 live bytes, 1024 dead bytes
	// fragmentation ratio 0.5
}

func ExampleStore_Verify() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("a", []byte("content"))
	_ = s.Put("a", []byte("newer content"))

	report, err := s.Verify(context.Background())
	fmt.Println(report.Records, "records,", report.Memories, "memory,", len(report.Findings), "findings,", err)
	// Output: 2 records, 1 memory, 0 findings, <nil>
}

func ExampleStore_Sync() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("a", []byte("content"))

	fmt.Println(s.Sync()) // in a memory store there is nothing to do
	// Output: <nil>
}

func ExampleStore_Close() {
	s := mustOpen()
	_ = s.Put("a", []byte("content"))

	fmt.Println(s.Close())
	_, err := s.Get("a")
	fmt.Println(errors.Is(err, warmtier.ErrClosed))
	fmt.Println(s.Close()) // again, to no effect
	// Output:
	// <nil>
	// true
	// <nil>
}

func ExampleStore_GetOrLoad() {
	s, _ := warmtier.Open("", nil)
	defer s.Close()
	load := func(context.Context) ([]byte, error) {
		fmt.Println("loading")
		return []byte("likes tea"), nil
	}
	for range 2 {
		content, err := s.GetOrLoad(context.Background(), "user:42", load)
		fmt.Printf("%s %v\n", content, err)
	}
	// Output:
	// loading
	// likes tea <nil>
	// likes tea <nil>
}

func ExampleStore_PutIf() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("config", []byte("a"))
	_, seen, _ := s.GetVersion("config")
	_ = s.Put("config", []byte("b")) // somebody else
	now, err := s.PutIf("config", []byte("c"), seen)
	fmt.Println(errors.Is(err, warmtier.ErrChanged), now > seen)

	_, err = s.PutIf("new", []byte("first"), 0) // only if it is absent
	fmt.Println(err)
	// Output:
	// true true
	// <nil>
}

func ExampleStore_GetVersion() {
	s := mustOpen()
	defer s.Close()
	_, absent, err := s.GetVersion("a")
	fmt.Println(absent, errors.Is(err, warmtier.ErrNotFound))

	_ = s.Put("a", []byte("content"))
	_, first, _ := s.GetVersion("a")
	_ = s.Put("a", []byte("content"))
	content, second, _ := s.GetVersion("a")
	fmt.Println(string(content), second > first)
	// Output:
	// 0 true
	// content true
}

// A counter that several goroutines count on.
func ExampleStore_Update() {
	s := mustOpen()
	defer s.Close()
	count := func(content []byte, exists bool) ([]byte, error) {
		if !exists {
			content = make([]byte, 8)
		}
		binary.LittleEndian.PutUint64(content, binary.LittleEndian.Uint64(content)+1)
		return content, nil
	}
	var visits sync.WaitGroup
	for range 10 {
		visits.Go(func() { _ = s.Update("visits", count) })
	}
	visits.Wait()
	content, _ := s.Get("visits")
	fmt.Println(binary.LittleEndian.Uint64(content))
	// Output: 10
}

func ExampleStore_FS() {
	s, _ := warmtier.Open("", nil)
	defer s.Close()
	_ = s.Put("notes/today", []byte("buy tea"))
	entries, _ := fs.ReadDir(s.FS(), ".")
	for _, e := range entries {
		content, _ := fs.ReadFile(s.FS(), e.Name())
		fmt.Printf("%s: %s\n", e.Name(), content)
	}
	// Output: notes%2Ftoday: buy tea
}

func ExampleStore_GetMany() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("a", []byte("one"))
	_ = s.Put("c", []byte("three"))

	ids := []string{"a", "b", "c"}
	err := s.GetMany(ids, func(i int, content []byte, err error) {
		if errors.Is(err, warmtier.ErrNotFound) {
			fmt.Println(ids[i], "is not there")
			return
		}
		fmt.Printf("%s: %s\n", ids[i], content) // content is valid in here only
	})
	fmt.Println(err)
	// Output:
	// a: one
	// b is not there
	// c: three
	// <nil>
}

func ExampleStore_Segments() {
	s := mustOpen()
	defer s.Close()
	_ = s.Put("a", make([]byte, 995)) // with header, id and padding: 1024 bytes
	_ = s.Put("a", make([]byte, 995))

	for _, seg := range s.Segments() {
		if seg.TotalBytes > 0 {
			fmt.Println(seg.State, seg.LiveBytes, "live bytes,", seg.DeadBytes, "dead bytes")
		}
	}
	// Output: active 1024 live bytes, 1024 dead bytes
}

// A store that another process may hold is waited for, as long as the context lasts.
func ExampleOpenWait() {
	dir, err := os.MkdirTemp("", "warmtier-example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	first, err := warmtier.Open(dir, nil)
	if err != nil {
		panic(err)
	}
	_, err = warmtier.Open(dir, nil)
	fmt.Println(errors.Is(err, warmtier.ErrLocked))

	time.AfterFunc(10*time.Millisecond, func() { _ = first.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	second, err := warmtier.OpenWait(ctx, dir, nil)
	fmt.Println(err)
	_ = second.Close()
	// Output:
	// true
	// <nil>
}

// Several stores on one page, told apart by the label store.
func ExampleWritePrometheus() {
	sessions, users := mustOpen(), mustOpen()
	defer sessions.Close()
	defer users.Close()
	_ = users.Put("user:42", []byte("likes tea"))

	var page strings.Builder
	err := warmtier.WritePrometheus(&page, map[string]warmtier.Stats{"sessions": sessions.Stats(), "users": users.Stats()})
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(page.String()) {
		if strings.HasPrefix(line, "warmtier_memories{") {
			fmt.Print(line)
		}
	}
	// Output:
	// warmtier_memories{store="sessions"} 0
	// warmtier_memories{store="users"} 1
}

func ExampleStore_Space() {
	s := mustOpen()
	defer s.Close()
	space := s.Space()
	fmt.Println(space.Memory != 0, space.Disk < 0) // of a memory store there is no disk
	// Output: true true
}

func ExampleStats_WritePrometheus() {
	s, _ := warmtier.Open("", nil)
	defer s.Close()
	_ = s.Put("user:42", []byte("likes tea"))
	http.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = s.Stats().WritePrometheus(w)
	})
	// expvar wants no more than this, once for each store:
	expvar.Publish("warmtier", expvar.Func(func() any { return s.Stats() }))
	fmt.Println(strings.Contains(expvar.Get("warmtier").String(), `"memories":1,`))
	// Output: true
}
