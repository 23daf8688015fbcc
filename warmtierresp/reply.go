package warmtierresp

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/tidwall/redcon"
	"github.com/warmtier/warmtier"
)

// Replies are those of RESP2, which every client reads. RESP3 (HELLO 3) has two more that are used here, null and
// map. redcon writes neither, but all of the others.

func (c *conn) ok()               { c.out = redcon.AppendOK(c.out) }
func (c *conn) simple(s string)   { c.out = redcon.AppendString(c.out, s) }
func (c *conn) integer(n int64)   { c.out = redcon.AppendInt(c.out, n) }
func (c *conn) text(s string)     { c.out = redcon.AppendBulkString(c.out, s) }
func (c *conn) error(text string) { c.out = redcon.AppendError(c.out, text) }
func (c *conn) array(n int)       { c.out = redcon.AppendArray(c.out, n) }

func (c *conn) flag(yes bool) {
	if yes {
		c.integer(1)
	} else {
		c.integer(0)
	}
}

func (c *conn) null() {
	if c.proto == 3 {
		c.out = append(c.out, "_\r\n"...)
	} else {
		c.out = redcon.AppendNull(c.out)
	}
}

// dict begins a map of n pairs.
func (c *conn) dict(n int) {
	if c.proto == 3 {
		c.out = append(strconv.AppendInt(append(c.out, '%'), int64(n), 10), "\r\n"...)
	} else {
		c.array(2 * n)
	}
}

// bulk replies with b, for which there is room: a command that has changed something must not fail afterwards.
func (c *conn) bulk(b []byte) {
	if over := c.over(b); over > 0 {
		c.server.buffers.force(over)
		c.outHeld += over
	}
	c.out = redcon.AppendBulk(c.out, b)
}

// bulkContent is bulk if there is room for it. View calls it.
func (c *conn) bulkContent(b []byte) error {
	if over := c.over(b); over > 0 {
		if !c.server.buffers.take(over) {
			return c.in.noBuffer()
		}
		c.outHeld += over
	}
	c.out = redcon.AppendBulk(c.out, b)
	return nil
}

// over returns how much more than it has c needs for b, bytes.
func (c *conn) over(b []byte) int { return len(c.out) + len(b) - c.outHeld - 2*flushBytes }

// errNothing ends a command that has nothing to change.
var errNothing = errors.New("nothing to change")

// fail replies with what a Redis client expects for err, which is of the store or of a command.
func (c *conn) fail(err error) {
	c.error(failure(err))
}

func failure(err error) string {
	if e, ok := errors.AsType[commandError](err); ok {
		return e.Error()
	}
	switch {
	case errors.Is(err, warmtier.ErrNoSpace):
		return fmt.Sprintf("OOM command not allowed when used memory > 'maxmemory': %v", err)
	case errors.Is(err, warmtier.ErrSyncFailed):
		return fmt.Sprintf("MISCONF Errors writing to disk: %v", err)
	case errors.Is(err, warmtier.ErrReadOnly):
		return fmt.Sprintf("READONLY %v", err)
	case errors.Is(err, warmtier.ErrInvalidID):
		return fmt.Sprintf("ERR invalid key: it must have 1 to %d bytes", warmtier.MaxIDLen)
	case errors.Is(err, warmtier.ErrContentTooLarge):
		return fmt.Sprintf("ERR string exceeds maximum allowed size (%v)", err)
	default:
		return fmt.Sprintf("ERR %v", err)
	}
}
