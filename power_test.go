//go:build unix

package warmtier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

/*
Goal: a power loss at any instant loses nothing that a Sync or an acknowledged SyncWrites operation
made durable, brings nothing back, and leaves a directory that opens. A kill, the same for everything
acknowledged.

Method: a workload runs on a shadow (shadow_test.go), and a model beside it knows the versions of each
memory and the last one that must survive. At a call of the file system, at a named point, or between
two operations, the shadow says what the directory could be after a crash at this moment; the workload
goes on. Each such directory is opened and held against the model: every memory has one of the versions
from the last durable one on. Then recovery itself is cut short, twice over, and must find the same;
what it found must survive the next power loss; and damage to it must be seen.

Whether these tests would notice a missing sync is tested too: with any one of them taken out of the
store they must fail.
*/

// powerVersion is one state of a memory.
type powerVersion struct {
	number  int // never used twice for a memory
	size    int // of the content
	deleted bool
}

func (v powerVersion) String() string {
	if v.deleted {
		return fmt.Sprintf("deleted (%d)", v.number)
	}
	return fmt.Sprintf("version %d", v.number)
}

// powerMemory is what the model knows of one memory.
type powerMemory struct {
	versions []powerVersion // begun, in this order; only appended to
	acked    int            // index of the last acknowledged one
	durable  int            // index of the last one that must survive a power loss
	numbers  int            // used up
}

// powerModel is what a store must hold. A memory has one writer at a time.
type powerModel struct {
	mu       sync.Mutex
	memories []powerMemory
}

func newPowerModel(n int) *powerModel {
	m := &powerModel{memories: make([]powerMemory, n)}
	for i := range m.memories {
		m.memories[i].versions = []powerVersion{{deleted: true}}
	}
	return m
}

// begin notes that a version of memory i may exist from here on.
func (m *powerModel) begin(i, size int, deleted bool) (v powerVersion, index int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := &m.memories[i]
	mem.numbers++
	v = powerVersion{number: mem.numbers, size: size, deleted: deleted}
	mem.versions = append(mem.versions, v)
	return v, len(mem.versions) - 1
}

// acknowledge notes that the store has confirmed a version.
func (m *powerModel) acknowledge(i, index int, durable bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memories[i].acked = index
	if durable {
		m.memories[i].durable = index
	}
}

// acknowledged returns the index of the last acknowledged version of each memory.
func (m *powerModel) acknowledged() []int { return m.indexes(true) }

func (m *powerModel) indexes(acked bool) (list []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.memories {
		if acked {
			list = append(list, m.memories[i].acked)
		} else {
			list = append(list, m.memories[i].durable)
		}
	}
	return list
}

// synced notes that a Sync that began with these acknowledged versions has succeeded.
func (m *powerModel) synced(marks []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, mark := range marks {
		m.memories[i].durable = max(m.memories[i].durable, mark)
	}
}

// live is the version of memory i that a read must find, when nobody writes it.
func (m *powerModel) live(i int) powerVersion {
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := &m.memories[i]
	return mem.versions[mem.acked]
}

// allowed are the versions each memory may have after a crash.
type allowed [][]powerVersion

// since returns the versions begun so far, from these indexes on.
func (m *powerModel) since(from []int) (a allowed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.memories {
		a = append(a, slices.Clip(m.memories[i].versions[from[i]:]))
	}
	return a
}

// adopt makes state what is acknowledged. After a kill, durable is what it was until Open has ended.
func (m *powerModel) adopt(state []powerVersion, killed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, v := range state {
		mem := &m.memories[i]
		from, to := mem.durable, slices.Index(mem.versions, v)
		if !killed {
			from = to
		}
		mem.versions = slices.Clone(mem.versions[from : to+1])
		mem.durable, mem.acked = 0, to-from
	}
}

func (m *powerModel) version(i, index int) powerVersion {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.memories[i].versions[index]
}

// exactly allows one state.
func exactly(state []powerVersion) (a allowed) {
	for _, v := range state {
		a = append(a, []powerVersion{v})
	}
	return a
}

// read returns which of the allowed versions memory i has in s.
func (a allowed) read(s *Store, i int) (found powerVersion, err error) {
	content, err := s.Get(idOf(i))
	missing := errors.Is(err, ErrNotFound)
	if err != nil && !missing {
		return found, fmt.Errorf("memory %d: %w", i, err)
	}
	for _, v := range slices.Backward(a[i]) {
		if v.deleted == missing && (missing || bytes.Equal(content, contentOf(i, v.number, v.size))) {
			return v, nil
		}
	}
	if missing {
		return found, fmt.Errorf("memory %d is missing, allowed: %v", i, a[i])
	}
	return found, fmt.Errorf("memory %d: %d bytes of version %d, allowed: %v", i, len(content),
		binary.LittleEndian.Uint64(content[8:]), a[i])
}

// observe returns what s holds, an error when it is not allowed.
func (a allowed) observe(s *Store) (state []powerVersion, err error) {
	n := 0
	for i := range a {
		v, err := a.read(s, i)
		if err != nil {
			return nil, err
		}
		if !v.deleted {
			n++
		}
		state = append(state, v)
	}
	if s.Len() != n {
		return nil, fmt.Errorf("store has %d memories, %d of them known", s.Len(), n)
	}
	return state, nil
}

// powerImage is a directory after a crash, and what it may hold.
type powerImage struct {
	d       *shadowFS
	when    string
	allowed allowed
	power   allowed // after a power loss instead
}

// powerCheck opens directories and counts them.
type powerCheck struct {
	rng     *rand.Rand
	opts    *Options
	opened  *atomic.Int64
	damage  bool // sometimes, see settled
	nesting int
}

// check opens what a crash left and holds it against the model.
func (c *powerCheck) check(img powerImage) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", img.when, err)
		}
	}()
	nested := c.interrupt(&img)
	s, err := c.open(img.d)
	if err != nil {
		return err
	}
	img.d.before = nil
	state, err := c.inspect(s, img)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	for _, again := range *nested {
		if again.allowed == nil {
			again.allowed = exactly(state)
		}
		c.nesting++
		err := c.check(again)
		c.nesting--
		if err != nil {
			return errors.Join(err, s.Close())
		}
	}
	tails := tailsOf(s)
	if err := c.settled(img.d, state, tails, "after Open"); err != nil {
		return errors.Join(err, s.Close())
	}
	if err := errors.Join(s.Close(), img.d.released(s)); err != nil {
		return err
	}
	return c.settled(img.d, state, tails, "after Close")
}

func (c *powerCheck) open(d *shadowFS) (*Store, error) {
	c.opened.Add(1)
	s, err := openShadow(d, c.opts, hooks{hash: fixedHash})
	if err != nil {
		return nil, errors.Join(err, d.released(s))
	}
	return s, nil
}

// inspect reads all of a store.
func (c *powerCheck) inspect(s *Store, img powerImage) ([]powerVersion, error) {
	state, err := img.allowed.observe(s)
	if err != nil {
		return nil, err
	}
	if report, err := s.Verify(context.Background()); err != nil {
		return nil, fmt.Errorf("%w: %+v", err, report.Findings)
	}
	if strays, err := img.d.strays(); err != nil || len(strays) > 0 {
		return nil, errors.Join(fmt.Errorf("stray files: %v", strays), err)
	}
	return state, nil
}

// interrupt has the coming recovery of img crash at one of its calls, in a copy.
func (c *powerCheck) interrupt(img *powerImage) *[]powerImage {
	var nested []powerImage
	if c.nesting == 2 || c.nesting == 1 && img.d.sites.skip != (callSite{}) {
		return &nested // one crash of a recovery shows what a missing sync does
	}
	at, calls := 1+c.rng.IntN(14), 0
	img.d.before = func(site callSite) {
		tempting := img.d.sites.tempting() && len(nested) < 3 && c.rng.IntN(2) == 0
		if calls++; calls != at && !tempting {
			return
		}
		when := fmt.Sprintf("crash in recovery, call %d, %s", calls, site)
		if c.rng.IntN(3) == 0 {
			nested = append(nested, powerImage{d: img.d.kill(), when: when + ", killed", power: img.power})
		} else {
			again := powerImage{d: img.d.crash(randomLoss(c.rng)), when: when}
			if img.power != nil { // a power loss after a kill may leave less
				again.allowed = img.power
			}
			nested = append(nested, again)
		}
	}
	return &nested
}

// settled checks that d survives a power loss as it is, and that damage to it would be seen: nothing
// may pass for a tail that was never durable.
func (c *powerCheck) settled(d *shadowFS, state []powerVersion, tails map[string]int, when string) error {
	if c.rng.IntN(2) == 0 {
		return nil
	}
	after := d.crash(randomLoss(c.rng))
	switch {
	case c.damage && c.rng.IntN(3) == 0:
		return c.damaged(after, tails, when)
	case c.damage && c.rng.IntN(2) == 0:
		if c.rng.IntN(2) == 0 {
			after = d.kill()
		}
		return c.flippedState(after, state, tails, when)
	}
	s, err := c.open(after)
	if err != nil {
		return fmt.Errorf("power loss %s: %w", when, err)
	}
	_, err = exactly(state).observe(s)
	if err := errors.Join(err, s.Close(), after.released(s)); err != nil {
		return fmt.Errorf("power loss %s: %w", when, err)
	}
	return nil
}

// tailsOf says where the segments of s end.
func tailsOf(s *Store) map[string]int {
	tails := map[string]int{}
	for _, seg := range s.segments.all() {
		tails[seg.name()] = int(seg.tail.Load())
	}
	return tails
}

// damaged flips a bit in the header of a record, and checks that Open notices. The hint goes: with it
// nobody reads records in Open.
func (c *powerCheck) damaged(d *shadowFS, tails map[string]int, when string) error {
	delete(d.files, hintName)
	names := slices.Sorted(maps.Keys(tails))
	c.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names { // the first that is not empty
		tail := tails[name]
		var starts []int
		for at := segmentHeaderSize; at < tail; {
			h, ok := decodeHeader(d.files[name].current[at:tail])
			if !ok {
				return fmt.Errorf("%s: %s at %d: no record", when, name, at)
			}
			starts = append(starts, at)
			at += h.size()
		}
		if len(starts) == 0 {
			continue
		}
		if c.rng.IntN(2) == 0 {
			starts = starts[len(starts)-1:] // where a tail would be cut
		}
		offset := starts[c.rng.IntN(len(starts))] + 4 + c.rng.IntN(recordHeaderSize-4)
		d.files[name].current[offset] ^= 1
		s, err := c.open(d)
		if err == nil {
			_ = s.Close()
			return fmt.Errorf("%s: %s was damaged at %d, and Open took it for a torn tail",
				when, name, offset)
		}
		if !errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%s: %s was damaged at %d: %w", when, name, offset, err)
		}
		return nil
	}
	return nil
}

// flippedState flips a bit in one of the two copies of a segment's state, and checks that the store is what
// it was, or called damaged. A repair must find all of it.
func (c *powerCheck) flippedState(d *shadowFS, state []powerVersion, tails map[string]int, when string) error {
	names := slices.Sorted(maps.Keys(tails))
	if len(names) == 0 {
		return nil
	}
	name, at := names[c.rng.IntN(len(names))], fileStateAt+c.rng.IntN(2*fileStateSize)
	d.damage(name, at)
	if c.rng.IntN(2) == 0 {
		delete(d.files, hintName)
	}
	opts := *c.opts
	opts.Repair = c.rng.IntN(2) == 0
	when = fmt.Sprintf("%s: %s flipped at %d, repair %v", when, name, at, opts.Repair)
	repairing := powerCheck{rng: c.rng, opts: &opts, opened: c.opened}
	s, err := repairing.open(d)
	if errors.Is(err, ErrCorrupt) && !opts.Repair {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	_, err = exactly(state).observe(s)
	if err := errors.Join(err, s.Close(), d.released(s)); err != nil {
		return fmt.Errorf("%s: %w", when, err)
	}
	return nil
}

// fixedHash makes a run with one writer repeatable. It uses four shards only, of both lanes: each one
// in use is a mapping to be made and given back.
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
	d       *shadowFS
	s       *Store
	writers int
	powerConfig
	opened *atomic.Int64
	hook   func(point)

	mu     sync.Mutex // guards what follows: points are passed by every writer
	dice   *rand.Rand
	images []powerImage
	points map[point]int
	rare   float64 // chance of a crash at a call or a rare point
	often  float64 // at a point that every record passes
}

const powerMemories = 48

// powerConfig says what a run of lives looks for.
type powerConfig struct {
	wanted int64        // directories to be opened
	damage bool         // damage is sometimes done to what is durable, and must be seen
	sites  *shadowSites // nil: nothing left out
	each   func(*powerLife)
}

func newPowerLife(seed uint64, c powerConfig, opened *atomic.Int64) *powerLife {
	rng := rand.New(rand.NewPCG(seed, 1))
	opts := shadowOptions()
	opts.SyncWrites = rng.IntN(4) == 0
	opts.Compaction.MaxOverhead = []int64{0, minSegmentSize, -1}[rng.IntN(3)]
	opts.Maintenance.FragmentationThreshold = []float64{0.01, 0.3, 0.6}[rng.IntN(3)]
	l := &powerLife{
		rng: rng, opts: opts, model: newPowerModel(powerMemories), d: newShadow(), opened: opened, powerConfig: c,
		writers: []int{1, 1, 1, 3}[rng.IntN(4)], dice: rand.New(rand.NewPCG(seed, 2)),
		points: map[point]int{}, rare: 0.12, often: 0.004,
	}
	if c.sites != nil {
		l.d.sites = c.sites
	}
	return l
}

// crashed takes the directory as it could be after a crash now.
func (l *powerLife) crashed(when string, chance float64) {
	if l.d.sites.tempting() {
		chance = max(chance, 0.5)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dice.Float64() >= chance || len(l.images) >= 40 {
		return
	}
	l.images = append(l.images, l.takeLocked(when, l.dice.IntN(4) == 0))
}

// takeLocked makes an image. What must be in it is what was durable before, and what may be in it
// what has begun after the image was made: other writers go on meanwhile. REQUIRES: l.mu held.
func (l *powerLife) takeLocked(when string, killed bool) powerImage {
	durable, acked := l.model.indexes(false), l.model.indexes(true)
	if killed {
		img := powerImage{d: l.d.kill(), when: "killed " + when}
		img.allowed, img.power = l.model.since(acked), l.model.since(durable)
		return img
	}
	img := powerImage{d: l.d.crash(randomLoss(l.dice)), when: "power loss " + when}
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

// isOften says that every record passes p.
func (l *powerLife) isOften(p point) bool {
	switch p {
	case pointPutBody, pointPutAppended, pointCompactRecord, pointCompactFlip, pointDeleteAppended:
		return true
	}
	return false
}

// checkImages opens what crashes have left.
func (l *powerLife) checkImages() error {
	l.mu.Lock()
	images := l.images
	l.images = nil
	l.mu.Unlock()
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, damage: l.damage}
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
		l.d.freeze()
		if l.s != nil {
			_ = l.s.Close() // only gives its memory back
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
	l.d.before = func(site callSite) { l.crashed("at call "+site.String(), l.rare) }
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

// close ends a generation well; with luck, the machine too.
func (l *powerLife) close() error {
	marks := l.model.acknowledged()
	s := l.s
	l.s = nil
	state, err := l.model.since(marks).observe(s)
	if err != nil {
		return fmt.Errorf("before close: %w", err)
	}
	tails := tailsOf(s)
	if err := errors.Join(s.Close(), l.d.released(s)); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	l.model.synced(marks)
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, damage: l.damage}
	checks := 1
	if l.d.sites.skip != (callSite{}) {
		checks = 16
	}
	for range checks {
		if err := c.settled(l.d, state, tails, "after the end of a generation"); err != nil {
			return err
		}
	}
	if l.rng.IntN(2) == 0 {
		l.d = l.d.crash(randomLoss(l.rng))
	}
	return nil
}

// crash ends a generation badly, and makes what recovery finds the model.
func (l *powerLife) crash(killed bool) error {
	l.mu.Lock()
	img := l.takeLocked("at the end of a generation", killed)
	l.mu.Unlock()
	if err := l.checkImages(); err != nil {
		return err
	}
	l.d.freeze()
	_ = l.s.Close() // only gives its memory back
	l.s = nil
	l.d = img.d

	// What is there now is found in a copy, and expected from the next generation on.
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, damage: l.damage}
	s, err := c.open(l.d.kill())
	if err != nil {
		return fmt.Errorf("%s: %w", img.when, err)
	}
	state, err := img.allowed.observe(s)
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("%s: %w", img.when, err)
	}
	l.model.adopt(state, killed)
	return nil
}

// write is one writer's part of a generation.
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
	case p < 60:
		return l.put(i, powerSize(rng))
	case p < 80:
		return l.delete(i)
	case p < 86:
		return l.sync()
	case p < 90:
		// Every other one leaves lanes alone, and what is not worth it.
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

// shifted makes the one memory of a that with number i.
func (a allowed) shifted(i int) allowed { return append(make(allowed, i), a...) }

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
	if err := l.s.Put(idOf(i), contentOf(i, v.number, v.size)); err != nil {
		return fmt.Errorf("put: %w", l.refused(i, index, err))
	}
	l.model.acknowledge(i, index, l.opts.SyncWrites)
	return nil
}

func (l *powerLife) delete(i int) error {
	if l.model.live(i).deleted {
		if existed, err := l.s.Delete(idOf(i)); existed || err != nil {
			return fmt.Errorf("delete of nothing: %v, %w", existed, err)
		}
		return nil
	}
	_, index := l.model.begin(i, 0, true)
	if existed, err := l.s.Delete(idOf(i)); err != nil {
		return fmt.Errorf("delete: %w", l.refused(i, index, err))
	} else if !existed {
		return errors.New("delete found nothing")
	}
	l.model.acknowledge(i, index, l.opts.SyncWrites)
	return nil
}

// refused notes that a write has failed. It has not happened, unless it is the flush behind it that
// failed: then it can be seen, and need not survive.
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

func (c callSite) String() string { return string(c.kind) + " in " + c.at }

// crashBudget is how many directories a test opens.
func crashBudget(t testing.TB, n int) int64 {
	t.Helper()
	if v := os.Getenv("WARMTIER_TEST_CRASHES"); v != "" {
		n, err := strconv.Atoi(v)
		require.NoError(t, err)
		return int64(n)
	}
	if testing.Short() {
		n /= 10
	}
	return int64(scaled(n))
}

// powerRun runs lives on every processor until as many directories were opened as wanted, or one
// life went wrong.
func powerRun(base uint64, c powerConfig) (opened int64, err error) {
	var count, next atomic.Int64
	var failed atomic.Pointer[error]
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for count.Load() < c.wanted && failed.Load() == nil {
				seed := base + uint64(next.Add(1))
				l := newPowerLife(seed, c, &count)
				if err := l.run(); err != nil {
					err = fmt.Errorf("life %d: %w", seed-base, err)
					failed.CompareAndSwap(nil, &err)
				}
				if c.each != nil {
					c.each(l)
				}
			}
		})
	}
	workers.Wait()
	if p := failed.Load(); p != nil {
		err = *p
	}
	return count.Load(), err
}

// powerPoints are the points that directory stores pass.
var powerPoints = []point{pointPutBody, pointPutAppended, pointDeleteAppended, pointSegmentCreated,
	pointLaneRolled, pointCompactSealed, pointCompactWalked, pointCompactTarget, pointCompactRecord,
	pointCompactDead, pointCompactBuilt, pointCompactFlip, pointCompactCommitted, pointCompactSwapped, pointUnlink,
	pointFlushed, pointStateWritten, pointManifestWritten, pointManifestRenamed, pointManifestSynced,
	pointCloseSealed, pointCloseFlushed, pointRecoverScanned, pointRecoverSealed, pointRecoverListed}

// A kill while a large content is copied leaves a file without a record. The next Open removes it.
func TestPower_KillInLargePut(t *testing.T) {
	for _, p := range []point{pointSegmentMade, pointPutBody} {
		t.Run(strings.ReplaceAll(string(p), " ", "_"), func(t *testing.T) {
			d := newShadow()
			var killed *shadowFS
			s, err := openShadow(d, shadowOptions(), hooks{at: func(q point) error {
				if q == p {
					killed = d.kill()
				}
				return nil
			}})
			require.NoError(t, err)
			require.NoError(t, s.Put("large", make([]byte, 2<<20)))
			require.NoError(t, s.Close())
			for range 2 {
				s, err = openShadow(killed, shadowOptions(), hooks{})
				require.NoError(t, err)
				require.Zero(t, s.Len())
				names, err := killed.names()
				require.NoError(t, err)
				for _, name := range names {
					_, isSegment := parseSegmentFileName(name)
					require.False(t, isSegment, name)
				}
				require.NoError(t, s.Close())
			}
			require.NoError(t, killed.released(s))
		})
	}
}

// Random workloads, random instants, and crashes of the recovery. A few lives need not pass every
// point (of three generations none may end with a Close), so more follow until they have.
func TestPower_Random(t *testing.T) {
	base := seeded(t).Uint64()
	var mu sync.Mutex
	points := map[point]int{}
	c := powerConfig{wanted: crashBudget(t, 3000), each: func(l *powerLife) {
		mu.Lock()
		defer mu.Unlock()
		for p, n := range l.points {
			points[p] += n
		}
	}}
	opened, err := powerRun(base, c)
	t.Logf("%d directories opened after crashes", opened)
	require.NoError(t, err)
	passed := func(p point) bool { return points[p] > 0 }
	for more := uint64(1); more <= 20 && !every(powerPoints, passed); more++ {
		c.wanted = 1
		_, err := powerRun(base+more<<32, c)
		require.NoError(t, err)
	}
	for _, p := range powerPoints {
		require.True(t, passed(p), "point never reached: %s", p)
	}
}

func every(points []point, is func(point) bool) bool {
	return !slices.ContainsFunc(points, func(p point) bool { return !is(p) })
}

// A Sync between the manifest of a round and its swap finds the victims in the table still. It must not
// list them again: their files are about to go.
func TestPower_SyncBeforeSwap(t *testing.T) {
	d := newShadow()
	var s *Store
	compacting, once := false, sync.Once{}
	ready, done := make(chan struct{}), make(chan error, 1)
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash, at: func(p point) error {
		if p == pointManifestSynced && compacting {
			once.Do(func() {
				go func() {
					defer s.contentMu.RUnlock(s.contentMu.RLock()) // the swap waits
					close(ready)
					done <- s.listSegments()
				}()
				<-ready
			})
		}
		return nil
	}})
	require.NoError(t, err)
	fill(t, s, 0, 200, 1000)
	deleteWhere(t, s, 0, 200, odd)
	require.NoError(t, s.Sync())
	compacting = true
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	compacting = false
	require.NoError(t, <-done)
	killed := d.kill()
	require.NoError(t, s.Close())
	s, err = openShadow(killed, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	requireContents(t, s, 0, 200, 1000, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
}

// What superseded a record of a victim is durable before the victim goes: else a power loss could leave
// neither version. Here it is written after the victims were sealed, so the compaction itself copies none.
func TestPower_NewVersionBeforeVictimGoes(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	fill(t, s, 0, 200, 1000)
	deleteWhere(t, s, 0, 200, odd)
	require.NoError(t, s.Sync())
	s.hooks.at = doAt(pointCompactSealed, 1, func() {
		if err := s.Put(idOf(0), contentOf(0, 1, 1000)); err != nil {
			t.Error(err)
		}
	})
	mustCompact(t, s)
	s.hooks.at = nil
	lost := d.crash(nothingKept)
	require.NoError(t, s.Close())
	s, err = openShadow(lost, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	got, err := s.Get(idOf(0))
	require.NoError(t, err, "neither the old version nor the new one")
	require.Equal(t, contentOf(0, 1, 1000), got)
	requireContents(t, s, 1, 200, 1000, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
}

// What Open and Close have made durable never passes for a tail that was not.
func TestPower_DamageIsNoTornTail(t *testing.T) {
	opened, err := powerRun(seeded(t).Uint64(), powerConfig{wanted: crashBudget(t, 2000), damage: true})
	t.Logf("%d directories opened after crashes", opened)
	require.NoError(t, err)
}

// powerScript is a workload that makes every kind of call: small, and always the same. step is called
// with the result of each operation, and decides whether to go on.
func (l *powerLife) powerScript(step func(what string, err error) error) (err error) {
	do := func(what string, fn func() error) {
		if err == nil {
			err = step(what, fn())
		}
	}
	puts := func(from, to, size int) {
		for i := from; i < to; i++ {
			do(fmt.Sprintf("put %d", i), func() error { return l.put(i, size) })
		}
	}
	deletes := func(from, to int) {
		for i := from; i < to; i++ {
			do(fmt.Sprintf("delete %d", i), func() error { return l.delete(i) })
		}
	}
	open := func() { do("open", l.open) }
	compact := func() {
		do("compact", func() error {
			_, err := l.s.Compact(context.Background())
			return err
		})
	}
	open()
	puts(0, 44, 3000)
	do("sync", l.sync)
	puts(10, 30, 2000)
	puts(44, 45, 70_000)
	deletes(0, 12)
	compact()
	do("sync", l.sync)
	puts(28, 40, 2500)
	deletes(40, 46)
	do("close", l.close)
	open()
	puts(0, 20, 1500)
	do("sync", l.sync)
	deletes(5, 15)
	compact()
	puts(0, 4, 100)
	deletes(20, 24)
	compact()
	do("close", l.close)
	open()
	do("close", l.close)
	return err
}

// open opens l.d and checks what is there.
func (l *powerLife) open() error {
	before := l.model.since(l.model.acknowledged())
	s, err := openShadow(l.d, l.opts, hooks{hash: fixedHash, at: l.reach})
	if err != nil {
		return errors.Join(err, l.d.released(s))
	}
	l.s = s
	if _, err := before.observe(l.s); err != nil {
		return fmt.Errorf("reopened: %w", err)
	}
	l.model.synced(l.model.acknowledged()) // Open makes durable what it finds
	return nil
}

// A kill and power losses at each call (everything lost; everything kept, names or bytes alone kept; a
// mixture) and at each passing of a point (of those that every record passes, at each 29th).
func TestPower_EveryCall(t *testing.T) {
	base := seeded(t).Uint64()
	thorough := os.Getenv("WARMTIER_TEST_CRASHES") != ""
	var opened atomic.Int64
	calls, passed := 0, map[point]int{}
	for round, syncWrites := range []bool{false, true} {
		l := newPowerLife(base+uint64(round), powerConfig{}, &opened)
		l.opts.SyncWrites, l.writers, l.rare, l.often = syncWrites, 1, 0, 0
		take := func(when string, variants ...int) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, variant := range variants {
				img := l.takeLocked(when, variant == 5)
				if variant < 4 {
					keep := func() bool { return variant%2 == 1 }
					img.d = l.d.crash(loss{sector: keep, operation: func(int, int) bool { return variant/2 == 1 }})
				}
				l.images = append(l.images, img)
			}
		}
		l.d.before = func(site callSite) {
			calls++
			switch {
			case thorough || round == 0 && !raceEnabled:
				take("at call "+site.String(), 0, 1+calls%3, 4, 5)
				if thorough {
					take("at call "+site.String(), 1, 2, 3)
				}
			case round == 1 && !raceEnabled || calls%16 == 0:
				take("at call "+site.String(), calls%6)
			}
		}
		l.hook = func(p point) {
			passed[p]++
			switch {
			case l.isOften(p) && passed[p]%29 != 0 || raceEnabled && passed[p]%32 != 1:
			case thorough:
				take("at point "+string(p), 0, 1, 2, 3, 4, 5)
			default:
				take("at point "+string(p), passed[p]%6)
			}
		}
		require.NoError(t, l.powerScript(func(what string, err error) error {
			if err == nil {
				err = l.checkImages()
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", what, err)
			}
			return err
		}))
	}
	for _, p := range powerPoints {
		require.Positive(t, passed[p], "point never reached: %s", p)
	}
	t.Logf("%d directories opened after crashes at %d calls", opened.Load(), calls)
}

// The test of the test: without any one of the syncs a violation must be found.
func TestPower_EverySyncIsNeeded(t *testing.T) {
	if raceEnabled {
		t.Skip("says nothing about races, and takes long with the detector")
	}
	base := seeded(t).Uint64()
	var opened atomic.Int64
	normal := &shadowSites{seen: map[callSite]int{}}
	l := newPowerLife(base, powerConfig{sites: normal}, &opened)
	l.rare, l.often = 0, 0
	require.NoError(t, l.powerScript(func(what string, err error) error { return err }))
	_, err := powerRun(base, powerConfig{wanted: 500, sites: normal}) // recoveries
	require.NoError(t, err)
	for _, site := range slices.SortedFunc(maps.Keys(normal.seen), compareSites) {
		if !site.syncs() {
			continue
		}
		t.Run(site.String(), func(t *testing.T) {
			mutant := &shadowSites{seen: map[callSite]int{}, skip: site}
			c := powerConfig{wanted: 12_000, damage: true, sites: mutant}
			opened, err := powerRun(base, c)
			require.Error(t, err, "%d directories opened, %d calls left out, nothing noticed", opened, mutant.seen[site])
			t.Logf("noticed after %d directories: %v", opened, err)
		})
	}
}

func compareSites(a, b callSite) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) }

/*
Failing calls: the n-th call of a kind fails, for n = 1, 2, 3 and so on until the workload runs without
a hit; once, or from then on. An error is returned where one belongs, what was not acknowledged has not
happened, reads go on, and what the last good Sync made durable is there after a power loss.
*/

// powerFault makes calls fail.
type powerFault struct {
	kind    callKind
	nth     int // from 1
	forever bool
	errno   syscall.Errno

	passed int
	hits   []string // since the last operation
	total  int
}

func (f *powerFault) fail(kind callKind, name string) error {
	if kind != f.kind {
		return nil
	}
	f.passed++
	if f.passed == f.nth || f.forever && f.passed > f.nth {
		f.hits = append(f.hits, name)
		f.total++
		return f.errno
	}
	return nil
}

// forgivable says that nothing is lost by the hits: the files are removed by the next Open, or worth
// nothing but time, or there is a reserve.
func (f *powerFault) forgivable(what string) bool {
	for _, name := range f.hits {
		_, isSegment := parseSegmentFileName(name)
		switch {
		case f.kind == callClose:
		case f.kind == callRemove && isSegment:
		case f.kind == callCreate && f.errno == syscall.ENOSPC && what != "open" && what[0] != 'p':
		case f.kind == callCreate && (strings.HasPrefix(name, spareName) || name == hintName):
		case f.kind == callOpen && name == hintName:
		case f.kind == callOpen && strings.HasPrefix(name, spareName):
		default:
			return false
		}
	}
	return true
}

// powerFaultRun is one run of the script with a fault.
type powerFaultRun struct {
	l    *powerLife
	f    *powerFault
	full bool // the disk is full by a budget, not by f

	failed     bool // a flush of the open store has failed
	operations int
	refusals   int
}

// judge decides whether the result of an operation is right.
func (r *powerFaultRun) judge(what string, err error) error {
	l, f := r.l, r.f
	defer func() { f.hits = nil }()
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %s; hits %q, error %w", what, fmt.Sprintf(format, args...), f.hits, err)
	}
	if err != nil {
		r.refusals++
	}
	noSpace := errors.Is(err, ErrNoSpace) || errors.Is(err, syscall.ENOSPC)
	r.failed = what != "open" && (r.failed || l.s != nil && l.s.failedSync() != nil)
	switch {
	case err == nil && len(f.hits) > 0 && !f.forgivable(what):
		return wrong("silent")
	case err == nil:
	case errors.Is(err, ErrCorrupt):
		return wrong("called damage")
	case r.full && !noSpace:
		return wrong("a full disk is called something else")
	case r.full && errors.Is(err, ErrSyncFailed):
		return wrong("a full disk is the end of writing")
	case r.full:
	case r.failed && !errors.Is(err, ErrSyncFailed):
		return wrong("a failed store says something else")
	case !r.failed && len(f.hits) == 0:
		return wrong("error without a cause")
	case len(f.hits) > 0 && !errors.Is(err, f.errno) && !noSpace:
		return wrong("the cause is not wrapped")
	case len(f.hits) > 0 && f.errno == syscall.ENOSPC && (f.kind == callCreate || f.kind == callWriteFile) &&
		!errors.Is(err, ErrNoSpace):
		return wrong("not called ErrNoSpace")
	}
	if what == "open" && err != nil {
		return r.reopen(err)
	}
	if what == "close" {
		return nil
	}
	if r.failed {
		if err := r.requireReadOnly(); err != nil {
			return wrong("after a failed flush: %v", err)
		}
	}
	if r.operations++; len(f.hits) == 0 && r.operations%16 != 0 {
		return nil
	}
	for i := range powerMemories {
		if _, err := exactly([]powerVersion{l.model.live(i)}).shifted(i).read(l.s, i); err != nil {
			return wrong("read: %v", err)
		}
	}
	return nil
}

// reopen opens once more, without faults.
func (r *powerFaultRun) reopen(cause error) error {
	r.l.d.fault, r.l.d.budget = nil, 0
	if err := r.l.open(); err != nil {
		return fmt.Errorf("open failed with %q, and the next without a fault: %w", cause, err)
	}
	return nil
}

// requireReadOnly checks that a store with a failed flush takes no write, whatever the disk says.
func (r *powerFaultRun) requireReadOnly() error {
	s, fault := r.l.s, r.l.d.fault
	r.l.d.fault = nil
	defer func() { r.l.d.fault = fault }()
	_, deleteErr := s.Delete(idOf(30))
	_, compactErr := s.Compact(context.Background())
	for _, err := range []error{s.Put(idOf(30), nil), deleteErr, compactErr, s.Sync()} {
		if !errors.Is(err, ErrSyncFailed) {
			return fmt.Errorf("a write gave %w", err)
		}
	}
	return nil
}

// run runs the script, and then looks at what a power loss and a kill leave of it.
func (r *powerFaultRun) run() (err error) {
	l := r.l
	l.rare, l.often = 0, 0
	defer func() {
		if l.s != nil {
			l.d.freeze()
			_ = l.s.Close() // only gives its memory back
		}
	}()
	if err := l.powerScript(r.judge); err != nil {
		return err
	}
	l.d.fault, l.d.before, l.d.budget = nil, nil, 0
	c := &powerCheck{rng: l.rng, opts: l.opts, opened: l.opened, nesting: 2}
	durable, acked := l.model.indexes(false), l.model.indexes(true)
	images := []powerImage{{d: l.d.kill(), when: "reopened", allowed: l.model.since(acked)}}
	for range 2 {
		images = append(images, powerImage{
			d: l.d.crash(randomLoss(l.rng)), when: "power loss", allowed: l.model.since(durable),
		})
	}
	for _, img := range images {
		if err := c.check(img); err != nil {
			return err
		}
	}
	return nil
}

func TestPower_EveryCallFails(t *testing.T) {
	base := seeded(t).Uint64()
	for _, kind := range []callKind{callNames, callCreate, callOpen, callReadFile, callWriteFile, callSyncFile,
		callRename, callRemove, callSyncDir, callSync, callClose} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			var opened atomic.Int64
			thorough := os.Getenv("WARMTIER_TEST_CRASHES") != ""
			runs := 0
			variants := []int{0, 3, 4, 7}
			if kind == callCreate || thorough {
				variants = []int{0, 1, 2, 3, 4, 5, 6, 7}
			}
			for _, variant := range variants {
				stride := 1
				if variant > 0 && !thorough || raceEnabled {
					stride = 5
				}
				for nth := 1; ; nth += stride {
					f := &powerFault{kind: kind, nth: nth, forever: variant&1 != 0,
						errno: []syscall.Errno{syscall.EIO, syscall.ENOSPC}[variant>>1&1]}
					l := newPowerLife(base, powerConfig{}, &opened)
					l.opts.SyncWrites, l.writers = variant>>2 != 0, 1
					l.d.fault = f.fail
					err := (&powerFaultRun{l: l, f: f}).run()
					require.NoError(t, err, "call %d of %s fails with %v, forever %t, SyncWrites %t",
						nth, kind, f.errno, f.forever, l.opts.SyncWrites)
					if f.total == 0 {
						break
					}
					runs++
				}
			}
			t.Logf("%d workloads with a fault", runs)
		})
	}
}

/*
A full disk: the budget of the shadow, and a small file system in memory where the test may mount one.
*/

// diskIsFull fills a store until there is no space, and checks that it is alive: reads, deletions,
// compactions go on, and give the space back.
func diskIsFull(t *testing.T, s *Store, cycles int) {
	version, next := map[int]int{}, 0
	read := func() {
		require.Equal(t, len(version), s.Len())
		for i, v := range version {
			got, err := s.Get(idOf(i))
			require.NoError(t, err)
			if !bytes.Equal(got, contentOf(i, v, 1000)) {
				require.Failf(t, "wrong bytes", "memory %d", i)
			}
		}
	}
	for cycle := range cycles {
		first := next
		for ; ; next++ {
			err := s.Put(idOf(next), contentOf(next, cycle, 1000))
			if err != nil {
				require.ErrorIs(t, err, ErrNoSpace)
				break
			}
			version[next] = cycle
		}
		t.Logf("cycle %d: full after %d puts, with %d memories", cycle, next-first, len(version))
		require.Greater(t, next, first+50, "puts after space was given back")
		require.ErrorIs(t, s.Put(idOf(next), make([]byte, 1000)), ErrNoSpace)
		require.ErrorIs(t, s.Put("large", make([]byte, 1<<20)), ErrNoSpace)
		read()
		if cycle%2 == 0 {
			require.NoError(t, s.Sync(), "on a full disk")
		}
		deleted := 0
		for i := range version {
			if (i+cycle)%4 == 0 {
				continue
			}
			existed, err := s.Delete(idOf(i))
			if errors.Is(err, ErrNoSpace) && deleted > 100 { // what is kept back is not without end
				_, err = s.Compact(context.Background())
				require.NoError(t, err, "on a full disk")
				existed, err = s.Delete(idOf(i))
			}
			require.NoError(t, err, "on a full disk, after %d deletions", deleted)
			require.True(t, existed)
			delete(version, i)
			deleted++
		}
		read()
		_, err := s.Compact(context.Background())
		require.NoError(t, err, "on a full disk")
		read()
		if cycle%2 == 1 {
			require.NoError(t, s.Sync())
		}
		requireIntact(t, s)
	}
}

func TestPower_FullDisk(t *testing.T) {
	for _, budget := range []int64{10 * minSegmentSize, 10*minSegmentSize + 4096, 12*minSegmentSize - 4096} {
		t.Run(fmt.Sprintf("budget=%d", budget), func(t *testing.T) {
			d := newShadow()
			d.budget = budget
			s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
			require.NoError(t, err)
			diskIsFull(t, s, 8)
			require.NoError(t, s.Close())
			s, err = openShadow(d, shadowOptions(), hooks{hash: fixedHash})
			require.NoError(t, err)
			requireIntact(t, s)
			require.NoError(t, s.Close())
			require.NoError(t, d.released(s))
		})
	}
}

// A store whose disk has no byte left opens again, reads, deletes and compacts.
func TestPower_FullDiskOpens(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	fill(t, s, 0, 300, 1000)
	require.NoError(t, s.Close())
	d.budget = d.used
	s, err = openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	requireContents(t, s, 0, 300, 1000, all)
	deleteWhere(t, s, 0, 300, func(i int) bool { return i%4 > 0 })
	_, err = s.Compact(context.Background())
	require.NoError(t, err)
	fill(t, s, 300, 350, 1000)
	require.NoError(t, s.Close())
	require.NoError(t, d.released(s))
}

// What a compaction gives back on a full disk fills up what is kept back first: a writer that tries again
// and again beside it gets nothing before.
func TestPower_FullDiskAndGreedyWriter(t *testing.T) {
	d := newShadow()
	d.budget = 24 * minSegmentSize
	opts := shadowOptions()
	opts.Compaction.MaxOverhead = minSegmentSize
	var s *Store
	next := 0
	greedy := func() {
		for ; ; next++ {
			if err := s.Put(idOf(next), contentOf(next, 0, 1000)); err != nil {
				require.ErrorIs(t, err, ErrNoSpace)
				return
			}
		}
	}
	opts.Compaction.OnProgress = func(p CompactionProgress) {
		if p.Stage == StageSwap {
			greedy()
		}
	}
	s, err := openShadow(d, opts, hooks{hash: fixedHash})
	require.NoError(t, err)
	greedy()
	for cycle := range 4 {
		for i := range next {
			if i%8 == cycle { // little is dead in each segment: many victims for one target
				_, err := s.Delete(idOf(i))
				require.NoError(t, err)
			}
		}
		_, err = s.Compact(context.Background())
		require.NoError(t, err, "compaction %d", cycle)
		requireIntact(t, s)
	}
	require.NoError(t, s.Close())
	require.NoError(t, d.released(s))
}

// The space kept back for a manifest grows with the number of segments.
func TestPower_FullDiskWithManySegments(t *testing.T) {
	d := newShadow()
	s, err := openShadow(d, shadowOptions(), hooks{hash: fixedHash})
	require.NoError(t, err)
	fill(t, s, 0, 300, 60_000) // one in each
	require.GreaterOrEqual(t, s.disk.kept[manifestSpare], manifestSize(300))
	d.budget = d.used
	require.NoError(t, s.Sync(), "on a full disk")
	deleteWhere(t, s, 0, 300, odd)
	mustCompact(t, s)
	requireContents(t, s, 0, 300, 60_000, func(i int) bool { return !odd(i) })
	require.NoError(t, s.Close())
	require.NoError(t, d.released(s))
}

// The disk becomes full at every step there is, by the page.
func TestPower_FullAnywhere(t *testing.T) {
	base := seeded(t).Uint64()
	var opened atomic.Int64
	runs := 0
	for budget := int64(pageSize); ; budget += int64(pageSize) * int64(20/scaled(20)) {
		l := newPowerLife(base+uint64(runs), powerConfig{}, &opened)
		l.opts.SyncWrites, l.writers = runs%2 == 1, 1
		l.d.budget = budget
		r := &powerFaultRun{l: l, f: &powerFault{}, full: true}
		require.NoError(t, r.run(), "budget of %d bytes", budget)
		runs++
		if r.refusals == 0 {
			break
		}
	}
	t.Logf("%d budgets", runs)
}

// empty deletes every memory of s and compacts it.
func empty(t *testing.T, s *Store) {
	t.Helper()
	for id := range s.All() {
		_, err := s.Delete(id)
		require.NoError(t, err)
	}
	mustCompact(t, s)
}

// A real full disk: no SIGBUS, and the same.
func TestPower_FullFileSystem(t *testing.T) {
	for _, size := range []int{1 << 20, 1<<20 + 12<<10, 3 << 20} {
		t.Run(fmt.Sprintf("size=%d", size), func(t *testing.T) {
			dir := t.TempDir()
			out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmpfs", dir).CombinedOutput()
			if err != nil {
				t.Skipf("a small file system cannot be mounted: %v: %s", err, bytes.TrimSpace(out))
			}
			t.Cleanup(func() { require.NoError(t, exec.Command("umount", "-l", dir).Run()) })
			store := filepath.Join(dir, "store")
			for range 2 {
				s, err := Open(store, shadowOptions())
				require.NoError(t, err)
				empty(t, s)
				diskIsFull(t, s, 4)
				require.NoError(t, s.Close())
			}
			// Not a byte is left, and the store opens and can be emptied all the same.
			filler, err := os.Create(filepath.Join(dir, "filler"))
			require.NoError(t, err)
			_, err = filler.Write(make([]byte, 2*size))
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.NoError(t, filler.Close())
			s, err := Open(store, shadowOptions())
			require.NoError(t, err)
			empty(t, s)
			require.NoError(t, s.Put("again", nil))
			require.NoError(t, s.Close())
		})
	}
}
