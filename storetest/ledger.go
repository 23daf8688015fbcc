package storetest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync/atomic"
)

/*
What was written, and what may be read. The versions of an id count from 1, each is one write by the one goroutine
that owns the id, and every fourth is a deletion. A content says which version it is and is the only one that this
version of this id has, so that one look at it tells wrong bytes, those of another id, and old ones.
*/

// sizes bound contents, in bytes: the least is at least 8, and the most 700 more.
type sizes struct{ least, most int }

// content returns the bytes of a version. Most are short.
func content(id string, version uint64, z sizes) []byte {
	h := hash(id) + version*0x9e3779b97f4a7c15
	size := z.least + int(h>>8%300)
	switch h >> 48 & 63 {
	case 0:
		size = z.least + int(h>>8%uint64(z.most-z.least+1))
	case 1, 2, 3, 4:
		size = z.least + int(h>>8%uint64(min(z.most, 4096+z.least)-z.least+1))
	}
	b := make([]byte, size)
	binary.BigEndian.PutUint64(b, version)
	for i := 8; i < size; i++ {
		h = h*6364136223846793005 + 1442695040888963407
		b[i] = byte(h >> 56)
	}
	return b
}

// versionOf returns the version that a content is of, if it is one of id to the last byte.
func versionOf(id string, got []byte, z sizes) (uint64, error) {
	if len(got) < 8 {
		return 0, fmt.Errorf("wrong bytes: %d of them, which no version has", len(got))
	}
	version := binary.BigEndian.Uint64(got)
	if len(got) < z.least || len(got) > max(z.most, z.least+4096) {
		return 0, fmt.Errorf("wrong bytes: %d of them, which no version has", len(got))
	}
	want := content(id, version, z)
	if len(got) != len(want) {
		return 0, fmt.Errorf("wrong bytes: %d of them, and no version of that length begins so", len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			return 0, fmt.Errorf("wrong bytes: from %d on they are not those of version %d", i, version)
		}
	}
	return version, nil
}

func hash(id string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	return h.Sum64()
}

func isDeletion(version uint64) bool { return version%4 == 0 }

// ledger has what was written of a number of ids.
type ledger struct {
	ids   []string
	sizes sizes
	lossy bool // memories may be missing
	of    []entry
}

// entry is the state of one id. The owner alone writes to it.
type entry struct {
	acked   atomic.Uint64 // the last version that was acknowledged; 0 means that the id is absent
	started atomic.Uint64 // the last version that a write was begun for
	// from is the first version that may follow acked. Those between were begun before a kill that they did not
	// survive, and must not show up later.
	from atomic.Uint64
}

func (e *env) newLedger(ids int) *ledger {
	l := &ledger{sizes: sizes{8, e.MaxContentLen}, lossy: e.Evicts, of: make([]entry, ids)}
	for i := range ids {
		l.ids = append(l.ids, fmt.Sprintf("memory/%06d", i))
		l.of[i].from.Store(1)
	}
	return l
}

// saved is a ledger in a file, for another process.
type saved struct{ Acked, Started, From []uint64 }

func (l *ledger) save(path string) error {
	var all saved
	for i := range l.of {
		all.Acked = append(all.Acked, l.of[i].acked.Load())
		all.Started = append(all.Started, l.of[i].started.Load())
		all.From = append(all.From, l.of[i].from.Load())
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// load reads what save of an equally long ledger has written.
func (l *ledger) load(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var all saved
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for i := range l.of {
		l.of[i].acked.Store(all.Acked[i])
		l.of[i].started.Store(all.Started[i])
		l.of[i].from.Store(all.From[i])
	}
	return nil
}

// next begins a write of id i, and returns its version.
func (l *ledger) next(i int) uint64 { return l.of[i].started.Add(1) }

// write makes the next write of id i. REQUIRES: the caller owns i.
func (l *ledger) write(st Store, i int) error {
	version := l.next(i)
	if err := l.apply(st, i, version); err != nil {
		return err
	}
	l.of[i].acked.Store(version)
	return nil
}

func (l *ledger) apply(st Store, i int, version uint64) error {
	if isDeletion(version) {
		if err := st.Delete(l.ids[i]); err != nil {
			return fmt.Errorf("delete %q: %w", l.ids[i], err)
		}
		return nil
	}
	if err := st.Put(l.ids[i], content(l.ids[i], version, l.sizes)); err != nil {
		return fmt.Errorf("put %q: %w", l.ids[i], err)
	}
	return nil
}

// read gets id i and says whether what came back may be. It returns the version, 0 for none.
func (l *ledger) read(st Store, i int) (uint64, error) {
	acked := l.of[i].acked.Load()
	got, found, err := st.Get(l.ids[i])
	if err != nil {
		return 0, fmt.Errorf("get %q: %w", l.ids[i], err)
	}
	return l.judge(i, acked, got, found)
}

// judge says whether an answer may be of a call before which acked was the last version.
func (l *ledger) judge(i int, acked uint64, got []byte, found bool) (uint64, error) {
	of, id := &l.of[i], l.ids[i]
	started := of.started.Load()
	if !found {
		return 0, l.absent(i, acked, started)
	}
	version, err := versionOf(id, got, l.sizes)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q, of which version %d was acknowledged: %w", id, acked, err)
	case version < acked && isDeletion(acked):
		return 0, fmt.Errorf("%q was deleted as version %d, and version %d is back", id, acked, version)
	case version < acked:
		return 0, fmt.Errorf("%q has the old version %d, and version %d was acknowledged", id, version, acked)
	case version > acked && version < of.from.Load(), version > started, isDeletion(version):
		return 0, fmt.Errorf("%q has version %d, which was not there before, and is not being written: %d to %d may be",
			id, version, acked, started)
	}
	return version, nil
}

// absent says whether id i may be missing: if it had none, or was deleted since.
func (l *ledger) absent(i int, acked, started uint64) error {
	if l.lossy || isDeletion(acked) {
		return nil
	}
	for v := max(acked+1, l.of[i].from.Load()); v <= started; v++ {
		if isDeletion(v) {
			return nil
		}
	}
	return fmt.Errorf("%q is lost: version %d was acknowledged, and there is none", l.ids[i], acked)
}

// settle takes what is there as what is acknowledged; version 0 is nothing. REQUIRES: nobody writes.
func (l *ledger) settle(i int, version uint64) {
	of := &l.of[i]
	started := of.started.Load()
	if version == 0 {
		version = of.acked.Load()
		if !l.lossy && !isDeletion(version) {
			version = started &^ 3 // the deletion that was under way
		}
	}
	of.acked.Store(version)
	of.from.Store(started + 1)
}

// check reads all ids, and in a store that iterates all memories. REQUIRES: nobody writes.
func (l *ledger) check(st Store) error {
	for i := range l.ids {
		version, err := l.read(st, i)
		if err != nil {
			return err
		}
		l.settle(i, version)
	}
	sc, ok := st.(Scanner)
	if !ok {
		return nil
	}
	at := make(map[string]int, len(l.ids))
	for i, id := range l.ids {
		at[id] = i
	}
	var bad error
	err := sc.Scan(func(id string, got []byte) bool {
		i, ok := at[id]
		if !ok {
			return true // another ledger's
		}
		_, bad = l.judge(i, l.of[i].acked.Load(), got, true)
		return bad == nil
	})
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	if bad != nil {
		return fmt.Errorf("scan: %w", bad)
	}
	return nil
}

// fill makes count writes of each id.
func (l *ledger) fill(st Store, count int) error {
	for range count {
		for i := range l.ids {
			if err := l.write(st, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// writer returns a function that writes ids i, i+step, and so on at random until it is stopped, and at least atLeast
// times.
func (l *ledger) writer(st Store, seed uint64, i, step, atLeast int) func(stop <-chan struct{}) error {
	return func(stop <-chan struct{}) error {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		own := (len(l.ids) - i + step - 1) / step
		for n := 0; n < atLeast || !done(stop); n++ {
			if err := l.write(st, i+step*rng.IntN(own)); err != nil {
				return err
			}
		}
		return nil
	}
}

// reader returns a function that reads ids at random until it is stopped. What one reader has seen of an id it must
// not see undone.
func (l *ledger) reader(st Store, seed uint64) func(stop <-chan struct{}) error {
	return func(stop <-chan struct{}) error {
		rng := rand.New(rand.NewPCG(seed, 1<<32))
		seen := make([]uint64, len(l.ids))
		for n := 0; n < 100 || !done(stop); n++ {
			i := rng.IntN(len(l.ids))
			version, err := l.read(st, i)
			if err != nil {
				return err
			}
			if version != 0 && version < seen[i] {
				return fmt.Errorf("%q has the old version %d, and version %d was read before by the same goroutine",
					l.ids[i], version, seen[i])
			}
			seen[i] = max(seen[i], version)
		}
		return nil
	}
}
