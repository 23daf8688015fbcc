package warmtier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// damagedRecords returns a store with dead records between live ones, and a model of it: memories 0
// to 9 of 0 to 36 bytes, some overwritten, and one deleted.
func damagedRecords(t *testing.T, h hooks) (s *Store, model map[string][]byte) {
	s = openTest(t, quiet(), h)
	model = map[string][]byte{}
	for i := range 10 {
		model[idOf(i)] = sizedContent(i, i*4)
		if i%3 == 0 {
			require.NoError(t, s.Put(idOf(i), []byte("overwritten")))
		}
		require.NoError(t, s.Put(idOf(i), model[idOf(i)]))
	}
	_, err := s.Delete(idOf(5))
	require.NoError(t, err)
	delete(model, idOf(5))
	return s, model
}

// damageHashes are the hashes that damage is tested with.
var damageHashes = []struct {
	name     string
	hash     func(id string) uint64
	collides bool
}{
	{"no two tags alike", oneLane, false},
	{"all tags alike", func(string) uint64 { return 0x11223344_55667788 }, true},
	{"two tags", func(id string) uint64 { return uint64(id[len(id)-1]&1) << 40 }, true},
}

// flips returns the masks that byte i of a record is changed with: all of them in long tests,
// otherwise one.
func flips(t testing.TB, i int) []byte {
	masks := []byte{0x01, 0x10, 0x80, 0xff}
	if stride(t, 4, 1) == 1 {
		return masks
	}
	return masks[i%4:][:1]
}

// damageStride returns 1, to damage every byte, and more where each lock costs a stack trace.
func damageStride() int {
	if lockOrderChecked() {
		return 7
	}
	return 1
}

// Offsets of the fields of a record's header.
const (
	atContentSum = 4
	atKind       = 8
	atFlags      = 9
	atIDLen      = 10
	atContentLen = 12
	atSeq        = 16
)

// Goal: whatever byte is damaged, no call returns a wrong byte or calls a memory absent that has a
// slot; the error says where the damage is, and Verify finds it. Method: each byte of each record,
// live or dead, is flipped in turn and restored. Padding holds nothing, so damage in it changes
// nothing.
func TestGet_EveryByteDamaged(t *testing.T) {
	parallel(t)
	for _, hash := range damageHashes {
		t.Run(hash.name, func(t *testing.T) {
			s, model := damagedRecords(t, hooks{hash: hash.hash})
			segs := s.segments.all()
			require.Len(t, segs, 1)
			seg := segs[0]
			for offset := layout.HeaderSize; offset < int(seg.tail.Load()); {
				h, ok := record.Decode(seg.mem[offset:])
				require.True(t, ok)
				owner := string(record.ID(seg.mem[offset:], h))
				live := s.pointsTo(owner, s.locate(seg, offset))
				for i := 0; i < h.Size(); i += damageStride() {
					padding := i >= record.HeaderSize+h.IDLen()+h.ContentLen()
					for _, flip := range flips(t, i) {
						seg.mem[offset+i] ^= flip
						requireNeverWrong(t, s, model, func(id string, err error) {
							if hit := id == owner && live && !padding; hit || err != nil {
								require.True(t, hit || hash.collides, "%s fails for damage in %s", id, owner)
								requireCorrupt(t, err, seg, offset)
							}
						})
						_, err := s.Get("absent")
						require.True(t, errors.Is(err, ErrNotFound) || hash.collides && errors.Is(err, ErrCorrupt))
						report, err := s.Verify(context.Background())
						if padding {
							require.NoError(t, err)
						} else {
							require.ErrorIs(t, err, ErrCorrupt)
							require.True(t, slices.ContainsFunc(report.Findings, func(f Finding) bool {
								return f.File == seg.name() && f.Offset == int64(offset)
							}), "byte %d of %s: %+v", i, owner, report.Findings)
						}
						seg.mem[offset+i] ^= flip
					}
				}
				offset += h.Size()
			}
			requireAll(t, s, model)
		})
	}
}

// requireNeverWrong reads every memory of model in every way: the content is right, or check,
// called for each read, accepts the error.
func requireNeverWrong(t *testing.T, s *Store, model map[string][]byte, check func(id string, err error)) {
	t.Helper()
	for id, content := range model {
		got, err := s.Get(id)
		check(id, err)
		if err == nil && !bytes.Equal(content, got) {
			require.Failf(t, "wrong bytes", "Get of %s", id)
		}
		err = s.View(id, func(got []byte) error {
			if !bytes.Equal(content, got) {
				require.Failf(t, "wrong bytes", "View of %s", id)
			}
			return nil
		})
		check(id, err)
	}
}

// requireCorrupt checks that err reports damage of the record at offset.
func requireCorrupt(t *testing.T, err error, seg *segment, offset int) {
	t.Helper()
	require.ErrorIs(t, err, ErrCorrupt)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, seg.name(), corrupt.File)
	require.EqualValues(t, offset, corrupt.Offset)
}

// Goal: Put and Delete beside a damaged record either do what they should, or return ErrCorrupt and
// do nothing; counts and bytes stay right either way. Method: each byte of a record is flipped, one
// call made in a fresh store, and the byte restored; then the store must verify, hold what a map
// holds, and compact. The damaged record is the first of its shard, and enough records follow for a
// longer length to stay in bounds.
func TestPut_EveryByteDamaged(t *testing.T) {
	t.Parallel()
	calls := []struct {
		name string
		do   func(s *Store, model map[string][]byte, id string) error
	}{
		{"Put", func(s *Store, model map[string][]byte, id string) error {
			err := s.Put(id, []byte("a new version"))
			if err == nil {
				model[id] = []byte("a new version")
			}
			return err
		}},
		{"Delete", func(s *Store, model map[string][]byte, id string) error {
			existed, err := s.Delete(id)
			if _, present := model[id]; err == nil && existed != present {
				return fmt.Errorf("existed is %v, and the memory present: %v", existed, present)
			}
			if err == nil {
				delete(model, id)
			}
			return err
		}},
	}
	for _, hash := range damageHashes[:2] {
		for _, call := range calls {
			for _, id := range []string{idOf(0), idOf(1), idOf(2), idOf(9)} {
				t.Run(fmt.Sprintf("%s, %s of %s", hash.name, call.name, id), func(t *testing.T) {
					for i := 0; i < record.Size(len(idOf(1)), 17); i += damageStride() {
						for _, flip := range flips(t, i) {
							s, err := open("", quiet(), hooks{hash: hash.hash})
							require.NoError(t, err)
							model := map[string][]byte{}
							for _, j := range []int{1, 0, 2, 3, 4, 5, 6, 7} {
								model[idOf(j)] = contentOf(j, 0, 17)
								require.NoError(t, s.Put(idOf(j), model[idOf(j)]))
							}
							rec := recordOf(t, s, idOf(1))
							rec[i] ^= flip
							err = call.do(s, model, id)
							rec[i] ^= flip
							if err != nil {
								require.ErrorIs(t, err, ErrCorrupt, "byte %d ^ %#x", i, flip)
							}
							report, err := s.Verify(context.Background())
							require.NoError(t, err, "byte %d ^ %#x: %+v", i, flip, report.Findings)
							requireAll(t, s, model)
							mustCompact(t, s)
							requireAll(t, s, model)
							require.Zero(t, s.Stats().DeadBytes)
							require.NoError(t, s.Close())
						}
					}
				})
			}
		}
	}
}

// Goal: overwriting cures a damaged memory, and deleting removes it, if its id can still be read.
// Method: damage the content.
func TestPut_CuresDamage(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 10, 50)
	for i := range 2 {
		rec := recordOf(t, s, idOf(i))
		rec[record.HeaderSize+len(idOf(i))+7] ^= 0x20
		_, err := s.Get(idOf(i))
		require.ErrorIs(t, err, ErrCorrupt)
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		require.Equal(t, idOf(i), corrupt.ID)
		require.NotContains(t, corrupt.Error(), idOf(i))
	}
	require.EqualValues(t, 2, s.Stats().Reads.CorruptRecords)
	require.NoError(t, s.Put(idOf(0), contentOf(0, 0, 50)))
	existed, err := s.Delete(idOf(1))
	require.NoError(t, err)
	require.True(t, existed)
	requireContents(t, s, 0, 10, 50, func(i int) bool { return i != 1 })
	mustCompact(t, s)
	requireContents(t, s, 0, 10, 50, func(i int) bool { return i != 1 })
}

// Goal: damage that was overwritten or deleted is out of the way: compactions succeed and give its
// bytes back. Method: a wrong length in the header, from which the bytes that die are counted.
func TestCompact_AfterDamageReplaced(t *testing.T) {
	for _, flip := range []byte{0x10, 0x20} { // a shorter content, and a longer one
		for _, replace := range []string{"overwritten", "deleted"} {
			t.Run(fmt.Sprintf("length changed by %#x, %s", flip, replace), func(t *testing.T) {
				s := openTest(t, quiet(), hooks{hash: oneLane})
				fill(t, s, 0, 1000, 0x50)
				rec := recordOf(t, s, idOf(5))
				rec[atContentLen] ^= flip
				var err error
				if replace == "overwritten" {
					err = s.Put(idOf(5), contentOf(5, 0, 0x50))
				} else {
					_, err = s.Delete(idOf(5))
				}
				if err != nil { // refused: the damage is still in the way, and nothing changed
					require.ErrorIs(t, err, ErrCorrupt)
					rec[atContentLen] ^= flip
					requireContents(t, s, 0, 1000, 0x50, all)
					return
				}
				deleteWhere(t, s, 100, 200, all)
				mustCompact(t, s)
				require.Zero(t, s.Stats().DeadBytes)
				require.Equal(t, replace == "overwritten", s.Has(idOf(5)))
			})
		}
	}
}

// Goal: dead records are not read: damage in one neither fails a compaction nor survives it.
func TestCompact_DamagedDeadRecord(t *testing.T) {
	s := openTest(t, quiet(), hooks{})
	fill(t, s, 0, 1000, 100)
	rec := recordOf(t, s, idOf(500))
	deleteWhere(t, s, 0, 1000, func(i int) bool { return !odd(i) })
	rec[atKind] ^= 0xff
	mustCompact(t, s)
	requireIntact(t, s)
	requireContents(t, s, 0, 1000, 100, odd)
}
