package warmtierresp

import (
	"errors"
	"math"
	"time"

	"github.com/warmtier/warmtier"
)

// timeUnit is how a command says how long something lives.
type timeUnit struct {
	ms       int64 // of one unit
	absolute bool  // since 1970
}

// timeUnits are those of the options of SET and GETEX.
var timeUnits = map[string]timeUnit{
	"ex":   {1000, false},
	"px":   {1, false},
	"exat": {1000, true},
	"pxat": {1, true},
}

// commandUnits are those of commands.
var commandUnits = map[string]timeUnit{
	"ttl":         timeUnits["ex"],
	"pttl":        timeUnits["px"],
	"expiretime":  timeUnits["exat"],
	"pexpiretime": timeUnits["pxat"],
	"expire":      timeUnits["ex"],
	"pexpire":     timeUnits["px"],
	"expireat":    timeUnits["exat"],
	"pexpireat":   timeUnits["pxat"],
}

// moment returns what n units mean: now and later than now, in Unix ms, saturated.
func (u timeUnit) moment(n int64, now time.Time) (ms int64, ok bool) {
	if n > math.MaxInt64/u.ms || n < math.MinInt64/u.ms {
		return 0, false
	}
	ms = n * u.ms
	if u.absolute {
		return ms, true
	}
	if ms > math.MaxInt64-now.UnixMilli() {
		return 0, false
	}
	return ms + now.UnixMilli(), true
}

// of returns the life of n units, which end later than now. A time that is left is measured by the store's clock,
// unless it is longer than a Duration.
func (u timeUnit) of(n int64, now time.Time) (life, bool) {
	ms, ok := u.moment(n, now)
	if !ok {
		return life{}, false
	}
	if u.absolute || n > int64(math.MaxInt64/time.Millisecond)/u.ms {
		return life{until: time.UnixMilli(ms)}, true
	}
	return life{ttl: time.Duration(n*u.ms) * time.Millisecond}, true
}

// parseLife reads the time of SET, SETEX or GETEX, which must be positive.
func parseLife(u timeUnit, arg []byte, name string) (life, error) {
	n, err := parseInteger(arg)
	if err != nil {
		return life{}, err
	}
	l, ok := u.of(n, time.Now())
	if n <= 0 || !ok {
		return life{}, invalidTime(name)
	}
	return l, nil
}

func invalidTime(name string) error {
	return commandError("ERR invalid expire time in '" + name + "' command")
}

// ttl is TTL, PTTL, EXPIRETIME and PEXPIRETIME.
func (c *conn) ttl(args [][]byte) {
	unit := commandUnits[string(c.lower(args[0]))]
	until, err := c.server.store.Expiry(string(args[1]))
	switch {
	case errors.Is(err, warmtier.ErrNotFound):
		c.integer(-2)
	case err != nil:
		c.fail(err)
	case until.IsZero():
		c.integer(-1)
	case unit.absolute:
		c.integer((until.UnixMilli() + unit.ms/2) / unit.ms)
	default:
		left := max(0, until.UnixMilli()-time.Now().UnixMilli())
		c.integer((left + unit.ms/2) / unit.ms)
	}
}

// when is what the options of EXPIRE ask of the deadline that is there.
type when struct{ never, some, later, earlier bool }

// allows reports whether the deadline until may be replaced by one at ms. Never is later than all others.
func (w when) allows(until time.Time, ms int64) bool {
	never := until.IsZero()
	switch {
	case w.never && !never, w.some && never:
		return false
	case w.later && (never || ms <= until.UnixMilli()):
		return false
	case w.earlier && !never && ms >= until.UnixMilli():
		return false
	}
	return true
}

func (c *conn) parseWhen(options [][]byte) (w when, err error) {
	for _, option := range options {
		switch string(c.lower(option)) {
		case "nx":
			w.never = true
		case "xx":
			w.some = true
		case "gt":
			w.later = true
		case "lt":
			w.earlier = true
		default:
			return w, commandError("ERR Unsupported option " + string(clip(option, 128)))
		}
	}
	if w.never && (w.some || w.later || w.earlier) {
		return w, commandError("ERR NX and XX, GT or LT options at the same time are not compatible")
	}
	if w.later && w.earlier {
		return w, commandError("ERR GT and LT options at the same time are not compatible")
	}
	return w, nil
}

// expire is EXPIRE, PEXPIRE, EXPIREAT and PEXPIREAT. A deadline is part of a record, so it stores the content again.
func (c *conn) expire(args [][]byte) {
	name := string(c.lower(args[0]))
	unit := commandUnits[name]
	w, err := c.parseWhen(args[3:])
	if err != nil {
		c.fail(err)
		return
	}
	n, err := parseInteger(args[2])
	if err != nil {
		c.fail(err)
		return
	}
	now := time.Now()
	ms, ok := unit.moment(n, now)
	l, _ := unit.of(n, now)
	if !ok {
		c.fail(invalidTime(name))
		return
	}
	id, done := string(args[1]), false
	if ms <= now.UnixMilli() {
		done, err = c.server.deleteExpired(id, func(until time.Time) bool { return w.allows(until, ms) })
	} else {
		allows := c.expiring(func(until time.Time) bool { return w.allows(until, ms) })
		err = c.change(id, allows, func(h held) ([]byte, life, error) {
			if done = h.exists() && w.allows(h.until, ms); !done {
				return nil, life{}, errNothing
			}
			return h.content, l, nil
		})
	}
	c.replyDone(done, err)
}

// deleteExpired deletes id if its deadline allows it.
func (s *Server) deleteExpired(id string, allows func(until time.Time) bool) (done bool, err error) {
	for {
		v, err := s.version(id)
		if err != nil || v == 0 {
			return false, err
		}
		until, err := s.store.Expiry(id)
		if err == nil && !allows(until) || errors.Is(err, warmtier.ErrNotFound) {
			return false, nil
		}
		if err == nil {
			err = s.deleteIf(id, v)
		}
		if !errors.Is(err, warmtier.ErrChanged) {
			return err == nil, err
		}
	}
}

func (c *conn) persist(args [][]byte) {
	done := false
	some := c.expiring(func(until time.Time) bool { return !until.IsZero() })
	err := c.change(string(args[1]), some, func(h held) ([]byte, life, error) {
		if done = !h.until.IsZero(); !done {
			return nil, life{}, errNothing
		}
		return h.content, life{}, nil
	})
	c.replyDone(done, err)
}

// replyDone replies whether something was changed.
func (c *conn) replyDone(done bool, err error) {
	if err != nil && !errors.Is(err, errNothing) {
		c.fail(err)
		return
	}
	c.flag(done && err == nil)
}
