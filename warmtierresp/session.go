package warmtierresp

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"
	"time"
)

// redisVersion is what clients are told, which choose by it what they send.
const redisVersion = "7.0.15"

const (
	maxClientName = 256 // bytes
	wrongInterval = time.Second

	errWrongPassword = commandError("WRONGPASS invalid username-password pair or user is disabled.")
	errNoPassword    = commandError("ERR AUTH <password> called without any password configured for the default user. " +
		"Are you sure your configuration is correct?")
	errHello = commandError("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO " +
		"<proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version " +
		"at the same time")
	errClientName = commandError("ERR Client names cannot contain spaces, newlines or special characters.")
)

func (c *conn) ping(args [][]byte) {
	switch len(args) {
	case 1:
		c.simple("PONG")
	case 2:
		c.bulk(args[1])
	default:
		c.error(wrongNumber("ping"))
	}
}

func (c *conn) echo(args [][]byte) { c.bulk(args[1]) }

func (c *conn) quit([][]byte) {
	c.ok()
	c.quits = true
}

// selectBase is SELECT. There is one database.
func (c *conn) selectBase(args [][]byte) {
	switch n, err := parseInteger(args[1]); {
	case err != nil:
		c.fail(err)
	case n != 0:
		c.error("ERR DB index is out of range")
	default:
		c.ok()
	}
}

func (c *conn) auth(args [][]byte) {
	user := []byte("default")
	if len(args) == 3 {
		user = args[1]
	}
	switch {
	case len(args) > 3:
		c.fail(errSyntax)
	case len(args) == 2 && c.server.opts.Token == "":
		c.fail(errNoPassword)
	default:
		if err := c.login(user, args[len(args)-1]); err != nil {
			c.fail(err)
			return
		}
		c.ok()
	}
}

// login authorizes a client that has shown the token. Without one the user "default" needs none.
func (c *conn) login(user, password []byte) error {
	digest := sha256.Sum256(password)
	same := subtle.ConstantTimeCompare(digest[:], c.server.token[:]) == 1
	if string(user) != "default" || !same && c.server.opts.Token != "" {
		c.server.logWrongPassword(c.id)
		return errWrongPassword
	}
	if !c.authorized {
		c.authorize()
	}
	return nil
}

// logWrongPassword tells of one wrong password a second, and how many there were: whoever guesses fills no disk.
func (s *Server) logWrongPassword(client int64) {
	n, now, last := s.wrong.Add(1), time.Since(s.started), s.wrongAt.Load()
	if last != 0 && now-time.Duration(last) < wrongInterval || !s.wrongAt.CompareAndSwap(last, int64(now)) {
		return
	}
	s.opts.Logger.Warn("wrong password", "client", client, "wrong passwords", n)
}

// hello chooses the protocol, and may log in.
func (c *conn) hello(args [][]byte) {
	proto, options := c.proto, args[1:]
	if len(options) > 0 {
		n, err := parseInteger(options[0])
		switch {
		case err != nil:
			c.error("ERR Protocol version is not an integer or out of range")
			return
		case n != 2 && n != 3:
			c.error("NOPROTO unsupported protocol version")
			return
		}
		proto, options = int(n), options[1:]
	}
	name := c.name
	for len(options) > 0 {
		switch option := string(c.lower(options[0])); {
		case option == "auth" && len(options) > 2:
			if err := c.login(options[1], options[2]); err != nil {
				c.fail(err)
				return
			}
			options = options[3:]
		case option == "setname" && len(options) > 1:
			if !validName(options[1]) {
				c.fail(errClientName)
				return
			}
			name, options = string(options[1]), options[2:]
		default:
			c.error(fmt.Sprintf("ERR Syntax error in HELLO option '%s'", clip(options[0], 128)))
			return
		}
	}
	if !c.authorized {
		c.fail(errHello)
		return
	}
	c.proto, c.name = proto, name
	c.dict(7)
	c.text("server")
	c.text("redis")
	c.text("version")
	c.text(redisVersion)
	c.text("proto")
	c.integer(int64(c.proto))
	c.text("id")
	c.integer(c.id)
	c.text("mode")
	c.text("standalone")
	c.text("role")
	c.text("master")
	c.text("modules")
	c.array(0)
}

// client is the part of CLIENT that clients send by themselves.
func (c *conn) client(args [][]byte) {
	sub := subcommand(args)
	arity := map[string]int{"id": 2, "getname": 2, "setname": 3, "setinfo": 4}[sub]
	switch {
	case arity != 0 && len(args) != arity:
		c.error(wrongNumber("client|" + sub))
	case sub == "id":
		c.integer(c.id)
	case sub == "getname":
		if c.name == "" {
			c.null()
			return
		}
		c.text(c.name)
	case sub == "setname":
		if !validName(args[2]) {
			c.fail(errClientName)
			return
		}
		c.name = string(args[2])
		c.ok()
	case sub == "setinfo": // lib-name and lib-ver, which nothing here asks for
		c.ok()
	default:
		c.error(unknownSubcommand("client", args[1]))
	}
}

func validName(name []byte) bool {
	for _, b := range name {
		if b < '!' || b > '~' {
			return false
		}
	}
	return len(name) <= maxClientName
}

// info tells figures by the names that Redis has for them, and some that only the store has.
func (c *conn) info(args [][]byte) {
	s := c.server
	st := s.store.Stats()
	policy := "noeviction"
	if st.Drops.Evicted > 0 { // the options are not told
		policy = "allkeys-sieve"
	}
	var b strings.Builder
	section := func(name string, lines ...string) {
		if !wants(args[1:], name) {
			return
		}
		if b.Len() > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("# " + name + "\r\n")
		for _, line := range lines {
			b.WriteString(line + "\r\n")
		}
	}
	section("Server", "redis_version:"+redisVersion, "redis_mode:standalone", "server_name:warmtier",
		fmt.Sprintf("uptime_in_seconds:%d", int64(time.Since(s.started).Seconds())))
	section("Clients", fmt.Sprintf("connected_clients:%d", s.clients()), fmt.Sprintf("maxclients:%d", s.opts.MaxClients))
	section("Memory", fmt.Sprintf("used_memory:%d", st.MappedBytes), fmt.Sprintf("maxmemory:%d", st.MaxBytes),
		"maxmemory_policy:"+policy, fmt.Sprintf("mem_clients_normal:%d", s.buffers.used.Load()),
		fmt.Sprintf("live_bytes:%d", st.LiveBytes), fmt.Sprintf("dead_bytes:%d", st.DeadBytes))
	section("Persistence", "loading:0", fmt.Sprintf("unsynced_bytes:%d", st.Sync.UnsyncedBytes))
	section("Stats", fmt.Sprintf("total_connections_received:%d", s.accepted.Load()),
		fmt.Sprintf("total_commands_processed:%d", s.executed.Load()+c.executed),
		fmt.Sprintf("rejected_connections:%d", s.refused.Load()),
		fmt.Sprintf("expired_keys:%d", st.Drops.Expired), fmt.Sprintf("evicted_keys:%d", st.Drops.Evicted),
		fmt.Sprintf("keyspace_hits:%d", st.Gets-st.Misses), fmt.Sprintf("keyspace_misses:%d", st.Misses))
	section("Replication", "role:master", "connected_slaves:0")
	keyspace := []string{}
	if st.Memories > 0 {
		keyspace = append(keyspace, fmt.Sprintf("db0:keys=%d,expires=0,avg_ttl=0", st.Memories))
	}
	section("Keyspace", keyspace...)
	c.text(b.String())
}

// wants reports whether INFO was asked for a section.
func wants(asked [][]byte, section string) bool {
	if len(asked) == 0 {
		return true
	}
	for _, arg := range asked {
		switch name := strings.ToLower(string(clip(arg, 64))); name {
		case strings.ToLower(section), "all", "default", "everything":
			return true
		}
	}
	return false
}
