package warmtier

import (
	"math/bits"
	"sync/atomic"

	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
)

// deadlines says how many live bytes of a segment expire about when, so that compactions can choose segments in
// which much has expired. Each bucket is for deadlines of one order of magnitude, seen from when the segment got the
// first one: it has their bytes, the first and the last of them, and they are taken to be spread evenly in between. A
// segment is filled in a time that is short beside the times to live of most of what is in it. So memories with one
// time to live expire one segment after the other, and that is what is seen.
//
// Writers hold the lock of a shard, or fill a target; who rates segments reads along.
type deadlines struct {
	base    atomic.Int64 // Unix time in ms; 0: there never was a deadline
	buckets [layout.DeadlineBuckets]deadlineBucket
}

type deadlineBucket struct {
	bytes       atomic.Int64
	first, last atomic.Int64 // Unix time in ms, 0 when there never was one
}

// bucketOf returns the bucket of a deadline: each reaches four times as far as the one before, the first
// one half a second, the last one for good.
func (d *deadlines) bucketOf(deadline int64) *deadlineBucket {
	ahead := uint64(max(0, deadline-d.base.Load()))
	return &d.buckets[min(bits.Len64(ahead>>8)/2, len(d.buckets)-1)]
}

// add counts a record of size bytes.
func (d *deadlines) add(c *clock, deadline int64, size int) {
	if d.base.Load() == 0 {
		d.base.CompareAndSwap(0, max(1, c.now()))
	}
	b := d.bucketOf(deadline)
	b.bytes.Add(int64(size))
	for first := b.first.Load(); (first == 0 || deadline < first) && !b.first.CompareAndSwap(first, deadline); {
		first = b.first.Load()
	}
	for last := b.last.Load(); deadline > last && !b.last.CompareAndSwap(last, deadline); {
		last = b.last.Load()
	}
}

// remove takes back what add has counted. A record without a deadline was never counted.
func (d *deadlines) remove(deadline int64, size int) {
	if deadline != 0 && d.base.Load() != 0 {
		d.bucketOf(deadline).bytes.Add(-int64(size))
	}
}

// expired estimates how many bytes have expired at now.
func (d *deadlines) expired(now int64) (bytes int64) {
	if d.base.Load() == 0 {
		return 0
	}
	for i := range d.buckets {
		b := &d.buckets[i]
		n, first, last := b.bytes.Load(), b.first.Load(), b.last.Load()
		switch {
		case n <= 0 || now < first:
		case now >= last:
			bytes += n
		default:
			bytes += int64(float64(n) * float64(now-first) / float64(last-first))
		}
	}
	return bytes
}

// expired estimates how many of the live bytes of seg have expired.
func (s *Store) expired(seg *segment) int64 {
	if seg.deadlines.base.Load() == 0 {
		return 0
	}
	return min(s.segments.liveBytes(seg), seg.deadlines.expired(s.clock.now()))
}

// unexpired estimates how many of the live bytes of seg a compaction would copy.
func (s *Store) unexpired(seg *segment) int64 {
	return max(0, s.segments.liveBytes(seg)-s.expired(seg))
}

// encode returns what a hint says of d.
func (d *deadlines) encode() (base int64, list []layout.HintDeadlines) {
	for i := range d.buckets {
		if b := &d.buckets[i]; b.bytes.Load() > 0 {
			list = append(list, layout.HintDeadlines{
				Bucket: uint32(i), Bytes: uint64(b.bytes.Load()), First: b.first.Load(), Last: b.last.Load(),
			})
		}
	}
	return d.base.Load(), list
}

// decode is the inverse of encode.
func (d *deadlines) decode(base int64, list []layout.HintDeadlines) {
	d.base.Store(base)
	for _, l := range list {
		b := &d.buckets[min(int(l.Bucket), len(d.buckets)-1)]
		b.bytes.Store(int64(l.Bytes))
		b.first.Store(l.First)
		b.last.Store(l.Last)
	}
}

// deadlineOf returns when the record at rec expires, Unix time in ms; 0 means never.
func deadlineOf(rec []byte, h record.Header) int64 {
	if h.Flags() == 0 {
		return 0
	}
	return record.Deadline(rec, h)
}
