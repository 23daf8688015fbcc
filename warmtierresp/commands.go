package warmtierresp

import (
	"fmt"
	"strings"
)

// maxName bounds the name of a command, bytes; those here are shorter.
const maxName = 16

// command is what the server does for one name.
type command struct {
	name    string
	arity   int    // arguments with the name; negative: at least so many
	flags   string // as COMMAND tells them, separated by spaces
	keys    keys
	run     func(c *conn, args [][]byte)
	foreign bool // done for a client that has not shown the token
}

// keys say which arguments are keys, as COMMAND tells it: the first, the last, from the end if negative, and the step.
type keys struct{ first, last, step int }

var (
	noKey   = keys{}
	oneKey  = keys{1, 1, 1}
	allKeys = keys{1, -1, 1}
	pairs   = keys{1, -1, 2}
)

const (
	reads      = "readonly fast"
	writes     = "write denyoom"
	removes    = "write fast"
	admin      = "write"
	connection = "noscript loading stale fast"
)

// commandTable returns all commands by name.
func commandTable() map[string]*command {
	list := []command{
		{"get", 2, reads, oneKey, (*conn).get, false},
		{"set", -3, writes, oneKey, (*conn).set, false},
		{"setnx", 3, writes, oneKey, (*conn).setnx, false},
		{"setex", 4, writes, oneKey, (*conn).setex, false},
		{"psetex", 4, writes, oneKey, (*conn).setex, false},
		{"getset", 3, writes, oneKey, (*conn).getset, false},
		{"getdel", 2, removes, oneKey, (*conn).getdel, false},
		{"getex", -2, writes, oneKey, (*conn).getex, false},
		{"mget", -2, reads, allKeys, (*conn).mget, false},
		{"mset", -3, writes, pairs, (*conn).mset, false},
		{"msetnx", -3, writes, pairs, (*conn).mset, false},
		{"strlen", 2, reads, oneKey, (*conn).strlen, false},
		{"append", 3, writes, oneKey, (*conn).append, false},

		{"incr", 2, writes, oneKey, (*conn).incr, false},
		{"decr", 2, writes, oneKey, (*conn).incr, false},
		{"incrby", 3, writes, oneKey, (*conn).incr, false},
		{"decrby", 3, writes, oneKey, (*conn).incr, false},
		{"incrbyfloat", 3, writes, oneKey, (*conn).incrbyfloat, false},

		{"ttl", 2, reads, oneKey, (*conn).ttl, false},
		{"pttl", 2, reads, oneKey, (*conn).ttl, false},
		{"expiretime", 2, reads, oneKey, (*conn).ttl, false},
		{"pexpiretime", 2, reads, oneKey, (*conn).ttl, false},
		{"expire", -3, writes, oneKey, (*conn).expire, false},
		{"pexpire", -3, writes, oneKey, (*conn).expire, false},
		{"expireat", -3, writes, oneKey, (*conn).expire, false},
		{"pexpireat", -3, writes, oneKey, (*conn).expire, false},
		{"persist", 2, writes, oneKey, (*conn).persist, false},

		{"del", -2, removes, allKeys, (*conn).del, false},
		{"unlink", -2, removes, allKeys, (*conn).del, false},
		{"exists", -2, reads, allKeys, (*conn).exists, false},
		{"type", 2, reads, oneKey, (*conn).kind, false},
		{"scan", -2, "readonly", noKey, (*conn).scan, false},
		{"dbsize", 1, reads, noKey, (*conn).dbsize, false},
		{"flushdb", -1, admin, noKey, (*conn).flushAll, false},
		{"flushall", -1, admin, noKey, (*conn).flushAll, false},

		{"ping", -1, connection, noKey, (*conn).ping, false},
		{"echo", 2, connection, noKey, (*conn).echo, false},
		{"select", 2, connection, noKey, (*conn).selectBase, false},
		{"client", -2, connection, noKey, (*conn).client, false},
		{"info", -1, "loading stale", noKey, (*conn).info, false},
		{"command", -1, "loading stale", noKey, (*conn).commandInfo, false},
		{"auth", -2, connection + " no_auth", noKey, (*conn).auth, true},
		{"hello", -1, connection + " no_auth", noKey, (*conn).hello, true},
		{"quit", -1, connection + " no_auth", noKey, (*conn).quit, true},
	}
	table := make(map[string]*command, len(list))
	for i := range list {
		table[list[i].name] = &list[i]
	}
	return table
}

// execute does what one command says. args has the name.
func (c *conn) execute(args [][]byte) {
	c.executed++
	name := c.lower(args[0])
	cmd := c.server.commands[string(name)]
	switch {
	case !c.authorized && (cmd == nil || !cmd.foreign):
		if !c.refuseBrowser(name) {
			c.fail(unauthorized)
		}
	case cmd == nil:
		if !c.refuseBrowser(name) {
			c.error(unknown(args))
		}
	case len(args) != cmd.arity && (cmd.arity >= 0 || len(args) < -cmd.arity):
		c.error(wrongNumber(cmd.name))
	default:
		cmd.run(c, args)
		c.endWork()
	}
}

func wrongNumber(name string) string {
	return "ERR wrong number of arguments for '" + name + "' command"
}

// lower returns name in lower case, what is beyond any name cut off. It is valid until the next call.
func (c *conn) lower(name []byte) []byte {
	n := copy(c.lowered[:], name)
	for i, b := range c.lowered[:n] {
		if 'A' <= b && b <= 'Z' {
			c.lowered[i] = b + 'a' - 'A'
		}
	}
	if len(name) > maxName {
		return nil
	}
	return c.lowered[:n]
}

// refuseBrowser ends a connection that speaks HTTP, as Redis does: a page in a browser can send a request to a
// loopback address, and hide commands in its body.
func (c *conn) refuseBrowser(name []byte) bool {
	if string(name) != "post" && string(name) != "host:" {
		return false
	}
	c.server.opts.Logger.Warn("connection closed that speaks HTTP", "client", c.id)
	c.quits = true
	return true
}

// unknown is the error of a command that is not here, in the words of Redis.
func unknown(args [][]byte) string {
	const longest = 128
	var b strings.Builder
	fmt.Fprintf(&b, "ERR unknown command '%s', with args beginning with: ", clip(args[0], longest))
	for _, arg := range args[1:] {
		if b.Len() >= 2*longest {
			break
		}
		fmt.Fprintf(&b, "'%s' ", clip(arg, longest))
	}
	return b.String()
}

func clip(b []byte, longest int) []byte { return b[:min(len(b), longest)] }

// commandInfo tells clients what there is.
func (c *conn) commandInfo(args [][]byte) {
	table := c.server.commands
	switch sub := subcommand(args); sub {
	case "":
		c.array(len(table))
		for _, cmd := range table {
			c.describe(cmd)
		}
	case "count":
		if len(args) != 2 {
			c.error(wrongNumber("command|count"))
			return
		}
		c.integer(int64(len(table)))
	case "list":
		c.array(len(table))
		for name := range table {
			c.text(name)
		}
	case "info":
		c.array(len(args) - 2)
		for _, arg := range args[2:] {
			if cmd := table[string(c.lower(arg))]; cmd != nil {
				c.describe(cmd)
			} else {
				c.null()
			}
			if !c.relieve() {
				return
			}
		}
	case "docs": // redis-cli asks; it does without
		c.dict(0)
	default:
		c.error(unknownSubcommand("command", args[1]))
	}
}

func (c *conn) describe(cmd *command) {
	c.array(6)
	c.text(cmd.name)
	c.integer(int64(cmd.arity))
	flags := strings.Fields(cmd.flags)
	c.array(len(flags))
	for _, flag := range flags {
		c.simple(flag)
	}
	c.integer(int64(cmd.keys.first))
	c.integer(int64(cmd.keys.last))
	c.integer(int64(cmd.keys.step))
}

// subcommand returns the second argument in lower case, "" if there is none.
func subcommand(args [][]byte) string {
	if len(args) < 2 {
		return ""
	}
	return strings.ToLower(string(clip(args[1], 64)))
}

func unknownSubcommand(name string, sub []byte) string {
	return fmt.Sprintf("ERR unknown subcommand '%s'. Try %s HELP.", clip(sub, 128), strings.ToUpper(name))
}

// relieve sends long replies before a command with many of them goes on, so that what it replies need not be held. It
// reports whether the command is to go on: not for a client that is gone.
func (c *conn) relieve() (goesOn bool) {
	if len(c.out) >= flushBytes && !c.quits {
		c.quits = c.flush() != nil
	}
	return !c.quits
}
