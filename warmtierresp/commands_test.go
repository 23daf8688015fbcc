package warmtierresp

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// script are commands with their replies, on an empty store, in order. Words in double quotes may have spaces, and be
// empty.
const script = `
PING: PONG
PING hello: "hello"
PING a b: -ERR wrong number of arguments for 'ping' command
ECHO hi: "hi"
ECHO: -ERR wrong number of arguments for 'echo' command
SELECT 0: OK
SELECT 99: -ERR DB index is out of range
SELECT x: -ERR value is not an integer or out of range
NOSUCH a "b c": -ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b c' 

GET a: nil
SET a 1: OK
get a: "1"
SET a "": OK
GET a: ""
STRLEN a: 0
STRLEN none: 0
SET a 1 NX: nil
SET b 1 XX: nil
SET b 2 NX: OK
SET b 3 XX: OK
GET b: "3"
SET b 4 GET: "3"
SET c 1 GET: nil
SET c 2 NX GET: "1"
SET d 2 NX GET: nil
SET d 3 XX GET: "2"
MGET a b none c d: ["" "4" nil "1" "3"]
MGET a "" b: ["" nil "4"]
SET a 1 NX XX: -ERR syntax error
SET a 1 EX: -ERR syntax error
SET a 1 EX 1 PX 1: -ERR syntax error
SET a 1 EX 1 KEEPTTL: -ERR syntax error
SET a 1 KEEPTTL EX 1: -ERR syntax error
SET a 1 NOPE: -ERR syntax error
SET a 1 EX 0: -ERR invalid expire time in 'set' command
SET a 1 EX -1: -ERR invalid expire time in 'set' command
SET a 1 PX x: -ERR value is not an integer or out of range
SET a 1 EX 9223372036854775807: -ERR invalid expire time in 'set' command
SET a 1 PX 9223372036854775807: -ERR invalid expire time in 'set' command
SET a: -ERR wrong number of arguments for 'set' command
SETNX a 2: 0
SETNX e 2: 1
GETSET e 3: "2"
GETSET f 3: nil
GETDEL f: "3"
GETDEL f: nil
APPEND f x: 1
APPEND f yz: 3
GET f: "xyz"
STRLEN f: 3
MSET g 1 h 2 g 3: OK
MGET g h: ["3" "2"]
MSET g: -ERR wrong number of arguments for 'mset' command
MSET g 1 h: -ERR wrong number of arguments for 'mset' command
MSETNX i 1 g 2: 0
EXISTS i: 0
MSETNX i 1 j 2: 1
EXISTS i i j none: 3
DEL i j none: 2
UNLINK g: 1
TYPE h: string
TYPE none: none
DBSIZE: 7

INCR n: 1
INCRBY n 41: 42
DECR n: 41
DECRBY n 1: 40
DECRBY n -2: 42
INCRBY n 1.5: -ERR value is not an integer or out of range
INCRBY n " 1": -ERR value is not an integer or out of range
INCR f: -ERR value is not an integer or out of range
SET n 9223372036854775807: OK
INCR n: -ERR increment or decrement would overflow
SET n -9223372036854775808: OK
DECR n: -ERR increment or decrement would overflow
DECRBY n -9223372036854775808: -ERR decrement would overflow
SET n 01: OK
INCR n: -ERR value is not an integer or out of range
SET n -0: OK
INCR n: -ERR value is not an integer or out of range
SET n +1: OK
INCR n: -ERR value is not an integer or out of range
SET x 10.50: OK
INCRBYFLOAT x 0.1: "10.6"
INCRBYFLOAT x -5: "5.6"
SET x 5.0e3: OK
INCRBYFLOAT x 2.0e2: "5200"
INCRBYFLOAT x -5200: "0"
INCRBYFLOAT x 0.1: "0.1"
INCRBYFLOAT x 0.2: "0.3"
INCRBYFLOAT x abc: -ERR value is not a valid float
INCRBYFLOAT f 1: -ERR value is not a valid float
INCRBYFLOAT y 3: "3"
INCRBYFLOAT y 1p3: -ERR value is not a valid float
INCRBYFLOAT y inf: -ERR increment would produce NaN or Infinity
INCRBYFLOAT y -Infinity: -ERR increment would produce NaN or Infinity
INCRBYFLOAT y nan: -ERR value is not a valid float
INCRBYFLOAT y 1_0: -ERR value is not a valid float
INCRBYFLOAT y 1e: -ERR value is not a valid float
INCRBYFLOAT y .: -ERR value is not a valid float
INCRBYFLOAT y " 1": -ERR value is not a valid float
INCRBYFLOAT y .5: "3.5"
INCRBYFLOAT y +1.: "4.5"
INCRBYFLOAT y 1e-4940: "4.5"
INCRBYFLOAT y 1e-4960: -ERR value is not a valid float
INCRBYFLOAT y 1e-100000000: -ERR value is not a valid float
INCRBYFLOAT y 1e100000000: -ERR value is not a valid float
INCRBYFLOAT y 1e5000: -ERR value is not a valid float
INCRBYFLOAT y 0e99999999999: "4.5"
SET y 1e-100000000: OK
INCRBYFLOAT y 1: -ERR value is not a valid float
SET y 1e-4940: OK
INCRBYFLOAT y 0: "0"
DEL y: 1

TTL none: -2
PTTL none: -2
TTL h: -1
PTTL h: -1
EXPIRETIME h: -1
EXPIRE h 100: 1
TTL h: 100
EXPIRE none 100: 0
EXPIRE h 200 NX: 0
EXPIRE h 50 GT: 0
EXPIRE h 200 GT: 1
EXPIRE h 300 LT: 0
EXPIRE h 100 LT: 1
TTL h: 100
EXPIRE h 150 XX: 1
PERSIST h: 1
PERSIST h: 0
PERSIST none: 0
EXPIRE h 100 XX: 0
EXPIRE h 100 GT: 0
EXPIRE h 100 LT: 1
EXPIRE h 200 NX: 0
EXPIRE h 1 NX GT: -ERR NX and XX, GT or LT options at the same time are not compatible
EXPIRE h 1 GT LT: -ERR GT and LT options at the same time are not compatible
EXPIRE h 1 ZZ: -ERR Unsupported option ZZ
EXPIRE h x: -ERR value is not an integer or out of range
EXPIRE h 9223372036854775807: -ERR invalid expire time in 'expire' command
SET h 1 KEEPTTL: OK
TTL h: 100
INCR h: 2
APPEND h 0: 2
TTL h: 100
SET h 1: OK
TTL h: -1
PEXPIRE h 100000: 1
TTL h: 100
EXPIREAT h 33177117420: 1
EXPIRETIME h: 33177117420
PEXPIREAT h 33177117420123: 1
PEXPIRETIME h: 33177117420123
SET h 1 EXAT 33177117420: OK
EXPIRETIME h: 33177117420
SET h 1 PXAT 33177117420600: OK
EXPIRETIME h: 33177117421
SET h 1 PXAT 33177117420123: OK
PEXPIRETIME h: 33177117420123
SET h 1 PX 100000: OK
TTL h: 100
SETEX h 100 5: OK
TTL h: 100
GETEX h: "5"
TTL h: 100
GETEX h PERSIST: "5"
TTL h: -1
GETEX h EX 100: "5"
TTL h: 100
GETEX h PX 100000: "5"
GETEX h EXAT 33177117420: "5"
EXPIRETIME h: 33177117420
GETEX none PERSIST: nil
GETEX h EX 1 PX 1: -ERR syntax error
GETEX nosuch EX x EX 1: nil
GETEX nosuch PERSIST PERSIST: nil
GETEX h EX 0: -ERR invalid expire time in 'getex' command
GETEX h ZZ: -ERR syntax error
PSETEX h 100000 6: OK
TTL h: 100
SETEX h 0 5: -ERR invalid expire time in 'setex' command
PSETEX h -1 5: -ERR invalid expire time in 'psetex' command
GETSET h 7: "6"
TTL h: -1
EXPIRE h 200 LT: 1
EXPIRE h -1 GT: 0
EXPIRE h -1 LT: 1
EXISTS h: 0
EXPIRE h -1: 0
SET h 1: OK
EXPIREAT h 1: 1
EXISTS h: 0
SET h 1 PXAT 1: OK
EXISTS h: 0

SCAN x: -ERR invalid cursor
SCAN 0 COUNT 0: -ERR syntax error
SCAN 0 COUNT x: -ERR value is not an integer or out of range
SCAN 0 NOPE 1: -ERR syntax error
SCAN 0 MATCH: -ERR syntax error
SCAN 0 COUNT 1000 MATCH none*: ["0" []]
SCAN 0 COUNT 1000 MATCH f: ["0" ["f"]]
SCAN 0 COUNT 1000 MATCH [e-f] TYPE list: ["0" []]
FLUSHDB NOPE: -ERR syntax error
FLUSHDB: OK
DBSIZE: 0
SET a 1: OK
FLUSHALL ASYNC: OK
DBSIZE: 0
SCAN 0: ["0" []]

CLIENT SETNAME worker: OK
CLIENT GETNAME: "worker"
CLIENT SETNAME "a b": -ERR Client names cannot contain spaces, newlines or special characters.
CLIENT GETNAME x: -ERR wrong number of arguments for 'client|getname' command
CLIENT ID x: -ERR wrong number of arguments for 'client|id' command
CLIENT SETNAME: -ERR wrong number of arguments for 'client|setname' command
COMMAND COUNT x: -ERR wrong number of arguments for 'command|count' command
CLIENT NOSUCH: -ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.
AUTH default nothing: OK
AUTH other nothing: -WRONGPASS invalid username-password pair or user is disabled.
AUTH a b c: -ERR syntax error
HELLO 4: -NOPROTO unsupported protocol version
HELLO x: -ERR Protocol version is not an integer or out of range
HELLO 3 NOPE: -ERR Syntax error in HELLO option 'NOPE'
COMMAND INFO nosuch: [nil]
QUIT: OK
`

// lineOf takes a line of script apart.
func lineOf(t *testing.T, line string) (args []string, reply string) {
	t.Helper()
	at := strings.Index(line, ": ")
	require.Positive(t, at, line)
	for i, part := range strings.Split(line[:at], `"`) {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args, line[at+2:]
}

// Goal: every command replies as it must, mistakes included, and a real Redis, where there is one, replies the same.
func TestCommands(t *testing.T) {
	t.Run("warmtier", func(t *testing.T) { play(t, serve(t, openStore(t, nil), Options{}).address) })
	t.Run("redis", func(t *testing.T) { play(t, redisServer(t)) })
}

func play(t *testing.T, address string) {
	t.Helper()
	c := dial(t, address)
	for _, line := range strings.Split(script, "\n") {
		if line == "" {
			continue
		}
		args, want := lineOf(t, line)
		require.Equal(t, want, c.do(args...), line)
	}
	require.Empty(t, c.closed())
}

// Goal: whatever clients send, replies are those of Redis. Method: random commands of random words, to both.
func TestCommands_RandomAsRedis(t *testing.T) {
	redis := dial(t, redisServer(t))
	ours := serve(t, openStore(t, nil), Options{}).dial()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	names := strings.Fields(`get set set set setnx getset getdel getex mget mset msetnx strlen append incr decr incrby
		decrby incrbyfloat ttl expire expire persist del exists type dbsize nosuch`)
	words := []string{"a", "b", "c", "\xff\xfe", "nx", "xx", "GET", "KeepTTL", "gt", "lt", "ex", "px", "exat", "pxat",
		"persist", "", "0", "-5", "1000000", "100000000", "33177117420", "-1.5", "01", "1e3", "nan", "inf", "1p3", "1e-4940",
		"abc",
		"9223372036854775807", "-9223372036854775808", "9223372036854775808"}
	for range 2000 {
		args := []string{names[rng.IntN(len(names))]}
		if rng.IntN(10) > 0 {
			args = append(args, words[rng.IntN(4)])
		}
		for range rng.IntN(5) {
			args = append(args, words[rng.IntN(len(words))])
		}
		if len(args) > 1 && args[1] == "" || slices.Contains(manyKeys(args), "") { // which the store does not have
			continue
		}
		want, got := redis.do(args...), ours.do(args...)
		if a, err := strconv.Atoi(want); err == nil && args[0] == "ttl" && a > 0 { // taken at two moments
			b, _ := strconv.Atoi(got)
			require.InDelta(t, a, b, 2*patience.Seconds())
			continue
		}
		if a, err := strconv.Atoi(want); err == nil && args[0] == "dbsize" { // Redis looks for what has expired meanwhile
			b, _ := strconv.Atoi(got)
			require.GreaterOrEqual(t, b, a)
			continue
		}
		require.Equal(t, want, got, "%q", args)
	}
}

// manyKeys returns the arguments of a command that are keys.
func manyKeys(args []string) (ids []string) {
	switch args[0] {
	case "mget", "del", "exists":
		return args[1:]
	case "mset", "msetnx":
		for i := 1; i < len(args); i += 2 {
			ids = append(ids, args[i])
		}
	}
	return ids
}
