package main

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ulikunitz/xz"
)

// blockContent is the size of contents where a trace names none, bytes.
const blockContent = 256

// traceReaders read requests in the order of a trace: they call add with an id and, where the trace has
// sizes, that of the content, bytes.
var traceReaders = map[string]func(r io.Reader, add func(id uint64, size uint32)) error{
	"adapt_size.txt.gz":   readTimed,
	"cloudphysics.csv.gz": readCloudphysics,
	"oltp.gz":             readBlocks,
	"p3.gz":               readBlocks,
	"scarab.xz":           readNumbers,
}

// loadTrace reads a trace. Ids become numbers in the order in which they first appear; the size of a
// memory is the first one that the trace gives.
func loadTrace(dir, name string) (requests, sizes []uint32, err error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	var r io.Reader
	if strings.HasSuffix(name, ".xz") {
		r, err = xz.NewReader(f)
	} else {
		r, err = gzip.NewReader(f)
	}
	if err != nil {
		return nil, nil, err
	}
	number := map[uint64]uint32{}
	err = traceReaders[name](bufio.NewReaderSize(r, 1<<20), func(id uint64, size uint32) {
		i, known := number[id]
		if !known {
			i = uint32(len(sizes))
			number[id] = i
			sizes = append(sizes, size)
		}
		requests = append(requests, i)
	})
	return requests, sizes, err
}

// eachLine calls fn with the fields of every line of r.
func eachLine(r io.Reader, fn func(fields []string) error) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if err := fn(strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == ',' })); err != nil {
			return fmt.Errorf("trace line %q: %w", line, err)
		}
	}
	return lines.Err()
}

// numbers returns fields as numbers, and no error only when there are so many of them.
func numbers(fields []string, n int) ([]uint64, error) {
	if len(fields) < n {
		return nil, fmt.Errorf("%d fields, want %d", len(fields), n)
	}
	out := make([]uint64, n)
	for i := range out {
		var err error
		if out[i], err = strconv.ParseUint(fields[i], 10, 64); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readTimed reads lines of time, id and size.
func readTimed(r io.Reader, add func(uint64, uint32)) error {
	return eachLine(r, func(fields []string) error {
		n, err := numbers(fields, 3)
		if err == nil {
			add(n[1], uint32(n[2]))
		}
		return err
	})
}

// readCloudphysics reads lines of version, time, operation, size and block, after a title.
func readCloudphysics(r io.Reader, add func(uint64, uint32)) error {
	return eachLine(r, func(fields []string) error {
		if fields[0] == "version" {
			return nil
		}
		if len(fields) != 5 {
			return fmt.Errorf("%d fields, want 5", len(fields))
		}
		n, err := numbers(fields[3:], 2)
		if err == nil {
			add(n[1], uint32(n[0]))
		}
		return err
	})
}

// readBlocks reads lines of a first block and how many blocks from there on are asked for.
func readBlocks(r io.Reader, add func(uint64, uint32)) error {
	return eachLine(r, func(fields []string) error {
		n, err := numbers(fields, 2)
		if err != nil {
			return err
		}
		for i := range n[1] {
			add(n[0]+i, blockContent)
		}
		return nil
	})
}

// readNumbers reads ids of 8 bytes, big-endian.
func readNumbers(r io.Reader, add func(uint64, uint32)) error {
	var b [8]byte
	for {
		if _, err := io.ReadFull(r, b[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		add(binary.BigEndian.Uint64(b[:]), blockContent)
	}
}

// hitSuite replays traces against caches that evict.
func hitSuite(traces string) suite {
	s := suite{name: "hits", extra: true, title: "Share of hits of caches that evict", note: "Traces asked of an empty " +
		"cache, in their order; what is missing is stored. Each has room for a share of all ids and contents: warmtier as " +
		"MaxBytes, which bounds everything it takes, the others as the bound of ids and contents that they have. " +
		"Contents have 256 B where a trace has no sizes (oltp, scarab, p3). Freecache takes no content over 1/1024 of " +
		"its room, bigcache none over a sixteenth."}
	for _, t := range []struct{ table, file string }{
		{"Content server (adapt_size)", "adapt_size.txt.gz"},
		{"Virtual machine (cloudphysics)", "cloudphysics.csv.gz"},
		{"Database (oltp)", "oltp.gz"},
		{"Recommendations (scarab)", "scarab.xz"},
		{"Workstation (p3)", "p3.gz"},
	} {
		for _, share := range []int{5, 10, 20} {
			s.cells = append(s.cells, cell{table: t.table, column: strconv.Itoa(share) + " %", unit: "% hits",
				do: "hits", peers: bounded, data: dataset{Sizes: t.file, Traces: traces, Share: share, Empty: true},
				work: workload{IDs: "trace"}})
		}
	}
	return s
}
