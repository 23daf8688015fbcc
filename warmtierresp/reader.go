package warmtierresp

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"sync/atomic"

	"github.com/tidwall/redcon"
)

/*
A reader takes commands out of what a client sends. Nothing that a client says of itself is believed:

	lengths   A length is a claim. The buffer is never more than twice what has arrived, so 512 MB that are announced
	          cost nothing until they come.
	pieces    A command may come byte by byte. What was parsed is not parsed again, so a command costs its length,
	          and not its square.
	limits    A command that is too long, or that finds no buffer, is read past: its bytes go as they come, the client
	          gets an error, and the connection goes on with the next command.

That is why the parser is not redcon's, whose replies and inline commands are used. Its server (1.6.4) reads a length of
9223372036854775807 past the end of an int and panics, goes through as many rounds as an array claims to have elements
whether they came or not, and calls itself once for each piece of a command that comes, to the end of the stack. A
filter before it would have to parse all the same.
*/

const (
	baseBuffer   = 16 << 10  // bytes that each connection has to read into
	keptBuffer   = 64 << 10  // bytes that it may keep between commands
	maxBulk      = 512 << 20 // bytes of an argument; a client that says more breaks the protocol, as with Redis
	maxArguments = 1 << 20   // of a command; likewise
	maxLine      = 64        // bytes of a line that has a number
	maxInline    = 1 << 10   // bytes of an inline command; splitting one costs its square
	argumentCost = 40        // bytes that the reader keeps for an argument, beside its own
	keptArgs     = 1024      // arguments that it may keep room for between commands
)

// protocolError says how a client has broken the protocol. What comes after it has no meaning.
type protocolError string

func (e protocolError) Error() string { return "Protocol error: " + string(e) }

// commandError is the error of one command, as the client gets it.
type commandError string

func (e commandError) Error() string { return string(e) }

// errIncomplete asks for more bytes.
const errIncomplete = commandError("incomplete")

// allowance bounds the buffers of all connections together.
type allowance struct {
	limit int64 // bytes
	used  atomic.Int64
}

// take reports whether n bytes are left, and takes them.
//
// It adds nothing that it does not take. With an addition that is taken back where it was too much, a large request
// that fails makes small ones fail beside it, for which there was room.
func (a *allowance) take(n int) bool {
	for {
		used := a.used.Load()
		if int64(n) > a.limit-used {
			return false
		}
		if a.used.CompareAndSwap(used, used+int64(n)) {
			return true
		}
	}
}

func (a *allowance) giveBack(n int) { a.used.Add(int64(-n)) }

// limits are what one command may have. They are narrower until a client has shown the token.
type limits struct {
	bytes     int // of all arguments
	arguments int
	refusal   commandError // what a client gets that goes beyond, %d for the bytes
}

// reader reads the commands of one client.
type reader struct {
	src     io.Reader
	buffers *allowance
	limits  limits

	buf     []byte
	head    int // the command under way begins here, behind its first line
	next    int // up to here it was parsed
	tail    int // up to here bytes have come
	count   int // arguments of it that are to come; 0 between commands
	left    int // bytes of the argument under way that are to come, line end included; 0: its length is to come
	refused error
	came    int // bytes read since it began

	spans    []span // its arguments, from head on
	args     [][]byte
	argsHeld int // bytes taken for spans and args
}

// span is where an argument lies.
type span struct{ from, to int }

func newReader(src io.Reader, buffers *allowance, l limits) *reader {
	return &reader{src: src, buffers: buffers, limits: l, buf: make([]byte, baseBuffer)}
}

// command returns the arguments of the next command, at least one, valid until the next call on r. Its error is
// errIncomplete, after which fill is to be called, another commandError, after which r goes on, or a protocolError.
func (r *reader) command() ([][]byte, error) {
	r.releaseArgs()
	for r.count == 0 {
		switch {
		case r.next == r.tail:
			return nil, errIncomplete
		case r.buf[r.next] != '*':
			if args, err := r.inline(); len(args) > 0 || err != nil {
				return args, err
			}
		default:
			if err := r.begin(); err != nil {
				return nil, err
			}
		}
	}
	for r.count > 0 {
		if err := r.argument(); err != nil {
			return nil, err
		}
	}
	if err := r.refused; err != nil {
		r.refused = nil
		return nil, err
	}
	r.args = slices.Grow(r.args, len(r.spans))
	for _, s := range r.spans {
		r.args = append(r.args, r.buf[r.head+s.from:r.head+s.to:r.head+s.to])
	}
	r.head = r.next
	return r.args, nil
}

// releaseArgs makes room for the arguments of another command, and lets go of what many of them took.
func (r *reader) releaseArgs() {
	if r.count > 0 { // of one that has begun
		return
	}
	r.came = 0
	r.dropArgs()
}

func (r *reader) dropArgs() {
	if cap(r.args) > keptArgs || cap(r.spans) > keptArgs {
		r.args, r.spans = nil, nil
	}
	r.buffers.giveBack(r.argsHeld)
	r.argsHeld = 0
	r.args, r.spans = r.args[:0], r.spans[:0]
}

// unfinished reports whether a part of a command has come.
func (r *reader) unfinished() bool { return r.count > 0 || r.head < r.tail }

// begin reads the first line of a command. An array without elements is none.
func (r *reader) begin() error {
	line, err := r.line()
	if err != nil {
		return err
	}
	n, ok := number(line[1:])
	if !ok || n > maxArguments {
		return protocolError("invalid multibulk length")
	}
	r.head = r.next
	r.count = max(0, n)
	if n > r.limits.arguments {
		r.refuse(r.limits.refusal)
	}
	return nil
}

// keepSpan keeps where an argument lies. Room for more arguments is taken as they come, and doubled.
func (r *reader) keepSpan(s span) {
	if n := len(r.spans); n >= keptArgs && n == keptArgs+r.argsHeld/argumentCost {
		if !r.buffers.take(n * argumentCost) {
			r.refuse(r.noBuffer())
			return
		}
		r.argsHeld += n * argumentCost
		r.spans = slices.Grow(r.spans, n)
	}
	r.spans = append(r.spans, s)
}

// argument reads the next argument, or passes it.
func (r *reader) argument() error {
	if r.left == 0 {
		line, err := r.line()
		if err != nil {
			return err
		}
		if len(line) == 0 || line[0] != '$' {
			return protocolError(fmt.Sprintf("expected '$', got %q", firstOf(line)))
		}
		n, ok := number(line[1:])
		if !ok || n < 0 || n > maxBulk {
			return protocolError("invalid bulk length")
		}
		r.left = n + len("\r\n")
		if r.next-r.head+r.left > r.limits.bytes {
			r.refuse(r.limits.refusal)
		}
	}
	if r.refused != nil {
		n := min(r.left, r.tail-r.next)
		r.next += n
		r.left -= n
		r.head = r.next
		if r.left > 0 {
			return errIncomplete
		}
		r.count--
		return nil
	}
	end := r.next + r.left
	if r.tail < end {
		return errIncomplete
	}
	if r.buf[end-2] != '\r' || r.buf[end-1] != '\n' {
		return protocolError("no line end behind a bulk")
	}
	s := span{r.next - r.head, end - 2 - r.head}
	r.next = end
	r.keepSpan(s)
	r.left = 0
	r.count--
	return nil
}

// refuse makes err the result of the command under way, of which nothing is kept any more.
func (r *reader) refuse(err error) {
	if r.refused == nil {
		r.refused = err
	}
	r.head = r.next
	r.dropArgs()
}

func (r *reader) noBuffer() error {
	return commandError(fmt.Sprintf("OOM command not allowed when clients' buffers take more than %d bytes",
		r.buffers.limit))
}

// line returns the next line, without its end.
func (r *reader) line() ([]byte, error) {
	window := r.buf[r.next:min(r.tail, r.next+maxLine)]
	end := bytes.IndexByte(window, '\n')
	switch {
	case end < 0 && len(window) == maxLine:
		return nil, protocolError("line too long")
	case end < 0:
		return nil, errIncomplete
	case end == 0 || window[end-1] != '\r':
		return nil, protocolError("line without a carriage return")
	}
	r.next += end + 1
	return window[:end-1], nil
}

// inline reads a command that is a line of words, as people type it. An empty line is none.
func (r *reader) inline() ([][]byte, error) {
	window := r.buf[r.next:min(r.tail, r.next+maxInline)]
	end := bytes.IndexByte(window, '\n')
	switch {
	case end < 0 && len(window) == maxInline:
		return nil, protocolError("too big inline request")
	case end < 0:
		return nil, errIncomplete
	case window[0] == '$': // means another protocol to redcon
		return nil, protocolError("expected '*', got '$'")
	}
	r.next += end + 1
	r.head = r.next
	_, args, _, _, err := redcon.ReadNextCommand(window[:end+1], r.args[:0])
	if err != nil {
		return nil, protocolError("unbalanced quotes in request")
	}
	r.args = args
	return args, nil
}

// fill reads what has come, and waits if nothing has.
func (r *reader) fill() error {
	if r.head == r.tail {
		r.head, r.next, r.tail = 0, 0, 0
		r.shrink()
	} else if r.head > 0 && len(r.buf)-r.tail < len(r.buf)/4 {
		copy(r.buf, r.buf[r.head:r.tail])
		r.next, r.tail, r.head = r.next-r.head, r.tail-r.head, 0
	}
	if r.tail == len(r.buf) && !r.grow() {
		return nil // what has come is passed
	}
	n, err := r.src.Read(r.buf[r.tail:])
	r.tail += n
	r.came += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// grow doubles the buffer, up to what one command may need, or refuses the command under way.
func (r *reader) grow() bool {
	size := min(2*len(r.buf), r.limits.bytes+baseBuffer)
	if size <= len(r.buf) || !r.buffers.take(size-len(r.buf)) {
		r.refuse(r.noBuffer())
		return false
	}
	grown := make([]byte, size)
	copy(grown, r.buf[:r.tail])
	r.buf = grown
	return true
}

// shrink lets go of a buffer that was large for one command.
func (r *reader) shrink() {
	if len(r.buf) > keptBuffer {
		r.buffers.giveBack(len(r.buf) - baseBuffer)
		r.buf = make([]byte, baseBuffer)
	}
}

// release gives back what r has taken. It reads no more.
func (r *reader) release() {
	r.buffers.giveBack(len(r.buf) - baseBuffer + r.argsHeld)
	r.buf, r.argsHeld = nil, 0
}

// number returns what b says in decimal digits, with a sign before them if it is negative.
func number(b []byte) (n int, ok bool) {
	digits := bytes.TrimPrefix(b, []byte("-"))
	if len(digits) == 0 || len(digits) > len("2147483647") {
		return 0, false
	}
	value := int64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		value = 10*value + int64(c-'0')
	}
	if len(digits) < len(b) {
		value = -value
	}
	return int(value), value >= math.MinInt32 && value <= math.MaxInt32
}

func firstOf(line []byte) byte {
	if len(line) == 0 {
		return '\r'
	}
	return line[0]
}
