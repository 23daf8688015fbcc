package warmtierresp

import (
	"errors"
	"strconv"

	"github.com/warmtier/warmtier"
)

const (
	scanNumber    = 10 // ids of a SCAN that asks for no number
	maxScanNumber = 10_000
	maxPattern    = 1 << 10   // bytes; matching costs its length times that of the id, at worst
	scanStep      = 32        // ids of a step
	scanBytes     = 256 << 10 // of ids, after which a SCAN ends early
	scanWork      = 4 << 20   // bytes of patterns, likewise

	errCursor = commandError("ERR invalid cursor")
)

// del is DEL and UNLINK. Each key is deleted by itself, and an error ends it before the keys that are left.
func (c *conn) del(args [][]byte) {
	n := int64(0)
	for _, arg := range args[1:] {
		if c.server.cut.Load() {
			c.quits = true
			return
		}
		existed, err := c.server.store.Delete(string(arg))
		if err != nil {
			c.fail(err)
			return
		}
		if existed {
			n++
		}
	}
	c.integer(n)
}

// exists counts a key as often as it is asked for.
func (c *conn) exists(args [][]byte) {
	n := int64(0)
	for _, arg := range args[1:] {
		if c.server.store.Has(string(arg)) {
			n++
		}
	}
	c.integer(n)
}

// kind is TYPE.
func (c *conn) kind(args [][]byte) {
	if c.server.store.Has(string(args[1])) {
		c.simple("string")
	} else {
		c.simple("none")
	}
}

func (c *conn) dbsize([][]byte) { c.integer(int64(c.server.store.Len())) }

func (c *conn) flushAll(args [][]byte) {
	if sub := subcommand(args); len(args) > 2 || sub != "" && sub != "async" && sub != "sync" {
		c.fail(errSyntax)
		return
	}
	if err := c.server.store.Clear(); err != nil {
		c.fail(err)
		return
	}
	c.ok()
}

// scanning is what SCAN was told.
type scanning struct {
	cursor  warmtier.Cursor
	number  int
	pattern []byte // nil: all
	none    bool   // of a type that there is none of
}

// scan looks at so many keys as it is asked for, in steps, and ends before that when it has found scanBytes, or
// matching has taken scanWork: the cursor goes on behind what it has looked at.
func (c *conn) scan(args [][]byte) {
	s, err := c.parseScan(args)
	if err != nil {
		c.fail(err)
		return
	}
	var found []string
	size, work := 0, scanWork
	step := scanStep
	if s.pattern != nil { // one id is what a call matches, whatever it takes
		step = 1
	}
	for looked := 0; looked < s.number && size < scanBytes && work > 0; {
		ids, next, err := c.scanStep(s, min(step, s.number-looked), looked == 0 && step == 1, &work)
		if err == nil {
			err = c.workRoom(idBytes(ids))
		}
		switch {
		case err == nil:
		case looked > 0 && !isStoreError(err):
			work = 0 // the next call looks at these
			continue
		case step > 1 && !isStoreError(err):
			step = 1
			continue
		default:
			c.fail(err)
			return
		}
		found, size, looked = append(found, ids...), size+idBytes(ids), looked+step
		s.cursor, step = next, min(2*step, scanStep)
		if next == 0 || c.server.closing.Load() {
			break
		}
	}
	c.array(2)
	c.text(strconv.FormatUint(uint64(s.cursor), 10))
	c.array(len(found))
	for _, id := range found {
		c.text(id)
		if !c.relieve() {
			return
		}
	}
}

// errWork ends a step of a scan whose matching takes too long.
const errWork = commandError("ERR pattern takes too long")

// isStoreError reports whether err is not one of room or work, after which a smaller step may do.
func isStoreError(err error) bool {
	_, ok := errors.AsType[commandError](err)
	return !ok
}

// scanStep returns those of the next n ids that s asks for. Matching takes from work, and ends with errWork when
// nothing is left, unless it must be done.
func (c *conn) scanStep(s scanning, n int, must bool, work *int) (ids []string, next warmtier.Cursor, err error) {
	ids, next, err = c.server.store.Scan(s.cursor, n)
	switch {
	case errors.Is(err, warmtier.ErrInvalidCursor):
		return nil, 0, errCursor
	case errors.Is(err, warmtier.ErrCorrupt): // ids has the others; the same cursor would give the same error again
		c.server.opts.Logger.Error("scan passed damaged records", "error", err)
	case err != nil:
		return nil, 0, err
	}
	chosen := ids[:0]
	for _, id := range ids {
		if *work <= 0 && !must {
			return nil, 0, errWork
		}
		if !s.none && (s.pattern == nil || match(s.pattern, id, work)) {
			chosen = append(chosen, id)
		}
	}
	return chosen, next, nil
}

func idBytes(ids []string) (n int) {
	for _, id := range ids {
		n += len(id) + 2*argumentCost
	}
	return n
}

func (c *conn) parseScan(args [][]byte) (s scanning, err error) {
	cursor, err := strconv.ParseUint(string(clip(args[1], 32)), 10, 64)
	if err != nil {
		return s, errCursor
	}
	s.cursor, s.number = warmtier.Cursor(cursor), scanNumber
	options := args[2:]
	if len(options)%2 != 0 {
		return s, errSyntax
	}
	for ; len(options) > 0; options = options[2:] {
		switch string(c.lower(options[0])) {
		case "match":
			if s.pattern = options[1]; len(s.pattern) > maxPattern {
				return s, commandError("ERR pattern is too long")
			}
		case "count":
			n, err := parseInteger(options[1])
			if err != nil {
				return s, err
			}
			if n < 1 {
				return s, errSyntax
			}
			s.number = int(min(n, maxScanNumber))
		case "type":
			s.none = string(c.lower(options[1])) != "string"
		default:
			return s, errSyntax
		}
	}
	return s, nil
}

// match reports whether id matches pattern: * stands for any bytes, ? for one, [a-c] and [^a-c] for one of a set, and
// \ makes what follows itself. After a mismatch only the last * takes one byte more: so no pattern takes longer than
// its length times that of id. What it takes, in bytes of the pattern, is taken from work.
func match(pattern []byte, id string, work *int) bool {
	p, i := 0, 0
	star, from := -1, 0 // the last *, and where in id it ends
	for i < len(id) {
		if p < len(pattern) && pattern[p] == '*' {
			star, from = p, i
			p++
			continue
		}
		if p < len(pattern) {
			n, ok := matchByte(pattern[p:], id[i])
			*work -= n
			if ok {
				p += n
				i++
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		p, i = star+1, from
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchByte reports whether b matches the first element of pattern, which has n bytes.
func matchByte(pattern []byte, b byte) (n int, ok bool) {
	switch {
	case pattern[0] == '?':
		return 1, true
	case pattern[0] == '[':
		return matchSet(pattern, b)
	case pattern[0] == '\\' && len(pattern) > 1:
		return 2, pattern[1] == b
	default:
		return 1, pattern[0] == b
	}
}

// matchSet is matchByte for a set. One that does not end has the rest of the pattern.
func matchSet(set []byte, b byte) (n int, ok bool) {
	n = 1
	not := n < len(set) && set[n] == '^'
	if not {
		n++
	}
	for n < len(set) && set[n] != ']' {
		from, to := set[n], set[n]
		switch {
		case set[n] == '\\' && n+1 < len(set):
			from, to = set[n+1], set[n+1]
			n += 2
		case n+2 < len(set) && set[n+1] == '-':
			from, to = min(set[n], set[n+2]), max(set[n], set[n+2])
			n += 3
		default:
			n++
		}
		ok = ok || from <= b && b <= to
	}
	return min(n+1, len(set)), ok != not
}
