// Package stream is the bytes of an export: memories in chunks, each with a checksum, and an end that says how many
// there are. It knows nothing of stores.
package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

/*
The bytes of an export, all integers little endian; docs/format.md says the same for the author of another reader.

	header   0   8  magic "WARMEXP\x00"
	         8   4  version, 2
	         12  4  flags, 0
	         16  8  id of the export, random
	         24  4  0
	         28  4  CRC-32C of bytes 0 to 27
	chunk    0   4  n: number of memories, 0 in the last chunk
	         4   4  length of the body, bytes
	         8   8  number of the chunk, from 1
	         16  4  CRC-32C of the export's id and bytes 0 to 15
	         20     body
	             4  CRC-32C of the export's id, the number of the chunk, and the body
	memory   0   2  length of the id, 1 to 65,535
	         2   2  flags: 1 when it has a deadline
	         4   4  length of the content, at most 2^30
	         8   8  version
	         16  8  deadline, Unix time in ms, by its flag
	                id, content
	end      0   8  number of memories in the stream       the body of the last chunk
	         8   8  bytes of their ids and contents
	         16  8  the highest version among them

A chunk ends with the memory that makes it maxBody bytes or longer. Both checksums cover the export's id and
the number of the chunk: a chunk that is missing, doubled, in another place or of another export is one that does not
verify. No length is believed before its checksum.
*/

// Sizes, bytes, and numbers.
const (
	magic      = "WARMEXP\x00"
	version    = 2
	headerSize = 32
	chunkSize  = 20 // of what comes before the body
	memorySize = 16 // of what comes before the id, but for the deadline
	endSize    = 24
	// maxBody ends a chunk. Its buffer grows beyond it, and is to stay under 256 KiB where contents are short: more
	// in one piece of the Go heap could hold up a collection, and with it readers.
	maxBody = 128 << 10

	flagDeadline = 1

	// MaxIDLen and MaxContentLen bound what a memory has, bytes.
	MaxIDLen      = 1<<16 - 1
	MaxContentLen = 1 << 30
)

// ErrVersion means that a stream is intact, and of a version that this package does not read.
var ErrVersion = errors.New("version of the export")

// DamageError says where a stream is not as it was written.
type DamageError struct {
	Offset int64 // bytes
	Reason string
}

// Error gives both.
func (e *DamageError) Error() string { return fmt.Sprintf("at offset %d: %s", e.Offset, e.Reason) }

// Memory is one of a stream. A reader's slices are valid until the next one is read.
type Memory struct {
	ID, Content []byte
	Version     uint64
	Deadline    int64 // Unix time in ms, 0 for none

	unknown uint16 // flags that a later writer has set
}

// Total is what the end says of a stream.
type Total struct {
	Memories   int64
	Bytes      int64 // of ids and contents
	MaxVersion uint64
}

func (t *Total) add(m *Memory) {
	t.Memories++
	t.Bytes += int64(len(m.ID) + len(m.Content))
	t.MaxVersion = max(t.MaxVersion, m.Version)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sums makes the checksums of an export.
type sums struct{ id [8]byte }

func (s sums) of(parts ...[]byte) uint32 {
	sum := crc32.Checksum(s.id[:], castagnoli)
	for _, b := range parts {
		sum = crc32.Update(sum, castagnoli, b)
	}
	return sum
}

// Writer writes a stream.
type Writer struct {
	w       io.Writer
	sums    sums
	total   Total
	written int64
	number  uint64
	n       int    // memories in body
	body    []byte // of the chunk that is being filled
}

// NewWriter begins the stream with this id.
func NewWriter(w io.Writer, id uint64) (*Writer, error) {
	s := &Writer{w: w}
	binary.LittleEndian.PutUint64(s.sums.id[:], id)
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], version)
	copy(b[16:], s.sums.id[:])
	binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return s, s.write(b)
}

func (s *Writer) write(b []byte) error {
	n, err := s.w.Write(b)
	s.written += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// Put adds m, of which it keeps nothing.
func (s *Writer) Put(m Memory) error {
	flags := uint16(0)
	if m.Deadline != 0 {
		flags = flagDeadline
	}
	b := binary.LittleEndian.AppendUint16(s.body, uint16(len(m.ID)))
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.Content)))
	b = binary.LittleEndian.AppendUint64(b, m.Version)
	if m.Deadline != 0 {
		b = binary.LittleEndian.AppendUint64(b, uint64(m.Deadline))
	}
	s.body = append(append(b, m.ID...), m.Content...)
	s.n++
	s.total.add(&m)
	if len(s.body) < maxBody {
		return nil
	}
	return s.flush()
}

// flush writes the chunk that is being filled.
func (s *Writer) flush() error {
	s.number++
	b := make([]byte, chunkSize, chunkSize+4)
	binary.LittleEndian.PutUint32(b, uint32(s.n))
	binary.LittleEndian.PutUint32(b[4:], uint32(len(s.body)))
	binary.LittleEndian.PutUint64(b[8:], s.number)
	binary.LittleEndian.PutUint32(b[16:], s.sums.of(b[:16]))
	if err := s.write(b); err != nil {
		return err
	}
	if err := s.write(s.body); err != nil {
		return err
	}
	err := s.write(binary.LittleEndian.AppendUint32(nil, s.sums.of(b[8:16], s.body)))
	s.n, s.body = 0, s.body[:0]
	if cap(s.body) > 8*maxBody {
		s.body = nil
	}
	return err
}

// End makes the stream whole, and returns what is in it.
func (s *Writer) End() (Total, error) {
	if s.n > 0 {
		if err := s.flush(); err != nil {
			return s.total, err
		}
	}
	s.body = binary.LittleEndian.AppendUint64(s.body[:0], uint64(s.total.Memories))
	s.body = binary.LittleEndian.AppendUint64(s.body, uint64(s.total.Bytes))
	s.body = binary.LittleEndian.AppendUint64(s.body, s.total.MaxVersion)
	return s.total, s.flush()
}

// Total returns what was put so far.
func (s *Writer) Total() Total { return s.total }

// Written returns how many bytes were written.
func (s *Writer) Written() int64 { return s.written }

// Reader reads a stream.
type Reader struct {
	r      *bufio.Reader
	sums   sums
	total  Total
	at     int64 // bytes read
	number uint64
	n      int    // memories left in body
	body   []byte // what is left of the chunk that is being read
	buffer []byte
	ended  bool
}

// NewReader reads the header of a stream. Its error may be [ErrVersion] or a [*DamageError].
func NewReader(r io.Reader) (*Reader, error) {
	s := &Reader{r: bufio.NewReaderSize(nil, 64<<10)}
	if err := s.Reset(r); err != nil {
		return nil, err
	}
	return s, nil
}

// Reset makes s a new Reader of r, which uses the memory that s has. Errors: as NewReader.
func (s *Reader) Reset(r io.Reader) error {
	s.r.Reset(r)
	*s = Reader{r: s.r, buffer: s.buffer}
	b, err := s.read(headerSize)
	switch {
	case err != nil:
		return err
	case string(b[:8]) != magic:
		return &DamageError{Reason: "it does not begin like an export"}
	case binary.LittleEndian.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli):
		return &DamageError{Reason: "checksum mismatch in the header"}
	}
	if v, flags := binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:]); v != version || flags != 0 {
		return fmt.Errorf("%w is %d with flags %#x, this package reads %d", ErrVersion, v, flags, version)
	}
	copy(s.sums.id[:], b[16:])
	return nil
}

// read returns the next n bytes. It allocates as they come in: all n when a quarter of them has come, or 1 MiB.
func (s *Reader) read(n int) ([]byte, error) {
	s.buffer = s.buffer[:0]
	for from := 0; from < n; from = len(s.buffer) {
		to := min(n, from+1<<20)
		if to > cap(s.buffer) {
			size := n
			for size/4 >= to {
				size /= 4
			}
			s.buffer = append(make([]byte, 0, size), s.buffer...)
		}
		s.buffer = s.buffer[:to]
		got, err := io.ReadFull(s.r, s.buffer[from:])
		s.at += int64(got)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, s.damaged("it ends before its end mark")
		}
		if err != nil {
			return nil, err
		}
	}
	return s.buffer, nil
}

func (s *Reader) damaged(reason string) error { return &DamageError{Offset: s.at, Reason: reason} }

// Next returns the next memory, and io.EOF when the stream has ended and was whole. Its error may be a
// [*DamageError]: then the memories before it were not those of a whole stream.
func (s *Reader) Next() (m Memory, err error) {
	for s.n == 0 {
		if s.ended {
			return m, io.EOF
		}
		if err := s.nextChunk(); err != nil {
			return m, err
		}
	}
	m, ok := s.take()
	switch s.n--; {
	case m.unknown != 0:
		return m, fmt.Errorf("%w has memories with flags %#x, which this package does not know", ErrVersion, m.unknown)
	case !ok || s.n == 0 && len(s.body) > 0:
		return m, s.damaged("a chunk does not hold what it says") // though its checksum is right
	}
	s.total.add(&m)
	return m, nil
}

// nextChunk reads one chunk.
func (s *Reader) nextChunk() error {
	head, err := s.read(chunkSize)
	if err != nil {
		return err
	}
	s.number++
	n, length := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	number := [8]byte(head[8:])
	switch {
	case binary.LittleEndian.Uint32(head[16:]) != s.sums.of(head[:16]):
		return s.damaged("checksum mismatch before a chunk")
	case binary.LittleEndian.Uint64(number[:]) != s.number:
		return s.damaged(fmt.Sprintf("chunk %d where chunk %d belongs", binary.LittleEndian.Uint64(number[:]), s.number))
	case uint64(length) > maxBody+memorySize+8+MaxIDLen+MaxContentLen:
		return s.damaged("a chunk is too long")
	}
	b, err := s.read(int(length) + 4)
	if err != nil {
		return err
	}
	body := b[:length]
	if binary.LittleEndian.Uint32(b[length:]) != s.sums.of(number[:], body) {
		return s.damaged("checksum mismatch in a chunk")
	}
	s.n, s.body = int(n), body
	if n == 0 {
		return s.end()
	}
	return nil
}

// take takes a memory out of the body.
func (s *Reader) take() (m Memory, ok bool) {
	b := s.body
	if len(b) < memorySize {
		return m, false
	}
	idLen, flags := int(binary.LittleEndian.Uint16(b)), binary.LittleEndian.Uint16(b[2:])
	contentLen := int(binary.LittleEndian.Uint32(b[4:]))
	m.Version = binary.LittleEndian.Uint64(b[8:])
	b = b[memorySize:]
	if m.unknown = flags &^ flagDeadline; m.unknown != 0 {
		return m, false
	}
	if flags == flagDeadline {
		if len(b) < 8 {
			return m, false
		}
		m.Deadline = int64(binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	if idLen == 0 || contentLen > MaxContentLen || len(b) < idLen+contentLen {
		return m, false
	}
	m.ID, m.Content, s.body = b[:idLen], b[idLen:idLen+contentLen], b[idLen+contentLen:]
	return m, true
}

// end checks what the last chunk says, and that nothing follows.
func (s *Reader) end() error {
	b := s.body
	if len(b) != endSize {
		return s.damaged("no end where one must be")
	}
	said := Total{
		Memories: int64(binary.LittleEndian.Uint64(b)), Bytes: int64(binary.LittleEndian.Uint64(b[8:])),
		MaxVersion: binary.LittleEndian.Uint64(b[16:]),
	}
	if said != s.total {
		return s.damaged(fmt.Sprintf("the end says %+v, there were %+v", said, s.total))
	}
	switch _, err := s.r.ReadByte(); {
	case errors.Is(err, io.EOF):
		s.ended = true
		return nil
	case err != nil:
		return err
	}
	return s.damaged("something follows the end")
}

// Total returns what was read so far.
func (s *Reader) Total() Total { return s.total }

// Read returns how many bytes were read.
func (s *Reader) Read() int64 { return s.at }
