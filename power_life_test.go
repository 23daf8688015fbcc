//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warmtier/warmtier/internal/dir/shadow"
)

// fixedHash makes a run with one writer repeatable. It uses only four shards, of both lanes: each
// shard in use costs a mapping.
func fixedHash(id string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	h = (h ^ h>>32) * 0x9e3779b97f4a7c15
	return (h ^ h>>29) &^ (0xfc << (64 - shardBits))
}

// powerLife is a directory that is used, crashes, is recovered and used again.
type powerLife struct {
	rng     *rand.Rand // of the workload
	opts    *Options
	model   *powerModel
	d       *shadow.FS
	s       *Store
	writers int
	powerConfig
	opened *atomic.Int64
	hook   func(point)
	evicts bool

	mu      sync.Mutex // guards what follows: points are passed by every writer
	dice    *rand.Rand
	images  []powerImage
	points  map[point]int
	going   map[int]int // index of the version without a memory that a compaction has decided to evict
	evicted int
	rare    float64 // chance of a crash at a call or a rare point
	often   float64 // chance of a crash at a point that every record passes
}

const powerMemories = 48

// powerTime is the clock of all these stores. One memory in three expires in powerTTL, which does not pass; one
// deletion in three is a memory that expires, which is an absent one for every call from the next ms on.
var powerTime = newTestClock()

const powerTTL = 24 * time.Hour

// expires reports whether version v was stored with a time to live.
func (v powerVersion) expires() bool { return v.number%3 == 0 }

// powerConfig says how long lives are run, and what is done to them.
type powerConfig struct {
	wanted int64         // directories to be opened
	thin   int           // crashes at one in so many of the usual instants; 0: at all of them
	damage bool          // damage is sometimes done to what is durable, and must be seen
	sites  *shadow.Sites // nil: nothing left out
	each   func(*powerLife)
}

func newPowerLife(seed uint64, c powerConfig, opened *atomic.Int64) *powerLife {
	rng := rand.New(rand.NewPCG(seed, 1))
	opts := shadowOptions()
	opts.SyncWrites = rng.IntN(4) == 0
	opts.Compaction.MaxOverhead = []int64{0, minSegmentSize, -1}[rng.IntN(3)]
	opts.Maintenance.FragmentationThreshold = []float64{0.01, 0.3, 0.6}[rng.IntN(3)]
	opts.SegmentSize = []int{minSegmentSize, minSegmentSize, 4 * minSegmentSize}[rng.IntN(3)] // one size, or growing
	l := &powerLife{
		rng: rng, opts: opts, model: newPowerModel(powerMemories), d: newShadow(), opened: opened, powerConfig: c,
		writers: []int{1, 1, 1, 3}[rng.IntN(4)], dice: rand.New(rand.NewPCG(seed, 2)),
		points: map[point]int{}, going: map[int]int{}, rare: 0.12, often: 0.004,
	}
	if c.sites != nil {
		l.d.Sites = c.sites
	}
	l.evicts = l.writers == 1 // others would come between what the model is told of
	if c.thin > 0 {
		l.rare, l.often = l.rare/float64(c.thin), l.often/float64(c.thin)
	}
	return l
}

// crashed makes, with this chance, an image of the directory as it could be after a crash at this
// moment.
func (l *powerLife) crashed(when string, chance float64) {
	if l.d.Sites.Tempting() {
		chance = max(chance, 0.5)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dice.Float64() >= chance || len(l.images) >= 40 {
		return
	}
	l.images = append(l.images, l.takeLocked(when, l.dice.IntN(4) == 0))
}

// takeLocked makes an image. It must hold what was durable before, and may hold everything begun by
// the time it is made: other writers go on while it is. REQUIRES: l.mu held.
func (l *powerLife) takeLocked(when string, killed bool) powerImage {
	durable, acked := l.model.indexes(false), l.model.indexes(true)
	if killed {
		img := powerImage{d: l.d.Kill(), when: "killed " + when}
		img.allowed, img.power = l.model.since(acked), l.model.since(durable)
		return img
	}
	img := powerImage{d: l.d.Crash(shadow.RandomLoss(l.dice)), when: "power loss " + when}
	if l.dice.IntN(3) == 0 {
		img = powerImage{d: l.d.Remount(shadow.RandomLoss(l.dice)), when: "new mount " + when}
	}
	img.allowed = l.model.since(durable)
	return img
}

// reach is the hook of points.
func (l *powerLife) reach(p point) error {
	chance := l.rare
	if l.isOften(p) {
		chance = l.often
	}
	if l.hook != nil {
		l.hook(p)
	}
	l.crashed("at point "+string(p), chance)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.points[p]++
	return nil
}

// fate has compactions evict some of what they could copy. From here on the memory may be gone.
func (l *powerLife) fate(id string) fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.evicts || l.dice.IntN(8) > 0 {
		return fateCopied
	}
	i := numberOf(id)
	_, l.going[i] = l.model.begin(i, 0, true)
	return fateEvicted
}

// dropped is told what has left: an eviction is durable, whatever becomes of it later.
func (l *powerLife) dropped(d Drop) {
	if d.Reason == Evicted {
		l.mu.Lock()
		defer l.mu.Unlock()
		i := numberOf(d.ID)
		l.model.acknowledge(i, l.going[i], true)
		l.evicted++
	}
}

// isOften reports whether every record passes p.
func (l *powerLife) isOften(p point) bool {
	switch p {
	case pointPutBody, pointPutDrawn, pointPutAppended, pointCompactRecord, pointCompactFlip, pointDeleteAppended,
		pointApplyIndexed:
		return true
	}
	return false
}

// checkImages checks the images that crashes have left.
func (l *powerLife) checkImages() error {
	l.mu.Lock()
	images := l.images
	l.images = nil
	l.mu.Unlock()
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, damage: l.damage, whole: l.model.whole}
	for _, img := range images {
		if err := c.check(img); err != nil {
			return err
		}
	}
	return nil
}

// run lives through a few generations and returns the first violation.
func (l *powerLife) run() (err error) {
	defer func() {
		l.d.Freeze()
		if l.s != nil {
			_ = l.s.Close() // gives memory back, and can do nothing else
		}
	}()
	for generation := range 3 {
		if err := l.generation(); err != nil {
			return fmt.Errorf("generation %d: %w", generation, err)
		}
	}
	return nil
}

func (l *powerLife) generation() error {
	l.d.Before = func(site shadow.Site) { l.crashed("at call "+site.String(), l.rare) }
	err := l.open()
	if err != nil {
		return err
	}
	errs := make([]error, l.writers)
	var writers sync.WaitGroup
	for w := range l.writers {
		rng := rand.New(rand.NewPCG(l.rng.Uint64(), 3))
		writers.Go(func() { errs[w] = l.write(rng, w, 40+rng.IntN(120)) })
	}
	writers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	switch l.rng.IntN(5) {
	case 0, 1:
		err = l.close()
	case 2, 3:
		err = l.crash(false)
	default:
		err = l.crash(true)
	}
	return errors.Join(err, l.checkImages())
}

// close ends a generation with Close, and half the time with a power loss after it.
func (l *powerLife) close() error {
	marks := l.model.acknowledged()
	s := l.s
	l.s = nil
	state, err := l.model.since(marks).observe(s)
	if err != nil {
		return fmt.Errorf("before close: %w", err)
	}
	tails := tailsOf(s)
	if err := errors.Join(s.Close(), released(l.d, s)); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	l.model.synced(marks)
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, damage: l.damage, whole: l.model.whole}
	checks := 1
	if l.d.Sites.Skip != (shadow.Site{}) {
		checks = 16
	}
	for range checks {
		if err := c.settled(l.d, state, tails, "after the end of a generation"); err != nil {
			return err
		}
	}
	if l.rng.IntN(2) == 0 {
		l.d = l.d.Crash(shadow.RandomLoss(l.rng))
	}
	return nil
}

// crash ends a generation with a crash, and makes what recovery finds the model.
func (l *powerLife) crash(killed bool) error {
	l.mu.Lock()
	img := l.takeLocked("at the end of a generation", killed)
	l.mu.Unlock()
	if err := l.checkImages(); err != nil {
		return err
	}
	l.d.Freeze()
	_ = l.s.Close() // gives memory back, and can do nothing else
	l.s = nil
	l.d = img.d

	// A recovery of a copy tells what is there, which is expected from the next generation on.
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, damage: l.damage, whole: l.model.whole}
	s, err := c.open(l.d.Kill())
	if err != nil {
		return fmt.Errorf("%s: %w", img.when, err)
	}
	state, err := img.allowed.observe(s)
	if err == nil {
		err = l.model.whole(state)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("%s: %w", img.when, err)
	}
	l.model.adopt(state, killed)
	return nil
}

// write makes the operations of one writer in a generation.
func (l *powerLife) write(rng *rand.Rand, writer, operations int) error {
	for n := range operations {
		if err := l.operation(rng, writer); err != nil {
			return fmt.Errorf("operation %d of writer %d: %w", n, writer, err)
		}
		l.crashed("between operations", l.often)
	}
	return nil
}

func (l *powerLife) operation(rng *rand.Rand, writer int) error {
	i := rng.IntN(powerMemories/l.writers)*l.writers + writer
	switch p := rng.IntN(100); {
	case p < 50:
		return l.put(i, powerSize(rng))
	case p < 60:
		return l.batch(rng, writer)
	case p < 80:
		return l.delete(i)
	case p < 86:
		return l.sync()
	case p == 86 && l.writers == 1:
		return l.clear()
	case p < 90:
		// An automatic compaction leaves lanes alone, and segments that are not worth it.
		_, err := l.s.compact(context.Background(), []trigger{triggerManual, triggerAuto}[rng.IntN(2)])
		if errors.Is(err, ErrCompactionInProgress) {
			return nil
		}
		return err
	}
	v := l.model.live(i)
	_, err := exactly([]powerVersion{v}).shifted(i).read(l.s, i)
	return err
}

// clear removes every memory. What the model allows after a crash on the way it allows for each memory alone;
// TestPower_Clear asks for all of them or none.
func (l *powerLife) clear() error {
	indexes := map[int]int{}
	for i := range powerMemories {
		if !l.model.live(i).deleted {
			_, indexes[i] = l.model.begin(i, 0, true)
		}
	}
	if err := l.s.Clear(); err != nil {
		allowed := l.model.since(l.model.acknowledged())
		for i, index := range indexes { // gone, and not durably, if it was the last step that failed
			if found, readErr := allowed.read(l.s, i); readErr == nil && found == l.model.version(i, index) {
				l.model.acknowledge(i, index, false)
			}
		}
		return fmt.Errorf("clear: %w", err)
	}
	for i, index := range indexes {
		l.model.acknowledge(i, index, true)
	}
	return nil
}

func powerSize(rng *rand.Rand) int {
	switch p := rng.IntN(100); {
	case p < 15:
		return 16 + rng.IntN(64)
	case p < 85:
		return 200 + rng.IntN(3000)
	case p < 97:
		return 4000 + rng.IntN(20_000)
	}
	return 66_000 + rng.IntN(70_000) // a segment of its own
}

func (l *powerLife) put(i, size int) error {
	v, index := l.model.begin(i, size, false)
	put := l.s.Put
	if v.expires() {
		put = func(id string, content []byte) error { return l.s.PutTTL(id, content, powerTTL) }
	}
	if err := put(idOf(i), contentOf(i, v.number, v.size)); err != nil {
		return fmt.Errorf("put: %w", l.refused(i, index, err))
	}
	l.model.acknowledge(i, index, l.opts.SyncWrites)
	return nil
}

// batch stores and deletes some memories of a writer at once.
func (l *powerLife) batch(rng *rand.Rand, writer int) error {
	var b Batch
	var members []powerMember
	for _, n := range rng.Perm(powerMemories / l.writers)[:2+rng.IntN(4)] {
		i := n*l.writers + writer
		size, deleted := min(powerSize(rng), 10_000), !l.model.live(i).deleted && rng.IntN(4) == 0
		v, index := l.model.begin(i, size, deleted)
		members = append(members, powerMember{i: i, index: index, v: v})
		switch content := contentOf(i, v.number, v.size); {
		case deleted:
			b.Delete(idOf(i))
		case v.expires():
			b.PutTTL(idOf(i), content, powerTTL)
		default:
			b.Put(idOf(i), content)
		}
	}
	l.model.beginBatch(members)
	err := l.s.Apply(&b)
	for _, m := range members {
		if err != nil {
			_ = l.refused(m.i, m.index, err)
		} else {
			l.model.acknowledge(m.i, m.index, l.opts.SyncWrites)
		}
	}
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	return nil
}

func (l *powerLife) delete(i int) error {
	if l.model.live(i).deleted {
		if existed, err := l.s.Delete(idOf(i)); existed || err != nil {
			return fmt.Errorf("delete of nothing: %v, %w", existed, err)
		}
		return nil
	}
	v, index := l.model.begin(i, 0, true)
	if v.expires() {
		err := l.s.PutTTL(idOf(i), []byte("gone"), time.Millisecond)
		powerTime.pass(time.Millisecond)
		if err != nil {
			return fmt.Errorf("expire: %w", l.refused(i, index, err))
		}
		l.model.acknowledge(i, index, l.opts.SyncWrites)
		return nil
	}
	if existed, err := l.s.Delete(idOf(i)); err != nil {
		return fmt.Errorf("delete: %w", l.refused(i, index, err))
	} else if !existed {
		return errors.New("delete found nothing")
	}
	l.model.acknowledge(i, index, l.opts.SyncWrites)
	return nil
}

// refused notes that a write has failed. The write has not happened, unless it was the flush after
// it that failed: then it can be seen, and need not survive.
func (l *powerLife) refused(i, index int, err error) error {
	if !l.opts.SyncWrites {
		return err
	}
	found, readErr := l.model.since(l.model.acknowledged()).read(l.s, i)
	if readErr == nil && found == l.model.version(i, index) {
		l.model.acknowledge(i, index, false)
	}
	return err
}

func (l *powerLife) sync() error {
	marks := l.model.acknowledged()
	if err := l.s.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	l.model.synced(marks)
	return nil
}
