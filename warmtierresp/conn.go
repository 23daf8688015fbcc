package warmtierresp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"time"
)

const (
	flushBytes   = 16 << 10 // replies of that many bytes are sent though more commands have come
	keptReplies  = 32 << 10 // bytes of a buffer for replies that a connection may keep
	workBytes    = 16 << 10 // bytes that each command has to work with
	tokenBytes   = 4 << 10  // what a command may have before the token was shown
	tokenWords   = 16
	writePiece   = 256 << 10 // bytes of replies that have the time of WriteTimeout
	commandRate  = 64 << 10  // bytes of a command that give it a second more to come
	latestRearm  = 8         // a deadline is set again when a part of the timeout has passed
	unauthorized = commandError("NOAUTH Authentication required.")
)

// conn is the connection of one client. All of it but wake belongs to its goroutine: commands are executed one after
// the other, and what a client does not read makes its own goroutine wait.
type conn struct {
	server  *Server
	nc      net.Conn
	id      int64
	in      *reader
	out     []byte // replies that are to be sent
	outHeld int    // bytes taken for out

	work     int // bytes that the command under way works with
	workHeld int // of them those that were taken

	proto      int // of RESP: 2 or 3
	authorized bool
	quits      bool // the connection ends behind the replies
	name       string
	executed   int64 // commands that the server has not counted yet

	readBy  time.Time // the deadlines of nc, zero for none
	writeBy time.Time
	begunAt time.Time // when a part of the command under way was there first; zero: none is
	loginBy time.Time // zero for a client that is authorized

	withContent func([]byte) error // bulk, made once
	lowered     [maxName]byte      // the name of the command under way
}

func newConn(s *Server, nc net.Conn, id int64) *conn {
	c := &conn{server: s, nc: nc, id: id, proto: 2}
	c.withContent = c.bulkContent
	c.in = newReader(nc, &s.buffers, limits{bytes: tokenBytes, arguments: tokenWords, refusal: unauthorized})
	if s.opts.Token == "" {
		c.authorize()
	} else {
		c.loginBy = time.Now().Add(s.loginTimeout)
	}
	return c
}

// authorize lets the client do everything.
func (c *conn) authorize() {
	n := c.server.opts.MaxRequestBytes
	c.authorized = true
	c.loginBy = time.Time{}
	c.in.limits = limits{bytes: n, arguments: maxArguments,
		refusal: commandError(fmt.Sprintf("ERR string exceeds maximum allowed size (a command has at most %d bytes)", n))}
}

// wake ends the read that waits for the client. REQUIRES: the server is closing.
func (c *conn) wake() { _ = c.nc.SetReadDeadline(time.Unix(1, 0)) } // of a closed one nothing waits

// serve executes what the client sends, until it goes, breaks the protocol, or the server closes.
func (c *conn) serve() {
	defer c.end()
	for {
		args, err := c.in.command()
		switch {
		case err == nil:
			c.begunAt = time.Time{}
			c.execute(args)
		case errors.Is(err, errIncomplete):
			if c.flush() != nil || c.await() != nil {
				return
			}
		default:
			c.executed++
			c.begunAt = time.Time{}
			if !c.refuse(err) {
				_ = c.flush() // it goes anyway
				return
			}
		}
		if c.quits || c.server.closing.Load() {
			_ = c.flush()
			return
		}
		if len(c.out) >= flushBytes && c.flush() != nil {
			return
		}
	}
}

// refuse replies with err, and reports whether the connection goes on.
func (c *conn) refuse(err error) (goesOn bool) {
	broken, ok := errors.AsType[protocolError](err)
	if !ok {
		c.error(err.Error())
		return true
	}
	c.error("ERR " + broken.Error())
	return false
}

// await reads what the client sends next.
//
// Close sets closing first and the deadline of each connection then, so either this sees closing or the deadline that
// Close sets is the last one:
//
//	await                          Close
//	                               sets closing
//	                               wakes: a deadline that has passed
//	sets a deadline of an hour
//	reads: waits for an hour       waits for await
//
// A deadline that has become later is set when the earlier one has passed: most are never reached.
func (c *conn) await() error {
	var now time.Time
	if c.in.unfinished() || !c.loginBy.IsZero() || c.server.opts.IdleTimeout > 0 {
		now = time.Now()
	}
	by := c.readUntil(now)
	earlier := !by.IsZero() && (c.readBy.IsZero() || by.Before(c.readBy))
	for {
		if earlier {
			c.readBy = by
			if err := c.nc.SetReadDeadline(by); err != nil {
				return err
			}
		}
		if c.server.closing.Load() {
			return ErrServerClosed
		}
		err := c.in.fill()
		if !errors.Is(err, os.ErrDeadlineExceeded) || !by.IsZero() && !time.Now().Before(by) {
			return err
		}
		earlier = true
	}
}

// readUntil returns until when c waits for the client that has sent nothing since now; zero is for ever.
func (c *conn) readUntil(now time.Time) (by time.Time) {
	earliest := func(at time.Time) {
		if by.IsZero() || at.Before(by) {
			by = at
		}
	}
	if timeout := c.server.opts.IdleTimeout; timeout > 0 {
		earliest(now.Add(timeout))
	}
	if !c.loginBy.IsZero() {
		earliest(c.loginBy)
	}
	if c.in.unfinished() {
		if c.begunAt.IsZero() {
			c.begunAt = now
		}
		earliest(c.begunAt.Add(c.server.commandTimeout + time.Duration(c.in.came)*time.Second/commandRate))
	}
	return by
}

// flush sends the replies.
func (c *conn) flush() error {
	c.server.executed.Add(c.executed)
	c.executed = 0
	if len(c.out) == 0 {
		return nil
	}
	err := c.write(c.out)
	if err != nil {
		c.server.opts.Logger.Info("replies not sent", "client", c.id, "error", err)
	}
	c.out = c.out[:0]
	if cap(c.out) > keptReplies {
		c.out = nil
	}
	c.server.buffers.giveBack(c.outHeld)
	c.outHeld = 0
	return err
}

// write sends b in pieces, each of which has WriteTimeout: a client that takes a long reply steadily gets it.
func (c *conn) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writePiece)
		if err := rearm(&c.writeBy, c.server.opts.WriteTimeout, c.nc.SetWriteDeadline); err != nil {
			return err
		}
		if _, err := c.nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// rearm sets a deadline to timeout from now on, unless one is set that is nearly as late: setting one costs as much as
// a short command.
func rearm(deadline *time.Time, timeout time.Duration, set func(time.Time) error) error {
	now := time.Now()
	if deadline.Sub(now) > timeout-timeout/latestRearm {
		return nil
	}
	*deadline = now.Add(timeout)
	return set(*deadline)
}

// end closes the connection. A panic, of a bug here or in the store, ends this connection and nothing else.
func (c *conn) end() {
	if p := recover(); p != nil {
		c.server.opts.Logger.Error("command panicked", "client", c.id, "panic", p, "stack", string(debug.Stack()))
	}
	c.server.executed.Add(c.executed)
	_ = c.nc.Close()
	c.in.release()
	c.server.buffers.giveBack(c.outHeld)
	c.endWork() // of a command that panicked
	c.server.leave(func() { delete(c.server.conns, c) })
}
