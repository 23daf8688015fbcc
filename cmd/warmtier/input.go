package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/warmtier/warmtier"
)

/*
What a command stores comes from a regular file, which is read where it is, or from anything else: a terminal,
a pipe, a FIFO. That is read to its end before the store is opened, so that what is interrupted stores nothing,
and a slow sender holds no store. It is kept in memory while it is small, and else in a temporary file.
*/

// input is what a command stores, of a known size. It can be read again from its start.
type input struct {
	io.ReadSeeker
	size    int64
	file    *os.File // to be closed
	regular bool     // file is what was named
}

func (in *input) close() {
	if in.file != nil {
		_ = in.file.Close() // it was only read, or has no name any more
	}
}

// maxBuffered bounds what is kept in memory of an input that is no regular file, bytes.
const maxBuffered = 1 << 20

// checkLength returns an error if a content of size bytes is too long; one byte too many may be all that was read.
func checkLength(size int64) error {
	switch {
	case size <= warmtier.MaxContentLen:
		return nil
	case size == warmtier.MaxContentLen+1:
		return fmt.Errorf("%w: over the limit of %d bytes", warmtier.ErrContentTooLarge, warmtier.MaxContentLen)
	}
	return fmt.Errorf("%w: %d bytes, limit %d", warmtier.ErrContentTooLarge, size, warmtier.MaxContentLen)
}

// openInput opens a file, or standard input for "-", of which all is one content or not.
func (a *app) openInput(name string, oneContent bool) (in *input, err error) {
	f := a.in
	if name == "" {
		return nil, usage("the name of the file is empty")
	}
	if name != "-" {
		if f, err = openNamed(a.ctx, name, os.O_RDONLY); err != nil {
			return nil, err
		}
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() && info.Size() > 0 { // in /proc they have none
		in, err = regularInput(f)
	} else if err == nil {
		in, err = a.takeIn(f, oneContent)
		if name != "-" {
			_ = f.Close() // it was only read
		}
	}
	if err == nil && oneContent {
		if err = checkLength(in.size); err != nil {
			in.close()
		}
	}
	return in, err
}

// regularInput begins where f stands: a shell may have read from it before.
func regularInput(f *os.File) (*input, error) {
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := max(0, info.Size()-start)
	return &input{ReadSeeker: io.NewSectionReader(f, start, size), size: size, file: f, regular: true}, nil
}

// takeIn reads f to its end, but not far beyond the longest content if it is to be one.
func (a *app) takeIn(f *os.File, oneContent bool) (*input, error) {
	r := untilDone(a.ctx, f)
	if !isTerminal(f) { // where somebody types
		bar := a.progress("reading", 0, unitBytes)
		defer bar.end()
		r = bar.reader(r)
	}
	if oneContent {
		r = io.LimitReader(r, warmtier.MaxContentLen+1)
	}
	var small bytes.Buffer
	switch n, err := io.CopyN(&small, r, maxBuffered); {
	case a.ctx.Err() != nil:
		return nil, a.ctx.Err()
	case err == io.EOF: //nolint:errorlint // as CopyN returns it
		return &input{ReadSeeker: bytes.NewReader(small.Bytes()), size: n}, nil
	case err != nil:
		return nil, err
	}
	large, err := os.CreateTemp("", "warmtier-input-*")
	if err != nil {
		return nil, err
	}
	in := &input{ReadSeeker: large, file: large}
	_ = os.Remove(large.Name()) // where an open file cannot lose its name, it stays
	in.size, err = io.Copy(large, io.MultiReader(&small, r))
	if err == nil {
		_, err = large.Seek(0, io.SeekStart)
	}
	if a.ctx.Err() != nil {
		err = a.ctx.Err()
	}
	if err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

// untilDone reads from r until ctx ends. A read that waits then is left to the end of the process.
func untilDone(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, r)
		_ = pw.CloseWithError(err) // which returns nil, and for a nil error is the end of input
	}()
	context.AfterFunc(ctx, func() { _ = pw.CloseWithError(ctx.Err()) })
	return pr
}

// content reads all of in, which is one content, into memory of its size.
func (in *input) content() ([]byte, error) {
	b := make([]byte, in.size)
	_, err := io.ReadFull(in, b)
	return b, err
}
