package warmtier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/warmtier/warmtier/internal/stream"
)

// ExportStats says what was in an export.
type ExportStats struct {
	Memories int64         // written to the stream, or stored from it
	Existing int64         // Import: left alone, since the store had a memory with that id
	Expired  int64         // Import: left out, since their time had ended
	Bytes    int64         // of the stream
	Duration time.Duration // of the call
}

// Export writes all memories to w, with versions and deadlines, each as it is at some moment within the call: one
// that was there throughout is there once, and one that comes or goes on the way may be in it or not. A batch may be
// there in part. (Of a store in a directory [Store.Checkpoint] makes a copy of one moment.) The stream has a checksum
// for each chunk, the number of memories and an end mark, so a part of it is no export; docs/format.md has its bytes.
// It is written in pieces of about 256 KiB, or of one content, and takes the memory of the longest content twice.
//
// Nobody waits for Export: w is written to with no lock held, and may be slow; it may call the store, but not Close,
// which waits for Export to end. Reads by Export are no reads in Stats, nor for eviction. It panics when ctx is nil.
//
// Errors: [ErrClosed]; [ErrCorrupt] for a damaged memory, which [Store.Verify] names; ctx's error with its cause;
// what w returns. What was written is no whole export then.
func (s *Store) Export(ctx context.Context, w io.Writer) (ExportStats, error) {
	checkContext(ctx)
	start := time.Now()
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return ExportStats{}, err
	}
	defer done()
	st, err := s.export(ctx, w)
	st.Duration = time.Since(start)
	if err != nil && ctx.Err() != nil { // an error of w may be that of another store, which was stopped
		err = s.whyStopped(ctx, err)
	}
	if err != nil {
		err = fmt.Errorf("warmtier: export: %w", inner{err})
	}
	return st, err
}

// export writes all memories to w.
func (s *Store) export(ctx context.Context, w io.Writer) (st ExportStats, err error) {
	out, err := stream.NewWriter(w, randomNumber())
	if err != nil {
		return st, err
	}
	defer func() { st.Memories, st.Bytes = out.Total().Memories, out.Written() }()
	batch := idBatch{want: iterationBatch}
	var m stream.Memory
	for i := range s.shards {
		for batch.next = 0; batch.next < tagCount; {
			if err := stopped(ctx); err != nil {
				return st, err
			}
			if err := s.readIDs(&s.shards[i], &batch); err != nil {
				return st, err
			}
			for _, id := range batch.ids {
				if err := stopped(ctx); err != nil {
					return st, err
				}
				err := s.readMemory(&m, id)
				if errors.Is(err, ErrNotFound) {
					continue
				}
				if err != nil {
					return st, err
				}
				if err := out.Put(m); err != nil {
					return st, err
				}
			}
		}
	}
	_, err = out.End()
	return st, err
}

// readMemory makes m the memory of id at one moment, in the slices that m has.
func (s *Store) readMemory(m *stream.Memory, id string) (err error) {
	m.ID = append(m.ID[:0], id...)
	for {
		var found match
		if m.Content, err = s.appendContent(m.Content[:0], &found, id, false); err != nil {
			return err
		}
		m.Version, m.Deadline = found.h.Seq, 0
		if found.h.Flags() == 0 {
			return nil
		}
		deadline, v, err := s.expiry(id)
		if err == nil && v == m.Version {
			m.Deadline = deadline
			return nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
}
