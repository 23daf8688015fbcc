//go:build unix

package warmtier

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// crashValue is what a memory may be.
type crashValue struct {
	content  []byte
	there    bool
	expires  bool
	fleeting bool // it may expire while the test looks
}

func (v crashValue) absent() bool { return !v.there || v.fleeting }

func (v crashValue) String() string { return describe(v.content, v.there) }

// values returns what the memory may be once op, a put or delete, is done.
func (op crashOp) values() []crashValue {
	switch {
	case op.kind == "delete":
		return nil
	case op.ttl > 0 && op.ttl <= crashTTL: // it may expire before anybody looks
		return []crashValue{{content: op.content, there: true, expires: true, fleeting: true}, {}}
	}
	return []crashValue{{content: op.content, there: true, expires: op.ttl > 0}}
}

/*
apply makes what a child was heard to do part of what must be there. The pipe gives the order: what was
acknowledged before a Clear was announced is taken by it, and what was begun after it was acknowledged stays. What
came between, or had been begun by then, may be on either side of it.
*/
func (r *crashRun) apply(c crashConfig, result childResult) {
	r.together, r.batches = nil, nil
	next := slices.Clone(c.Next)
	beside := make([]bool, len(next))  // the writer may have begun its operation before the Clear had ended
	var stored map[string][]crashValue // beside the Clear under way; nil: there is none
	for _, e := range result.events {
		if e.writer == crashClearing {
			stored = map[string][]crashValue{}
			continue
		}
		op := c.op(int(e.writer), e.n)
		next[e.writer]++
		r.ops++
		if op.kind == "clear" {
			r.must, stored = stored, nil
			for w := range beside {
				beside[w] = w != int(e.writer)
			}
			continue
		}
		for _, op := range op.parts() {
			switch {
			case stored != nil:
				stored[op.id] = append(op.values(), crashValue{})
				r.must[op.id] = stored[op.id]
			case beside[e.writer]:
				r.must[op.id] = append(op.values(), crashValue{})
			default:
				r.must[op.id] = op.values()
			}
		}
		beside[e.writer] = false
	}
	if stored != nil {
		r.cutOffClear(stored)
	}
	for w := range next {
		underway := c.op(w, next[w]).parts()
		if !result.killed {
			underway = nil
		}
		if len(underway) > 1 && stored == nil {
			r.batches = append(r.batches, cutBatch{parts: underway, before: maps.Clone(r.must)})
		}
		for _, op := range underway {
			r.must[op.id] = slices.Concat(r.allowed(op.id), op.values())
			if op.kind == "delete" {
				r.must[op.id] = append(r.must[op.id], crashValue{})
			}
			delete(r.together, op.id)
		}
		r.c.Next[w] = next[w] + 1 // what was under way is not done again
	}
}

// parts returns the puts and deletes that op consists of.
func (op crashOp) parts() []crashOp {
	switch op.kind {
	case "put", "delete":
		return []crashOp{op}
	}
	return op.batch
}

// cutBatch is a batch that a kill has cut off.
type cutBatch struct {
	parts  []crashOp
	before map[string][]crashValue
}

// requireWhole checks that of each batch that was under way all is in found, or nothing.
func (r *crashRun) requireWhole(t *testing.T, found map[string][]byte) {
	t.Helper()
	for _, batch := range r.batches {
		there, missing := 0, 0
		for _, op := range batch.parts {
			got, exists := found[op.id]
			before := batch.before[op.id]
			wasThere := len(before) > 0 && !slices.ContainsFunc(before, crashValue.absent)
			switch {
			case op.kind == "put" && bytes.Equal(got, op.content), op.kind == "delete" && wasThere && !exists:
				there++
			case op.kind == "put" || exists:
				missing++
			}
		}
		require.True(t, there == 0 || missing == 0, "%d writes of a batch are there, %d are not", there, missing)
	}
}

// cutOffClear says that a Clear was under way, and what was stored beside it.
func (r *crashRun) cutOffClear(stored map[string][]crashValue) {
	r.together = map[string]bool{}
	for id, values := range r.must {
		if _, beside := stored[id]; !beside && !slices.ContainsFunc(r.allowed(id), crashValue.absent) {
			r.together[id] = true
		}
		r.must[id] = append(slices.Clone(values), crashValue{})
	}
}

// allowed returns what the memory under id may be.
func (r *crashRun) allowed(id string) []crashValue {
	if len(r.must[id]) == 0 {
		return []crashValue{{}}
	}
	return r.must[id]
}

// check opens the directory twice and compares. What it finds must be there from now on.
func (r *crashRun) check(t *testing.T) {
	t.Helper()
	moment := time.Now().UnixMilli() // at which both look: nothing expires between
	s, found := openContents(t, r.c.Dir, at(moment))
	must := map[string][]crashValue{}
	for id := range r.ids() {
		got, there := found[id]
		i := slices.IndexFunc(r.allowed(id), func(v crashValue) bool {
			return v.there == there && bytes.Equal(v.content, got)
		})
		if i < 0 {
			require.Failf(t, "wrong memory after a kill", "%s: %s, want one of %v", id, describe(got, there), r.allowed(id))
		}
		v := r.allowed(id)[i]
		if !there {
			continue
		}
		must[id] = []crashValue{v}
		if v.fleeting {
			must[id] = append(must[id], crashValue{})
		}
		deadline, err := s.Expiry(id)
		require.NoError(t, err)
		require.Equal(t, v.expires, !deadline.IsZero(), "deadline %v of %s", deadline, id)
	}
	r.requireWhole(t, found)
	left := 0
	for id := range r.together {
		left += len(must[id][:min(1, len(must[id]))])
	}
	require.Contains(t, []int{0, len(r.together)}, left, "memories that a Clear has left, which was cut off")
	for id := range found {
		require.Contains(t, r.ids(), id, "a memory nobody stored")
	}
	requireIntact(t, s)
	require.NoError(t, s.Close())
	requireNoStrays(t, r.c.Dir)

	s, again := openContents(t, r.c.Dir, at(moment))
	require.True(t, maps.EqualFunc(found, again, bytes.Equal), "the second open found something else")
	requireIntact(t, s)
	require.NoError(t, s.Close())
	r.must, r.together = must, nil
}

// at makes the time of a store stand still.
func at(moment int64) hooks { return hooks{now: func() int64 { return moment }} }

// openContents opens a directory and returns what is there; some of it may have expired.
func openContents(t *testing.T, dir string, h hooks) (s *Store, found map[string][]byte) {
	t.Helper()
	s, err := open(dir, crashOptions(true), h)
	require.NoError(t, err)
	found = map[string][]byte{}
	for id, content := range s.All() {
		require.NotContains(t, found, id, "All yielded it twice")
		found[id] = bytes.Clone(content)
	}
	for id, content := range found {
		got, err := s.Get(id)
		require.NoError(t, err)
		require.True(t, bytes.Equal(content, got), "Get and All differ: %s", id)
	}
	return s, found
}

// ids returns every id that the writers use.
func (r *crashRun) ids() map[string]bool {
	ids := map[string]bool{"large": true}
	for w := range max(2, len(r.c.Next)) {
		for i := range crashIDs {
			ids[fmt.Sprintf("writer-%d-memory-%03d", w, i)] = true
		}
	}
	return ids
}
