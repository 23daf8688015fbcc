package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

// Result is how a scenario ended.
type Result struct {
	Scenario string
	Skipped  string // why it was not run
	Err      error  // what the store did wrong
}

// Run runs every scenario as a subtest of t. A test may call Run once: processes that are to be killed are the test
// binary again, with a pattern that leads to this call.
func Run(t *testing.T, c Config) {
	t.Helper()
	s := begin(t, c)
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			r := s.run(t, sc)
			if r.Skipped != "" {
				t.Skip(r.Skipped)
			}
			if r.Err != nil {
				t.Errorf("%v\n(seed %d: Config.Seed draws the same)", r.Err, s.Seed)
			}
		})
	}
}

// Check runs every scenario and returns how each ended, without failing t. Otherwise it is Run.
func Check(t *testing.T, c Config) []Result {
	t.Helper()
	s := begin(t, c)
	results := make([]Result, 0, len(scenarios))
	for _, sc := range scenarios {
		results = append(results, s.run(t, sc))
	}
	return results
}

// Scenarios returns the names of all scenarios, in the order of their runs.
func Scenarios() []string {
	names := make([]string, 0, len(scenarios))
	for _, sc := range scenarios {
		names = append(names, sc.name)
	}
	return names
}

// scenario is one way to lose data.
type scenario struct {
	name string
	need need
	run  func(e *env) error
}

// need is what a scenario asks of a store, beside the five methods.
type need uint

const (
	directory need = 1 << iota // that it keeps something
	compacter
	viewer
	scanner
	expirer
	updater
	batcher
	ownProcess // not of the store: the scenario runs what may crash in a process of its own anyway
)

var scenarios = []scenario{
	{"ReadsBack", 0, readsBack},
	{"SlicesAreCallers", 0, slicesAreCallers},
	{"ReadsAreNeverOld", 0, readsAreNeverOld},
	{"CompactionKeepsWrites", compacter, compactionKeepsWrites},
	{"CompactionReadsRightBytes", compacter, compactionReadsRightBytes},
	{"CompactionKeepsDeletions", compacter, compactionKeepsDeletions},
	{"ViewsStay", viewer, viewsStay},
	{"ScanSeesEachOnce", scanner, scanSeesEachOnce},
	{"ExpiredStaysAway", expirer, expiredStaysAway},
	{"UpdatesAreNotLost", updater, updatesAreNotLost},
	{"BatchesAreWhole", batcher, batchesAreWhole},
	{"ReopenKeepsAll", directory, reopenKeepsAll},
	{"CloseKeepsWrites", directory, closeKeepsWrites},
	{"SecondOpenLosesNothing", directory, secondOpenLosesNothing},
	{"KillKeepsAll", directory, killKeepsAll},
	{"KillInCompactionKeepsAll", directory | compacter, killInCompactionKeepsAll},
	{"KillKeepsBatchesWhole", directory | batcher, killKeepsBatchesWhole},
	{"DamageIsNoWrongByte", directory | ownProcess, damageIsNoWrongByte},
	{"DamageEndsNoProcess", directory | ownProcess, damageEndsNoProcess},
	{"FlippedByteIsNoSilentLoss", directory | ownProcess, flippedByteIsNoSilentLoss},
	{"CutFileIsNoSilentLoss", directory | ownProcess, cutFileIsNoSilentLoss},
	{"FullDiskLosesNothing", directory | ownProcess, fullDiskLosesNothing},
	{"FullDiskEndsNoProcess", directory | ownProcess, fullDiskEndsNoProcess},
}

// suite is one call of Run.
type suite struct {
	Config
	test   string                        // its name, for processes that lead to the same call
	found  need                          // what the store has
	damage func() (*damageReport, error) // one run for several scenarios
	disk   func() (*diskReport, error)
}

// begin never returns in a process that was started for a job.
func begin(t *testing.T, c Config) *suite {
	t.Helper()
	c, err := c.withDefaults()
	if err == nil && c.Duration == 0 {
		c.Duration = 200 * time.Millisecond
		if testing.Short() {
			c.Duration /= 4
		}
		if text := os.Getenv("STORETEST_DURATION"); text != "" {
			c.Duration, err = time.ParseDuration(text)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	s := &suite{Config: c, test: t.Name()}
	s.damage = sync.OnceValues(func() (*damageReport, error) { return s.inspectDamage(t.TempDir()) })
	s.disk = sync.OnceValues(func() (*diskReport, error) { return s.inspectDisk(t.TempDir()) })
	if j, ok := jobOf(s.test); ok {
		s.obey(j)
	}
	if s.found, err = s.capabilities(t.TempDir()); err != nil {
		t.Fatal("storetest: the store in an empty directory: ", err)
	}
	return s
}

func (s *suite) capabilities(dir string) (need, error) {
	st, err := s.Open(dir)
	if err != nil {
		return 0, err
	}
	found := ownProcess
	if s.Keeps != Nothing {
		found |= directory
	}
	for _, of := range []struct {
		has bool
		it  need
	}{
		{is[Compacter](st), compacter}, {is[Viewer](st), viewer}, {is[Scanner](st), scanner},
		{is[Expirer](st), expirer}, {is[Updater](st), updater}, {is[Batcher](st), batcher},
	} {
		if of.has {
			found |= of.it
		}
	}
	return found, st.Close()
}

func is[T any](st Store) bool {
	_, ok := st.(T)
	return ok
}

func (s *suite) run(t *testing.T, sc scenario) Result {
	r := Result{Scenario: sc.name, Skipped: s.Skip[sc.name]}
	if missing := sc.need &^ s.found; r.Skipped == "" && missing != 0 {
		r.Skipped = "the store has no " + missing.String()
	}
	if r.Skipped != "" {
		return r
	}
	if s.Isolate && sc.need&ownProcess == 0 {
		r.Err = s.isolated(t.TempDir(), sc.name)
	} else {
		r.Err = s.perform(sc, t.TempDir())
	}
	if skip := (skipError)(""); errors.As(r.Err, &skip) {
		r.Skipped, r.Err = string(skip), nil
	}
	return r
}

// perform runs a scenario in this process.
func (s *suite) perform(sc scenario, dir string) error {
	e := &env{suite: s, dir: dir, rng: rand.New(rand.NewPCG(s.Seed, 1))}
	return errors.Join(guarded(func() error { return sc.run(e) }), e.close())
}

func (n need) String() string {
	for _, of := range []struct {
		it   need
		name string
	}{
		{directory, "directory"}, {compacter, "Compact"}, {viewer, "View"}, {scanner, "Scan"}, {expirer, "PutTTL"},
		{updater, "Update"}, {batcher, "Batch"},
	} {
		if n&of.it != 0 {
			return of.name
		}
	}
	return "such thing"
}

// skipError is the reason for which a scenario cannot be run here.
type skipError string

func (e skipError) Error() string { return string(e) }

// guarded makes a panic an error: the scenario fails, the others go on.
func guarded(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}

// env is what a scenario works with: a directory of its own, and the store that is open in it.
type env struct {
	*suite
	dir string
	rng *rand.Rand
	st  Store
}

// open opens the store, after a close for the next time.
func (e *env) open() (err error) {
	if e.st, err = e.Open(e.dir); err != nil {
		e.st = nil
		return fmt.Errorf("open: %w", err)
	}
	return nil
}

func (e *env) close() error {
	if e.st == nil {
		return nil
	}
	st := e.st
	e.st = nil
	if err := guarded(st.Close); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

func (e *env) reopen() error {
	if err := e.close(); err != nil {
		return err
	}
	return e.open()
}

// together runs the functions at the same time until each has returned, and returns the first error. stop is closed
// when one returned an error, and after the duration of a scenario.
func (e *env) together(functions ...func(stop <-chan struct{}) error) error {
	stop := make(chan struct{})
	var once sync.Once
	end := func() { once.Do(func() { close(stop) }) }
	timer := time.AfterFunc(e.Duration, end)
	defer timer.Stop()
	errs := make(chan error, len(functions))
	for _, f := range functions {
		go func() {
			err := guarded(func() error { return f(stop) })
			if err != nil {
				end()
			}
			errs <- err
		}()
	}
	var first error
	for range functions {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func done(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}
