package warmtierresp

import (
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"
)

const (
	flushBytes   = 16 << 10 // replies of that many bytes are sent though more commands have come
	keptReplies  = 32 << 10 // bytes of a buffer for replies that a connection may keep
	tokenBytes   = 4 << 10  // what a command may have before the token was shown
	tokenWords   = 16
	latestRearm  = 8 // a deadline is set again when a part of the timeout has passed
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

	proto      int // of RESP: 2 or 3
	authorized bool
	quits      bool // the connection ends behind the replies
	name       string
	executed   int64 // commands that the server has not counted yet

	readBy  time.Time // the deadlines of nc, zero for none
	writeBy time.Time

	withContent func([]byte) error // bulk, made once
	lowered     [maxName]byte      // the name of the command under way
}

func newConn(s *Server, nc net.Conn, id int64) *conn {
	c := &conn{server: s, nc: nc, id: id, proto: 2}
	c.withContent = c.bulkContent
	c.in = newReader(nc, &s.buffers, limits{bytes: tokenBytes, arguments: tokenWords, refusal: unauthorized})
	if s.opts.Token == "" {
		c.authorize()
	}
	return c
}

// authorize lets the client do everything.
func (c *conn) authorize() {
	n := c.server.opts.MaxRequestBytes
	c.authorized = true
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
			c.execute(args)
		case errors.Is(err, errIncomplete):
			if c.flush() != nil || c.await() != nil {
				return
			}
		default:
			c.executed++
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
func (c *conn) await() error {
	if timeout := c.server.opts.IdleTimeout; timeout > 0 {
		if err := rearm(&c.readBy, timeout, c.nc.SetReadDeadline); err != nil {
			return err
		}
	}
	if c.server.closing.Load() {
		return ErrServerClosed
	}
	return c.in.fill()
}

// flush sends the replies.
func (c *conn) flush() error {
	c.server.executed.Add(c.executed)
	c.executed = 0
	if len(c.out) == 0 {
		return nil
	}
	err := rearm(&c.writeBy, c.server.opts.WriteTimeout, c.nc.SetWriteDeadline)
	if err == nil {
		_, err = c.nc.Write(c.out)
	}
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
	c.server.leave(func() { delete(c.server.conns, c) })
}
