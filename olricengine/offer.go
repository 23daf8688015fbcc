package olricengine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/warmtier/warmtier"
)

// Chunk is entries of one partition, on their way to its owners.
type Chunk struct {
	Partition uint64
	Payload   []byte // for Import
	Entries   int
	Recovered bool // left by an earlier life of the node
}

// Offer passes every entry that the node holds to send, in chunks of one partition each: those of its forks, and those
// that it has recovered, which earlier lives of the node left in the store. What wanted is false for is left out. Of
// what was left by earlier lives it forgets those chunks for which send returned nil, after a sync of the store, 8 MiB
// at a time; what is in forks stays. An error of send, or of the store when it should forget, keeps no other chunk from
// being passed; Offer returns the first. One of the store when it should read ends Offer, and is [ErrIncomplete] too;
// damaged entries are passed over ([Engine.Damaged]). No lock is held while send runs.
func (e *Engine) Offer(
	partitions uint64, wanted func(partition uint64, recovered bool) bool, send func(Chunk) error,
) error {
	var (
		failed error
		t      taken
		passed bool
	)
	// Forks come first: what was left by earlier lives may be merged into them, and has then been passed.
	for _, fork := range e.node.liveForks() {
		err := fork.offer(partitions, false, wanted, func(c Chunk, _ *payload) {
			failed, passed = cmp.Or(failed, send(c)), true
		})
		if err != nil {
			return err
		}
	}
	if passed { // what leaves a fork, because the node has it in another one, must be durable there
		failed = cmp.Or(failed, e.sync())
	}
	for _, fork := range e.node.leftForks() {
		err := fork.offer(partitions, true, wanted, func(c Chunk, p *payload) {
			err := send(c)
			if err == nil {
				t.add(fork, p)
			}
			if err != nil || t.bytes >= payloadSize { // after an error too: it may have been for want of room
				err = cmp.Or(err, t.forget())
			}
			failed = cmp.Or(failed, err)
		})
		if err != nil {
			return cmp.Or(t.forget(), err)
		}
	}
	failed = cmp.Or(failed, t.forget())
	e.node.forgetEmpty()
	return failed
}

// taken is what all owners have taken of what was recovered. It is forgotten once a sync has made durable what this
// node has taken itself: one for many chunks, since a partition may be small.
type taken struct {
	payloads []*payload
	forks    []*Engine // of each
	bytes    int
}

func (t *taken) add(fork *Engine, p *payload) {
	t.bytes += len(p.buf)
	t.payloads = append(t.payloads, &payload{places: p.places, versions: p.versions, writes: p.writes})
	t.forks = append(t.forks, fork)
}

// forget removes it. What cannot be removed is offered again.
func (t *taken) forget() (failed error) {
	if len(t.payloads) == 0 {
		return nil
	}
	defer func() { *t = taken{} }()
	if err := t.forks[0].sync(); err != nil {
		return err
	}
	for i, p := range t.payloads {
		failed = cmp.Or(failed, p.dropFrom(t.forks[i]))
	}
	return failed
}

// sync makes everything durable that the node has.
func (e *Engine) sync() error {
	if err := e.node.store.Sync(); err != nil {
		return e.fail(err)
	}
	return nil
}

// offer passes the fork's entries on. They are of one partition, unless the number of partitions
// was another one in an earlier life. Errors: [ErrIncomplete].
func (e *Engine) offer(
	partitions uint64, recovered bool, wanted func(uint64, bool) bool, pass func(Chunk, *payload),
) error {
	var (
		p         payload
		partition uint64
		failure   error
	)
	flush := func() {
		if len(p.places) > 0 {
			pass(Chunk{partition, p.sealed(e.node.owners.Load(), e.node.life), len(p.places), recovered}, &p)
			p = payload{scratch: p.scratch}
		}
	}
	e.walk(0, func(hkey uint64) bool {
		if hkey%partitions != partition || p.full() {
			flush()
			partition = hkey % partitions
		}
		if wanted(partition, recovered) {
			failure = p.add(e, hkey)
		}
		return failure == nil
	})
	if failure != nil {
		return fmt.Errorf("%w: %w", ErrIncomplete, failure)
	}
	flush()
	return nil
}

// liveForks returns the forks that are not destroyed.
func (n *node) liveForks() []*Engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.forks))
}

// leftForks returns those of earlier lives.
func (n *node) leftForks() []*Engine {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.recovered)
}

// forgetEmpty forgets those forks of earlier lives of which nothing is left.
func (n *node) forgetEmpty() {
	empty := make(map[*Engine]bool)
	for _, fork := range n.leftForks() {
		empty[fork] = fork.movable() == 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.recovered = slices.DeleteFunc(n.recovered, func(fork *Engine) bool { return empty[fork] })
}

// Recovered returns how many entries of earlier lives of the node are still to be offered.
func (e *Engine) Recovered() int {
	var n int
	for _, fork := range e.node.leftForks() {
		n += fork.movable()
	}
	return n
}

// movable returns how many entries the fork has that are not known to be damaged.
func (e *Engine) movable() int {
	n := e.Stats().Length
	for _, p := range e.node.passedOver() {
		if p.fork == e && p.damage() != nil {
			n--
		}
	}
	return n
}

// Damaged returns how many entries could not be read when another node should have had them, and what is wrong with
// one of these. Other nodes may have copies. They stay in the store, and count until they are written again or
// removed.
func (e *Engine) Damaged() (n int, err error) {
	for _, p := range e.node.passedOver() {
		if damage := p.damage(); damage != nil {
			n, err = n+1, damage
		}
	}
	return n, err
}

// damage returns why the entry cannot be read; nil if it can, or is gone.
func (p place) damage() error {
	p.fork.mu.RLock()
	_, ok := p.fork.entries.Get(p.hkey)
	p.fork.mu.RUnlock()
	if !ok {
		return nil
	}
	if _, err := p.fork.load(p.hkey); isDamage(err) {
		return err
	}
	return nil
}

func isDamage(err error) bool {
	return errors.Is(err, warmtier.ErrCorrupt) || errors.Is(err, ErrFormat)
}

func (n *node) passOver(p place) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.damaged[p] = struct{}{}
}

func (n *node) passedOver() []place { return slices.Collect(maps.Keys(n.damagedPlaces())) }

// damagedPlaces returns the entries that could not be read when they should have gone to another node.
func (n *node) damagedPlaces() map[place]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	places := make(map[place]bool, len(n.damaged))
	for p := range n.damaged {
		places[p] = true
	}
	return places
}

// mark is one change of owners.
type mark struct{ primary func(hkey uint64) bool }

// Mark is called when the owners of partitions have changed, once the writes that begin on this
// node go to the new ones, and before an Offer to them. A write under way may still have gone to
// the owners of before, and be stored here after Offer has passed; and writes for which primary is
// false, which says whether this node is the primary owner of a hash key, should not begin here at
// all: Olric on this node does not know yet. [Engine.OfferLate] has all of those.
func (e *Engine) Mark(primary func(hkey uint64) bool) { e.node.marked.Store(&mark{primary}) }

// OfferLate passes entries to send that were stored since the last Mark by writes that may have
// missed the new owners. What send fails for is passed again by the next call, and keeps no other
// from being passed. OfferLate returns the first error, of send or of the store.
func (e *Engine) OfferLate(partitions uint64, send func(Chunk) error) error {
	e.node.mu.Lock()
	late := e.node.late
	e.node.late = make(map[place]struct{})
	e.node.mu.Unlock()
	var failed error
	for l := range late {
		var p payload
		err := p.add(l.fork, l.hkey)
		if err == nil && len(p.places) > 0 {
			err = send(Chunk{
				Partition: l.hkey % partitions, Payload: p.sealed(e.node.owners.Load(), 0), Entries: 1,
			})
		}
		if err == nil {
			delete(late, l)
		}
		failed = cmp.Or(failed, err)
	}
	if failed != nil {
		e.node.mu.Lock()
		maps.Copy(e.node.late, late)
		e.node.mu.Unlock()
	}
	return failed
}
