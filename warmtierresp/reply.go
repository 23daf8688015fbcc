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

// bulk replies with b, or with an error if there is no room for it.
func (c *conn) bulk(b []byte) {
	if err := c.bulkContent(b); err != nil {
		c.fail(err)
	}
}

// bulkContent is bulk that returns its error. View calls it.
func (c *conn) bulkContent(b []byte) error {
	if err := c.replyRoom(len(b)); err != nil {
		return err
	}
	c.out = redcon.AppendBulk(c.out, b)
	return nil
}

// replyRoom takes room for a reply of n bytes beyond those that wait, until they are sent. A command that changes
// something takes it first, because it must not fail afterwards.
func (c *conn) replyRoom(n int) error {
	over := len(c.out) + n - c.outHeld - 2*flushBytes
	if over <= 0 {
		return nil
	}
	if !c.server.buffers.take(over) {
		return c.in.noBuffer()
	}
	c.outHeld += over
	return nil
}

// workRoom takes room for n bytes that the command under way works with, until it ends. The first are always there,
// so that small commands do not fail for what others hold.
func (c *conn) workRoom(n int) error {
	c.work += n
	over := c.work - c.workHeld - workBytes
	if over <= 0 {
		return nil
	}
	if !c.server.buffers.take(over) {
		c.work -= n
		return c.in.noBuffer()
	}
	c.workHeld += over
	return nil
}

// endWork gives back what the command has taken to work with.
func (c *conn) endWork() {
	c.server.buffers.giveBack(c.workHeld)
	c.work, c.workHeld = 0, 0
}

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
