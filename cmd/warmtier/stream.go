package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"github.com/warmtier/warmtier"
)

/*
The export format, all integers little endian:

	header   8  magic "WARMEXP\x00"
	         4  format version, 1
	memory   1  'm', or 'x' for one that expires
	         2  id length
	         4  content length
	         8  of 'x' only: when it expires, Unix time in ms
	            id, content
	         4  CRC-32C of this memory, from its mark on
	end      1  'e'
	         8  number of memories
	         4  CRC-32C of everything before, from the magic on

It can be written and read without going back. Whatever is cut off takes the end with it, and memories
that were swapped, doubled or dropped, each intact, differ in the last checksum.
*/

const (
	streamMagic   = "WARMEXP\x00"
	streamVersion = 1
	markMemory    = 'm'
	markExpires   = 'x'
	markEnd       = 'e'
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoStream is returned for input that is no export, or not a whole one.
var errNoStream = errors.New("not a whole export")

// streamWriter writes an export.
type streamWriter struct {
	w     io.Writer
	all   hash.Hash32
	count uint64
	buf   []byte
}

func newStreamWriter(w io.Writer) (*streamWriter, error) {
	s := &streamWriter{w: w, all: crc32.New(castagnoli)}
	return s, s.write(binary.LittleEndian.AppendUint32([]byte(streamMagic), streamVersion))
}

func (s *streamWriter) write(b []byte) error {
	s.all.Write(b)
	_, err := s.w.Write(b)
	return err
}

func (s *streamWriter) put(m memory) error {
	b := append(s.buf[:0], markMemory)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(m.id)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.content)))
	if !m.expires.IsZero() {
		b[0] = markExpires
		b = binary.LittleEndian.AppendUint64(b, uint64(m.expires.UnixMilli()))
	}
	b = append(append(b, m.id...), m.content...)
	s.buf = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	s.count++
	return s.write(s.buf)
}

// end makes the stream whole.
func (s *streamWriter) end() error {
	if err := s.write(binary.LittleEndian.AppendUint64([]byte{markEnd}, s.count)); err != nil {
		return err
	}
	_, err := s.w.Write(binary.LittleEndian.AppendUint32(nil, s.all.Sum32()))
	return err
}

// streamReader reads an export.
type streamReader struct {
	r     *bufio.Reader
	all   hash.Hash32
	count uint64
	buf   bytes.Buffer
}

// readStream calls put for each memory, whose content is valid until put returns. It fails unless
// the stream is whole and intact; put was called for the memories before the damage.
func readStream(r *bufio.Reader, put func(m memory) error) error {
	s := &streamReader{r: r, all: crc32.New(castagnoli)}
	head, err := s.read(12)
	if err != nil {
		return err
	}
	if string(head[:8]) != streamMagic {
		return findingError{fmt.Errorf("%w: it does not begin like one", errNoStream)}
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != streamVersion {
		return fmt.Errorf("%w: export format %d, this program reads %d", warmtier.ErrVersion, v, streamVersion)
	}
	s.all.Write(head)
	for {
		mark, err := s.read(1)
		switch {
		case err != nil:
			return err
		case mark[0] == markEnd:
			return s.readEnd()
		case mark[0] != markMemory && mark[0] != markExpires:
			return s.damaged("no memory begins where one must")
		}
		m, err := s.readMemory(mark[0])
		if err != nil {
			return err
		}
		if err := put(m); err != nil {
			return err
		}
		s.count++
	}
}

// read returns the next n bytes. It allocates as they come in, not by a length that may be damaged.
func (s *streamReader) read(n int) ([]byte, error) {
	s.buf.Reset()
	return s.more(n)
}

// more reads n bytes more, and returns all that were read.
func (s *streamReader) more(n int) ([]byte, error) {
	got, err := io.CopyN(&s.buf, s.r, int64(n))
	if errors.Is(err, io.EOF) {
		return nil, s.damaged("it ends " + counted(int64(n)-got, "byte") + " early or more")
	}
	return s.buf.Bytes(), err
}

func (s *streamReader) damaged(what string) error {
	return findingError{fmt.Errorf("%w: after %s: %s", errNoStream, counted(int64(s.count), "memory"), what)}
}

// readMemory reads what follows the mark, which is still in buf.
func (s *streamReader) readMemory(mark byte) (m memory, err error) {
	fixed := 6
	if mark == markExpires {
		fixed += 8
	}
	b, err := s.more(fixed)
	if err != nil {
		return m, err
	}
	idLen, contentLen := int(binary.LittleEndian.Uint16(b[1:])), binary.LittleEndian.Uint32(b[3:])
	if contentLen > warmtier.MaxContentLen {
		return m, s.damaged("a content is too long")
	}
	b, err = s.more(idLen + int(contentLen) + 4)
	if err != nil {
		return m, err
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return m, s.damaged("checksum mismatch")
	}
	s.all.Write(b)
	if mark == markExpires {
		m.expires = time.UnixMilli(int64(binary.LittleEndian.Uint64(body[7:])))
	}
	rest := body[1+fixed:]
	m.id, m.content = string(rest[:idLen]), rest[idLen:]
	return m, nil
}

// readEnd reads what follows the last mark, which is still in buf.
func (s *streamReader) readEnd() error {
	b, err := s.more(12)
	if err != nil {
		return err
	}
	s.all.Write(b[:9])
	switch {
	case binary.LittleEndian.Uint64(b[1:]) != s.count:
		return s.damaged(fmt.Sprintf("there were %d of them", binary.LittleEndian.Uint64(b[1:])))
	case binary.LittleEndian.Uint32(b[9:]) != s.all.Sum32():
		return s.damaged("checksum of the whole does not match")
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return s.damaged("something follows its end")
	}
	return nil
}
