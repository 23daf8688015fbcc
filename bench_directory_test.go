//go:build unix

package warmtier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/warmtier/warmtier/internal/dir"
	"github.com/warmtier/warmtier/internal/layout"
	"github.com/warmtier/warmtier/internal/record"
	"github.com/warmtier/warmtier/internal/vm"
)

/*
These benchmarks show what a directory store costs beside a memory store, and how long Open takes.
What a ratio compares is measured by turns in one process, and the ratio is that of the medians.
Files are in the directory of TMPDIR, and in the page cache.
*/

func directoryBenchOptions() *Options {
	return &Options{SyncInterval: -1, Maintenance: MaintenanceOptions{Disabled: true}}
}

// readAndChecksum reads the records of the segment files in dir on one core, and checks them.
func readAndChecksum(b *testing.B, dir string) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+".seg"))
	if err != nil || len(names) == 0 {
		b.Fatal("no segment files", err)
	}
	for _, name := range names {
		mem, err := os.ReadFile(name)
		if err != nil {
			b.Fatal(err)
		}
		id, _ := layout.ParseSegmentFileName(filepath.Base(name))
		h, err := layout.DecodeHeader(mem)
		if err != nil {
			b.Fatal(err)
		}
		seg := newSegment(id, mem, layout.KindLane, h.Salt)
		for offset := layout.HeaderSize; ; {
			h, ok := record.Decode(mem[offset:])
			if !ok {
				break
			}
			if !record.Intact(mem[offset:], h, seg.seedAt(offset)) {
				b.Fatal("damaged record in", name)
			}
			offset += h.Size()
		}
	}
}

// BenchmarkDirectoryOpen times Open with and without the hint, against reading and checksumming the
// same files on one core.
func BenchmarkDirectoryOpen(b *testing.B) {
	n := inShort(10_000, 1_000_000)
	dir := b.TempDir()
	s, err := Open(dir, directoryBenchOptions())
	if err != nil {
		b.Fatal(err)
	}
	content := make([]byte, 256)
	for i := range n {
		putBench(b, s, content, i)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	times := turns{}
	open := func(name string) {
		var s *Store
		times.take(name, func() {
			if s, err = Open(dir, directoryBenchOptions()); err != nil {
				b.Fatal(err)
			}
		})
		if s.Len() != n {
			b.Fatal("memories:", s.Len())
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		times.take("read", func() { readAndChecksum(b, dir) })
		open("hint")
		if err := os.Remove(filepath.Join(dir, layout.HintName)); err != nil {
			b.Fatal(err)
		}
		open("scan")
	}
	b.ReportMetric(float64(median(times["read"]).Milliseconds()), "read-ms")
	b.ReportMetric(float64(median(times["scan"]).Milliseconds()), "scan-ms")
	b.ReportMetric(float64(median(times["hint"]).Milliseconds()), "hint-ms")
	times.report(b, "scan", "read", "scan-x-read")
	times.report(b, "hint", "read", "hint-x-read")
}

// BenchmarkDirectoryCalls times Put and Get in a directory store, against those in a memory store.
func BenchmarkDirectoryCalls(b *testing.B) {
	z := benchSize{inShort(10_000, 1_000_000), 256}
	content := make([]byte, z.content)
	ids := uniformIDs(z.n)
	times := turns{}
	var buf []byte
	for b.Loop() {
		for _, kind := range []string{"memory", "directory"} {
			dir := ""
			if kind == "directory" {
				dir = b.TempDir()
			}
			s, err := Open(dir, directoryBenchOptions())
			if err != nil {
				b.Fatal(err)
			}
			for _, pass := range []string{"fill ", "put "} {
				times.take(pass+kind, func() {
					for i := range z.n {
						if err := s.Put(ids.at(i), content); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			times.take("get "+kind, func() {
				for i := range z.n {
					if buf, err = s.AppendContent(buf[:0], ids.at(i)); err != nil {
						b.Fatal(err)
					}
				}
			})
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			if dir != "" {
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	for _, call := range []string{"fill", "put", "get"} {
		b.ReportMetric(float64(median(times[call+" directory"]).Nanoseconds())/float64(z.n), call+"-ns")
		times.report(b, call+" directory", call+" memory", call+"-x-memory")
	}
}

// BenchmarkDirectoryCompact compacts stores of which a random half is dead, by turns in memory and in a directory.
//
//	memory-ms, directory-ms  medians of the turns
//	x-memory                 of these
//	write-ms                 a file of as many bytes as were live, written with pwrite in pieces of 64 KiB
//	flush-ms                 its fsync after that
//	remove-ms                removing a file of as many bytes as the records had before, page by page in the page cache
//	floor-x                  memory-ms, write-ms and remove-ms together over memory-ms: if the disk took no time
func BenchmarkDirectoryCompact(b *testing.B) {
	z := inShort(benchSize{5000, 1024}, benchSize{1_000_000, 1024})
	stores := map[string]*halfDead{}
	for _, kind := range []string{"memory", "directory"} {
		dir := ""
		if kind == "directory" {
			dir = b.TempDir()
		}
		s, err := Open(dir, directoryBenchOptions())
		if err != nil {
			b.Fatal(err)
		}
		defer closeBench(b, s)
		stores[kind] = &halfDead{Store: s, benchSize: z, content: make([]byte, z.content)}
	}
	times := turns{}
	for b.Loop() {
		var total int64
		for _, kind := range []string{"memory", "directory"} {
			h := stores[kind]
			h.prepare(b)
			if err := h.Sync(); err != nil { // what was written before is not the compaction's to flush
				b.Fatal(err)
			}
			total = h.Stats().TotalBytes
			times.take(kind, func() {
				if _, err := h.Compact(context.Background()); err != nil {
					b.Fatal(err)
				}
			})
		}
		timePlainFiles(b, times, stores["directory"].Stats().LiveBytes, total)
	}
	for kind := range times {
		b.ReportMetric(median(times[kind]).Seconds()*1e3, kind+"-ms")
	}
	times.report(b, "directory", "memory", "x-memory")
	memory, write, remove := median(times["memory"]), median(times["write"]), median(times["remove"])
	b.ReportMetric(float64(memory+write+remove)/float64(memory), "floor-x")
}

// timePlainFiles times what a compaction in a directory does to files, with plain ones: it writes and flushes as many
// bytes as are live, and removes as many as there are in all.
func timePlainFiles(b *testing.B, times turns, live, total int64) {
	f := createFile(b)
	times.take("write", func() { writeFile(b, f, live, chunkSize) })
	times.take("flush", func() {
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	})
	removeFile(b, f)
	f = createFile(b)
	writeFile(b, f, total, vm.PageSize)
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	times.take("remove", func() { removeFile(b, f) })
}

func createFile(b *testing.B) *os.File {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "plain"))
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// writeFile writes so many bytes to f, a piece at a time.
func writeFile(b *testing.B, f *os.File, size int64, piece int) {
	b.Helper()
	content := make([]byte, piece)
	for at := int64(0); at < size; at += int64(piece) {
		if _, err := f.WriteAt(content, at); err != nil {
			b.Fatal(err)
		}
	}
}

func removeFile(b *testing.B, f *os.File) {
	b.Helper()
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDirectoryLarge times Put of new contents in a directory, by turns with a pwrite of as much into a file, and
// then reads of all of them, in another order, all of it in the page cache and not flushed.
//
//	put-µs, pwrite-µs, x-pwrite  of one, medians of the turns
//	log-µs, x-log                with pwrite where the records lie, which is no multiple of a page, in files of a
//	                             segment's size that have their space: the least that a log does
//	get-µs                       the first read of each
func BenchmarkDirectoryLarge(b *testing.B) {
	for _, size := range []int{1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("content=%dKiB", size>>10), func(b *testing.B) {
			benchLarge(b, inShort(100, 20_000<<14/size), size)
		})
	}
}

func benchLarge(b *testing.B, n, size int) {
	content, times := make([]byte, size), turns{}
	const step = 7919 // prime to n
	for b.Loop() {
		f := createFile(b)
		times.take("pwrite", func() { writeFile(b, f, int64(n*size), size) })
		removeFile(b, f)
		timeLog(b, times, n, content)
		dir := b.TempDir()
		s, err := Open(dir, directoryBenchOptions())
		if err != nil {
			b.Fatal(err)
		}
		times.take("put", func() {
			for i := range n {
				putBench(b, s, content, i)
			}
		})
		times.take("get", func() {
			var buf []byte
			for i := range n {
				if buf, err = s.AppendContent(buf[:0], benchID(i*step%n)); err != nil {
					b.Fatal(err)
				}
			}
		})
		closeBench(b, s)
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
	}
	for what := range times {
		b.ReportMetric(median(times[what]).Seconds()*1e6/float64(n), what+"-µs")
	}
	times.report(b, "put", "pwrite", "x-pwrite")
	times.report(b, "put", "log", "x-log")
}

// timeLog writes n records with content to files as a store does, with one system call each, and nothing else.
func timeLog(b *testing.B, times turns, n int, content []byte) {
	path := b.TempDir()
	d, err := dir.At(path)
	if err != nil {
		b.Fatal(err)
	}
	var files []dir.File
	prefix := make([]byte, record.HeaderSize+benchIDLen)
	size, capacity := record.Size(benchIDLen, len(content)), defaultSegmentSize
	create := func() dir.File {
		f, err := d.Create(strconv.Itoa(len(files)), capacity)
		if err != nil {
			b.Fatal(err)
		}
		files = append(files, f)
		return f
	}
	if !create().Writes() { // there are no such system calls here
		n = 0
	}
	times.take("log", func() {
		for at := layout.HeaderSize; n > 0; n-- {
			if at+size > capacity {
				create()
				at = layout.HeaderSize
			}
			if err := files[len(files)-1].WriteAt(at, prefix, content); err != nil {
				b.Fatal(err)
			}
			at += size
		}
	})
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	if err := errors.Join(err, d.Close(), os.RemoveAll(path)); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFaultGuard times the fault guard alone, around a copy of 512 B: each call on a directory
// store pays for it once or more. The copy is in a function of its own in both cases, and does not
// fault.
func BenchmarkFaultGuard(b *testing.B) {
	s := &Store{}
	src, dst := make([]byte, 512), make([]byte, 512)
	for _, guarded := range []bool{false, true} {
		b.Run(fmt.Sprintf("guard=%v", guarded), func(b *testing.B) {
			fn := copyUnguarded
			if guarded {
				fn = s.copyWithGuard
			}
			for b.Loop() {
				if err := fn(dst, src); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

//go:noinline
func copyUnguarded(dst, src []byte) (err error) {
	copy(dst, src)
	return nil
}

//go:noinline
func (s *Store) copyWithGuard(dst, src []byte) (err error) {
	defer s.catchFault(armFaults(), &err)
	copy(dst, src)
	return nil
}
