package olricengine_test

import (
	"errors"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/olricengine"
)

func storageKey(hkey uint64) string { return strconv.FormatUint(hkey, 10) }

func everywhere(uint64, bool) bool { return true }

func TestOffer_WhatEarlierLivesLeft(t *testing.T) {
	dir := t.TempDir()
	first, err := warmtier.Open(dir, nil)
	require.NoError(t, err)
	engine, err := olricengine.New(first, olricengine.Options{})
	require.NoError(t, err)
	a, b := fork(t, engine), fork(t, engine)
	for h := range uint64(70) {
		put(t, a, h*7, "of partition 0", 1)
		put(t, b, h*7+1, "of partition 1", 1)
	}
	require.NoError(t, first.Close())

	second, err := warmtier.Open(dir, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, second.Close()) }()
	engine, err = olricengine.New(second, olricengine.Options{})
	require.NoError(t, err)
	require.Equal(t, 140, engine.Recovered())
	f := fork(t, engine)
	require.Zero(t, f.Stats().Length, "no fork has a number of an earlier life")
	put(t, f, 7, "of this life", 2)

	// Nothing is forgotten that was not taken.
	failure := errors.New("no")
	err = engine.Offer(7, everywhere, func(c olricengine.Chunk) error { return failure })
	require.ErrorIs(t, err, failure)
	require.Equal(t, 140, engine.Recovered())

	offered := make(map[uint64]int)
	owner := openEngine(t, olricengine.Options{})
	take := func(c olricengine.Chunk) error {
		offered[c.Partition] += c.Entries
		return owner.Import(c.Payload, owner.Put)
	}
	require.NoError(t, engine.Offer(7, func(p uint64, _ bool) bool { return p == 1 }, take))
	require.Equal(t, map[uint64]int{1: 70}, offered)
	require.Equal(t, 70, engine.Recovered())
	require.NoError(t, engine.Offer(7, everywhere, take))
	require.Zero(t, engine.Recovered())
	require.Equal(t, map[uint64]int{0: 71, 1: 70}, offered)
	require.Equal(t, 140, owner.Stats().Length)
	require.Equal(t, "of this life", value(t, owner, 7))
	require.Equal(t, "of this life", value(t, f, 7))
	require.Equal(t, 1, second.Len(), "what is taken is forgotten, and what this life wrote is not")
}

// A node that owns what it recovered sends it to itself too. What that merges has been passed.
func TestOffer_PassesWhatItMergesOnce(t *testing.T) {
	store := openStore(t, nil)
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	put(t, fork(t, engine), 1, "of an earlier life", 1)
	engine, err = olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	f := fork(t, engine)
	var passed int
	take := func(c olricengine.Chunk) error {
		passed += c.Entries
		return f.Import(c.Payload, f.Put)
	}
	require.NoError(t, engine.Offer(1, everywhere, take))
	require.Equal(t, 1, passed)
	require.NoError(t, engine.Offer(1, everywhere, take))
	require.Equal(t, 1+1, passed, "it is offered to owners who are new")
}

// What a node recovered has been durable for long, so it is not forgotten before the copies of it are: those of many
// chunks with one sync. The same holds for a copy in another fork, for which Olric drops the one in the first.
func TestOffer_ForgetsWhatIsDurable(t *testing.T) {
	const partitions = 20
	dir := t.TempDir()
	opts := &warmtier.Options{SyncInterval: -1} // nothing syncs by itself
	store, err := warmtier.Open(dir, opts)
	require.NoError(t, err)
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	for h := range uint64(partitions) {
		put(t, fork(t, engine), h, "recovered", 1)
	}
	require.NoError(t, store.Close())

	store, err = warmtier.Open(dir, opts)
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	unsynced := func() int64 { return store.Stats().Sync.UnsyncedBytes }
	taken, removed := false, 0
	var engineOptions olricengine.Options
	olricengine.BeforeRemovals(&engineOptions, func() error {
		if taken {
			require.Zero(t, unsynced())
		}
		taken = false
		removed++
		return nil
	})
	engine, err = olricengine.New(store, engineOptions)
	require.NoError(t, err)
	f := fork(t, engine)
	take := func(c olricengine.Chunk) error {
		taken = true
		return f.Import(c.Payload, f.Put)
	}
	syncs := store.Stats().Sync.OK
	require.NoError(t, engine.Offer(partitions, everywhere, take))
	require.Equal(t, partitions, removed)
	require.LessOrEqual(t, store.Stats().Sync.OK-syncs, int64(1))
	require.Positive(t, unsynced(), "the removals")

	// Others do not know when the sender syncs.
	elsewhere, err := warmtier.Open(t.TempDir(), opts)
	require.NoError(t, err)
	defer func() { require.NoError(t, elsewhere.Close()) }()
	other, err := olricengine.New(elsewhere, olricengine.Options{})
	require.NoError(t, err)
	require.NoError(t, engine.Offer(partitions, everywhere, func(c olricengine.Chunk) error {
		err := other.Import(c.Payload, other.Put)
		require.Zero(t, elsewhere.Stats().Sync.UnsyncedBytes)
		return err
	}))
	f = fork(t, engine)
	require.NoError(t, engine.Offer(partitions, everywhere, take))
	require.Zero(t, unsynced())
}

// A write that Olric began when other nodes owned the partition may have gone to those.
func TestOffer_Late(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	f := fork(t, engine)
	before := f.NewEntry()
	engine.Mark(func(hkey uint64) bool { return hkey != 5 })
	require.NoError(t, f.Put(3, before))
	require.NoError(t, f.Put(4, f.NewEntry()))
	require.NoError(t, f.Put(5, f.NewEntry()), "Olric still takes this node for the owner")
	require.NoError(t, f.Put(6, entry(f, "of another node", "v", 1)))

	failure := errors.New("no")
	require.ErrorIs(t, engine.OfferLate(7, func(olricengine.Chunk) error { return failure }), failure)
	var partitions []uint64
	note := func(c olricengine.Chunk) error {
		partitions = append(partitions, c.Partition)
		return nil
	}
	require.NoError(t, engine.OfferLate(7, note))
	require.ElementsMatch(t, []uint64{3, 5}, partitions)
	require.NoError(t, engine.OfferLate(7, note))
	require.Len(t, partitions, 2)
}

// While nothing can be sent, a write that comes again and again is kept in mind once.
func TestOfferLate_EachPlaceOnce(t *testing.T) {
	engine := openEngine(t, olricengine.Options{})
	engine.Mark(func(uint64) bool { return false })
	for i := range int64(100) {
		en := engine.NewEntry()
		en.SetKey("key")
		en.SetTimestamp(i)
		require.NoError(t, engine.Put(uint64(i%2), en))
	}
	failure := errors.New("no")
	require.ErrorIs(t, engine.OfferLate(7, func(olricengine.Chunk) error { return failure }), failure)
	sent := make(map[uint64]int)
	take := func(c olricengine.Chunk) error { sent[c.Partition]++; return nil }
	require.NoError(t, engine.OfferLate(7, take))
	require.NoError(t, engine.OfferLate(7, take))
	require.Equal(t, map[uint64]int{0: 1, 1: 1}, sent)
}

// One entry that cannot be read keeps no other from moving, and no node from having offered all that it can.
func TestOffer_PassesWhatIsDamaged(t *testing.T) {
	store := openStore(t, &warmtier.Options{})
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	before := fork(t, engine)
	for hkey := range uint64(3) {
		put(t, before, hkey, "of an earlier life", 1)
	}
	engine, err = olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	f := fork(t, engine)
	for hkey := range uint64(3) {
		put(t, f, 10+hkey, "of this life", 2)
	}
	engine.Mark(func(uint64) bool { return false })
	put(t, f, 20, "late", 2)
	spoil := func(hkey byte) (id string) {
		for id = range store.IDs() {
			if id[len(id)-1] == hkey {
				break
			}
		}
		require.NoError(t, store.Put(id, []byte("a format of later, longer than a header")))
		return id
	}
	spoil(1)
	inFork := spoil(11)
	spoil(20)

	var offered int
	take := func(c olricengine.Chunk) error {
		offered += c.Entries
		return nil
	}
	n, err := engine.Damaged()
	require.Zero(t, n)
	require.NoError(t, err)
	require.NoError(t, engine.Offer(1, everywhere, take))
	require.Equal(t, 2+2, offered)
	require.Zero(t, engine.Recovered(), "nothing else is left")
	require.NoError(t, engine.OfferLate(1, take))
	require.Equal(t, 2+2, offered)
	n, err = engine.Damaged()
	require.Equal(t, 3, n)
	require.ErrorIs(t, err, olricengine.ErrFormat)

	moves := f.TransferIterator()
	require.True(t, moves.Next())
	_, index, err := moves.Export()
	require.NoError(t, err)
	require.NoError(t, moves.Drop(index))
	require.False(t, f.TransferIterator().Next(), "what cannot move is not tried for good")
	require.True(t, store.Has(inFork), "and stays")

	put(t, f, 11, "written again", 3)
	n, err = engine.Damaged()
	require.Equal(t, 2, n)
	require.ErrorIs(t, err, olricengine.ErrFormat)
	require.True(t, f.TransferIterator().Next())
}

// A chunk that is not taken keeps no other from being passed, nor one that cannot be forgotten.
func TestOffer_GoesOnAfterAnError(t *testing.T) {
	store := openStore(t, &warmtier.Options{})
	engine, err := olricengine.New(store, olricengine.Options{})
	require.NoError(t, err)
	for p := range uint64(3) {
		put(t, fork(t, engine), p, "of an earlier life", 1)
	}
	var (
		opts     olricengine.Options
		failed   = errors.New("cannot remove")
		removals int
	)
	olricengine.BeforeRemovals(&opts, func() error {
		if removals++; removals == 1 {
			return failed
		}
		return nil
	})
	engine, err = olricengine.New(store, opts)
	require.NoError(t, err)
	put(t, fork(t, engine), 4, "of this life", 1)
	refused := errors.New("no room")
	passed := make(map[uint64]int)
	refuse := func(c olricengine.Chunk) error {
		passed[c.Partition]++
		if c.Partition == 1 {
			return refused
		}
		return nil
	}
	err = engine.Offer(5, everywhere, refuse)
	require.Error(t, err)
	require.NotErrorIs(t, err, olricengine.ErrIncomplete)
	require.Equal(t, map[uint64]int{0: 1, 1: 1, 2: 1, 4: 1}, passed)
	require.Equal(t, 2, engine.Recovered(), "what was not taken, and what could not be removed")

	require.ErrorIs(t, engine.Offer(5, everywhere, refuse), refused)
	require.Equal(t, 2, passed[1])
	require.Equal(t, 1, engine.Recovered())

	// Late ones too.
	engine.Mark(func(uint64) bool { return false })
	late := fork(t, engine)
	for p := range uint64(3) {
		require.NoError(t, late.Put(p, late.NewEntry()))
	}
	clear(passed)
	require.ErrorIs(t, engine.OfferLate(5, refuse), refused)
	require.Equal(t, map[uint64]int{0: 1, 1: 1, 2: 1}, passed)
	require.ErrorIs(t, engine.OfferLate(5, refuse), refused)
	require.Equal(t, map[uint64]int{0: 1, 1: 2, 2: 1}, passed, "what was taken is not passed again")
}
