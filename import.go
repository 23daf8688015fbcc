package warmtier

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/stream"
)

/*
An import is all of a stream or nothing. Whether a stream is whole is known at its end only, and it may be longer than
memory. So it is read twice: to its end, and then to be stored. One that cannot be read twice is written to a temporary
file as it comes. (To write it into segments that count when all of it is there was the alternative: docs/design.md,
section 15.)

What is stored gets versions of its own, above every one in the stream: who has seen a version of the exported store
never finds it on another content here. They are noted, each with its id, in another temporary file: where storing
fails, each memory that still has the version that it got is deleted. Close waits for that: it would keep deletions out.
So does another import, which would leave alone what is about to be deleted, and return nil with a part of its stream:

	import 1                        import 2, of the same stream
	stores "a"
	                                finds "a" and leaves it alone, ends with all others
	fails, and deletes "a"
*/

// mostImported bounds the versions in a stream: a higher one would use up those that are left.
const mostImported = 1 << 62

// Import stores the memories of a stream that [Store.Export] wrote, of this or another store: all of it, or nothing.
// A memory whose id the store has when its turn comes is left alone; what has expired is left out; deadlines stay what
// they were. Imported memories get new versions, above all in the stream. Everything is durable when it returns nil.
//
// Nothing is stored before all of the stream was read and checked. If r is an [io.Seeker] it is read twice; other
// streams are kept, as they come, in a temporary file ([os.CreateTemp], in $TMPDIR), as large as the stream. Another
// one has the ids, and 10 bytes for each. Beside these an import takes the memory of the longest content, a quarter
// more while it comes in, and some 256 KiB. Other calls see the memories one by one; a second Import begins to store
// when the first has ended. After a crash on the way some are there: to import again adds the others, and where that is
// not enough, import into a new directory, and name it when Import has returned. A store that evicts may drop some of
// them, or of what it had, while others come.
//
// r must call neither Close nor Import, which wait for Import to end. It panics when ctx is nil.
//
// Errors: [ErrCorrupt] for a stream that is not whole, with the offset in a [*CorruptError]; [ErrVersion] for one of
// another format; ctx's error with its cause; what r returns; those of the temporary file, and of [Store.Put]. Nothing
// of the stream is stored when it returns one, with one exception: after [ErrSyncFailed], which ends all writing, a
// part of it is.
func (s *Store) Import(ctx context.Context, r io.Reader) (ExportStats, error) {
	checkContext(ctx)
	start := time.Now()
	if err := s.checkWritable(); err != nil {
		return ExportStats{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return ExportStats{}, err
	}
	defer done()
	i := importing{s: s}
	defer i.release()
	err = i.run(ctx, r)
	i.stats.Duration = time.Since(start)
	if err != nil && ctx.Err() != nil { // an error of r may be that of another store, which was stopped
		err = s.whyStopped(ctx, err)
	}
	if err != nil {
		err = fmt.Errorf("warmtier: import: %w", inner{err})
	}
	return i.stats, err
}

// importing is one import.
type importing struct {
	s     *Store
	in    io.ReadSeeker // where the stream can be read again
	begin int64         // where it begins there
	read  *stream.Reader
	total stream.Total // of the first time
	stats ExportStats
	kept  []*os.File // temporary files
	named []string   // those of them that still have a name
	drawn drawnLog
}

// drawnLog has what was stored, each with its version (8 bytes), the length of its id (2), and its id.
type drawnLog struct {
	file *os.File
	size int64  // bytes in file
	tail []byte // that are not in file yet
}

func (l *drawnLog) note(id []byte, v Version) error {
	l.tail = binary.LittleEndian.AppendUint64(l.tail, uint64(v))
	l.tail = append(binary.LittleEndian.AppendUint16(l.tail, uint16(len(id))), id...)
	if len(l.tail) < 64<<10 {
		return nil
	}
	n, err := l.file.WriteAt(l.tail, l.size)
	if err == nil {
		l.size, l.tail = l.size+int64(n), l.tail[:0]
	}
	return err
}

// each calls fn for all that was noted, until it returns an error.
func (l *drawnLog) each(fn func(id string, v Version) error) error {
	r := bufio.NewReader(io.MultiReader(io.NewSectionReader(l.file, 0, l.size), bytes.NewReader(l.tail)))
	var head [10]byte
	for {
		_, err := io.ReadFull(r, head[:])
		if errors.Is(err, io.EOF) {
			return nil
		}
		id := make([]byte, binary.LittleEndian.Uint16(head[8:]))
		if err == nil {
			_, err = io.ReadFull(r, id)
		}
		if err == nil {
			err = fn(string(id), Version(binary.LittleEndian.Uint64(head[:])))
		}
		if err != nil {
			return err
		}
	}
}

func (i *importing) run(ctx context.Context, r io.Reader) error {
	if err := i.check(ctx, r); err != nil {
		return err
	}
	file, err := i.temporary()
	if err != nil {
		return err
	}
	i.drawn.file = file
	done, err := i.s.takeImportTurn(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := stopped(ctx); err != nil {
		return err
	}
	if err := i.s.skipNumbers(i.total.MaxVersion); err != nil {
		return err
	}
	finished := false
	defer func() { // a reader may panic
		if !finished {
			_ = i.undo()
		}
	}()
	if err = i.store(ctx); err == nil {
		err = i.s.medium.sync()
	}
	finished = true
	if err != nil {
		if failed := i.undo(); failed != nil {
			err = fmt.Errorf("%w; a part of it is stored, and could not be deleted again: %w", err, failed)
		}
	}
	return err
}

// takeImportTurn waits until no other import stores. Until done others wait, and Close does.
func (s *Store) takeImportTurn(ctx context.Context) (done func(), err error) {
	done = func() { <-s.importing }
	select {
	case s.importing <- struct{}{}:
		return done, nil
	default:
	}
	_ = s.hooks.fire(pointImportWaits)
	select {
	case s.importing <- struct{}{}:
		return done, nil
	case <-ctx.Done():
		return nil, errStopped
	}
}

// check reads r to its end, and notes where the stream can be read again.
func (i *importing) check(ctx context.Context, r io.Reader) (err error) {
	i.in, _ = r.(io.ReadSeeker)
	if i.in != nil {
		i.begin, err = i.in.Seek(0, io.SeekCurrent)
	}
	if i.in == nil || err != nil { // a pipe is a file, too
		file, err := i.temporary()
		if err != nil {
			return err
		}
		i.in, i.begin, r = file, 0, io.TeeReader(r, file)
	}
	in, err := stream.NewReader(r)
	for err == nil {
		if err = stopped(ctx); err == nil {
			_, err = in.Next()
		}
	}
	if !errors.Is(err, io.EOF) {
		return damagedExport(err)
	}
	i.read, i.total, i.stats.Bytes = in, in.Total(), in.Read()
	if v := i.total.MaxVersion; v > mostImported && v > i.s.sequence.Load() { // which it has drawn itself, or skipped
		return &CorruptError{
			File: exportName, Reason: fmt.Sprintf("it has version %d, the limit is %d", v, uint64(mostImported)),
		}
	}
	return nil
}

// exportName is what errors call a stream.
const exportName = "export"

// damagedExport returns an error of a stream as callers get it.
func damagedExport(err error) error {
	if damage, ok := errors.AsType[*stream.DamageError](err); ok {
		return &CorruptError{File: exportName, Offset: damage.Offset, Reason: damage.Reason}
	}
	if errors.Is(err, stream.ErrVersion) {
		return fmt.Errorf("%w: %w", ErrVersion, err)
	}
	return err
}

// temporary makes a file that is gone with release, and with the process where an open file can lose its name.
func (i *importing) temporary() (*os.File, error) {
	file, err := os.CreateTemp("", "warmtier-import-*")
	if err != nil {
		return nil, err
	}
	i.kept = append(i.kept, file)
	if os.Remove(file.Name()) != nil {
		i.named = append(i.named, file.Name())
	}
	return file, nil
}

func (i *importing) release() {
	for _, file := range i.kept {
		_ = file.Close()
	}
	for _, name := range i.named {
		_ = os.Remove(name)
	}
}

// store stores the memories of the stream, which it reads from its begin.
func (i *importing) store(ctx context.Context) error {
	if _, err := i.in.Seek(i.begin, io.SeekStart); err != nil {
		return err
	}
	in := i.read
	if err := in.Reset(i.in); err != nil {
		return damagedExport(err)
	}
	for {
		if err := stopped(ctx); err != nil {
			return err
		}
		m, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damagedExport(err)
		}
		v, err := i.storeOne(&m)
		if err != nil {
			return err
		}
		if v != 0 {
			if err := i.drawn.note(m.ID, v); err != nil {
				return err
			}
		}
	}
	if in.Total() != i.total {
		return &CorruptError{File: exportName, Reason: "it was changed while it was imported"}
	}
	return nil
}

// storeOne stores m if its id has no memory, and returns its version; 0 when it has one, or m has expired.
func (i *importing) storeOne(m *stream.Memory) (Version, error) {
	s := i.s
	if m.Deadline != 0 && m.Deadline <= s.clock.now() {
		i.stats.Expired++
		return 0, nil
	}
	d := draft{id: string(m.ID), content: m.Content, deadline: m.Deadline, kind: record.KindMemory,
		condition: condition{asked: true}}
	d.size = record.Size(len(d.id), len(d.content))
	if d.deadline != 0 {
		d.size += record.DeadlineSize
	}
	d.place(s, d.id)
	d.sum = record.Checksum(d.content)
	put := s.putShared
	if d.size > s.largeSize() {
		put = s.putLarge
	}
	err := put(&d)
	if errors.Is(err, ErrChanged) {
		i.stats.Existing++
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	i.stats.Memories++
	s.trimReplaced()
	s.sweepNoted()
	return d.condition.found, nil
}

// undo deletes what was stored, unless others have stored or deleted it since.
func (i *importing) undo() error {
	i.stats.Memories, i.stats.Existing, i.stats.Expired = 0, 0, 0
	if err := i.drawn.each(i.deleteOne); err != nil {
		return err
	}
	return i.s.medium.sync()
}

// deleteOne deletes the memory of id if it has version v.
func (i *importing) deleteOne(id string, v Version) error {
	d := i.s.tombstoneOf(id)
	d.condition = condition{asked: true, wanted: v}
	_, err := i.s.remove(&d)
	if errors.Is(err, ErrChanged) {
		return nil
	}
	i.s.sweepNoted()
	return err
}

// skipNumbers makes every number drawn from here on higher than seq.
func (s *Store) skipNumbers(seq uint64) error {
	if s.disk != nil {
		return s.disk.skipNumbers(seq)
	}
	s.raiseNumber(seq)
	return nil
}

func (s *Store) raiseNumber(seq uint64) {
	for {
		now := s.sequence.Load()
		if now >= seq || s.sequence.CompareAndSwap(now, seq) {
			return
		}
	}
}

// skipNumbers writes a manifest that knows of seq first: recovery misses numbers above the manifest's that have no
// record. No other manifest comes between, which would not know of it.
func (d *disk) skipNumbers(seq uint64) error {
	d.manifestMu.Lock()
	defer d.manifestMu.Unlock()
	if err := d.s.failedSync(); err != nil {
		return err
	}
	m := d.snapshotManifest(nil, nil)
	if m.MaxSeq >= seq {
		return nil
	}
	m.MaxSeq = seq
	err := d.fs.Sync() // the names in it first
	if err == nil {
		_, err = d.writeManifest(m)
	}
	if err != nil {
		return d.s.failSync(err)
	}
	d.s.raiseNumber(seq)
	return nil
}
