package warmtierresp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/redcon"
)

var testLimits = limits{bytes: 1 << 20, arguments: maxArguments, refusal: "ERR too long"}

// result is what a reader makes of one command.
type result struct {
	args []string
	err  error
}

// readAll returns what r makes of all that it is sent; the last result may be a protocolError.
func readAll(t testing.TB, r *reader) (all []result) {
	t.Helper()
	for {
		args, err := r.command()
		if errors.Is(err, errIncomplete) {
			size, came := len(r.buf), r.tail-r.head
			if err := r.fill(); err != nil {
				require.ErrorIs(t, err, io.EOF)
				return all
			}
			if len(r.buf) > size && len(r.buf) > 2*came {
				require.FailNow(t, "more than twice what has come", "%d bytes came, %d taken", came, len(r.buf))
			}
			continue
		}
		one := result{err: err}
		for _, arg := range args {
			one.args = append(one.args, string(arg))
		}
		require.True(t, err != nil || len(args) > 0)
		all = append(all, one)
		if _, broken := errors.AsType[protocolError](err); broken {
			return all
		}
	}
}

// Goal: commands are what was sent, whatever is in them, however they arrive.
func TestReader_Commands(t *testing.T) {
	long := strings.Repeat("long", 25_000)
	sent := [][]string{{"GET", "a"}, {"SET", "", "\r\n$1\r\n\x00"}, {"SET", "a", long}, {"PING"}, make([]string, 3000)}
	var input strings.Builder
	for _, args := range sent {
		input.WriteString(encode(args...) + "*0\r\n\r\n*-1\r\n")
	}
	input.WriteString("SET b \"quoted \\\"words\\\"\" \r\n  get\tb\n")
	for name, src := range map[string]io.Reader{
		"whole":  strings.NewReader(input.String()),
		"halves": iotest.HalfReader(strings.NewReader(input.String())),
		"bytes":  iotest.OneByteReader(strings.NewReader(input.String())),
	} {
		t.Run(name, func(t *testing.T) {
			buffers := &allowance{limit: 4 << 20}
			r := newReader(src, buffers, testLimits)
			got := readAll(t, r)
			require.Len(t, got, len(sent)+2)
			for i, args := range sent {
				require.NoError(t, got[i].err)
				require.Equal(t, args, got[i].args)
			}
			require.Equal(t, []string{"SET", "b", `quoted "words"`}, got[len(sent)].args)
			require.Equal(t, []string{"get\tb"}, got[len(sent)+1].args)
			require.LessOrEqual(t, cap(r.spans), keptArgs)
			r.release()
			require.Zero(t, buffers.used.Load())
		})
	}
}

// Goal: what is no protocol is said to be none, and nothing of it is executed.
func TestReader_BrokenProtocol(t *testing.T) {
	for input, want := range map[string]string{
		"*1\r\n$9223372036854775807\r\nabc\r\n": "invalid bulk length", // ends a process that uses redcon's server
		"*9000000000000000000\r\n":              "invalid multibulk length",
		"*99999999999999999999999\r\n":          "invalid multibulk length",
		"*18446744073709551617\r\n":             "invalid multibulk length", // 1, if it is cut to 64 bits
		"*1048577\r\n":                          "invalid multibulk length",
		"*x\r\n":                                "invalid multibulk length",
		"*\r\n":                                 "invalid multibulk length",
		"*1\r\n$-1\r\n":                         "invalid bulk length",
		"*1\r\n$536870913\r\n":                  "invalid bulk length",
		"*1\r\n$4294967297\r\n":                 "invalid bulk length",
		"*1\r\n$\r\n":                           "invalid bulk length",
		"*1\r\n:1\r\n":                          "expected '$', got ':'",
		"*1\r\n\r\n":                            `expected '$', got '\r'`,
		"*1\r\n$1\r\nabc":                       "no line end behind a bulk",
		"*1\n":                                  "line without a carriage return",
		"*" + strings.Repeat("1", 100):          "line too long",
		"$3 GET\r\n":                            "expected '*', got '$'",
		"a \"b\r\n":                             "unbalanced quotes in request",
		strings.Repeat("a", 2000):               "too big inline request",
	} {
		for _, src := range []io.Reader{strings.NewReader(input), iotest.OneByteReader(strings.NewReader(input))} {
			all := readAll(t, newReader(src, &allowance{}, testLimits))
			require.Len(t, all, 1, "%q", input)
			require.EqualError(t, all[0].err, "Protocol error: "+want)
		}
	}
}

// Goal: a command over a limit is read past without being kept, and the next one is read.
func TestReader_Limits(t *testing.T) {
	long, next := strings.Repeat("x", 2<<20), encode("PING")
	many := make([]string, 70_000)
	narrow := limits{bytes: 100, arguments: 3, refusal: "NOAUTH"}
	for name, c := range map[string]struct {
		limits  limits
		buffers int64
		args    []string
		want    string
	}{
		"bytes of an argument":     {testLimits, 1 << 30, []string{"SET", "a", long, "EX", "1"}, "ERR too long"},
		"bytes of many":            {testLimits, 1 << 30, []string{"MSET", long[:1<<19], long[:1<<19], "c"}, "ERR too long"},
		"buffers of all":           {testLimits, 100_000, []string{"SET", "a", long[:1<<19], "EX", "1"}, "OOM "},
		"buffers of all arguments": {testLimits, 1 << 20, many, "OOM "},
		"number of arguments":      {narrow, 0, []string{"GET", "a", "b", "c"}, "NOAUTH"},
		"bytes, narrow":            {narrow, 0, []string{"AUTH", long}, "NOAUTH"},
	} {
		t.Run(name, func(t *testing.T) {
			input := next + encode(c.args...) + next
			for _, src := range []io.Reader{strings.NewReader(input), iotest.HalfReader(strings.NewReader(input))} {
				buffers := &allowance{limit: c.buffers}
				r := newReader(src, buffers, c.limits)
				all := readAll(t, r)
				require.Len(t, all, 3)
				require.NoError(t, all[0].err)
				require.ErrorContains(t, all[1].err, c.want)
				require.Equal(t, []string{"PING"}, all[2].args)
				require.LessOrEqual(t, len(r.buf), keptBuffer)
				r.release()
				require.Zero(t, buffers.used.Load())
			}
		})
	}
}

// Goal: a length that is announced takes no memory before it comes.
func TestReader_ClaimsCostNothing(t *testing.T) {
	buffers := &allowance{limit: 1 << 30}
	r := newReader(strings.NewReader("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500000000\r\nabc"), buffers,
		limits{bytes: maxBulk, arguments: maxArguments})
	require.Empty(t, readAll(t, r))
	require.Len(t, r.buf, baseBuffer)
	require.Zero(t, buffers.used.Load())
	r = newReader(strings.NewReader("*1000000\r\n$3\r\nDEL\r\n"), buffers, testLimits)
	require.Empty(t, readAll(t, r))
	require.Less(t, cap(r.spans), keptArgs)
	r.release()
	require.Zero(t, buffers.used.Load())
}

// Goal: a command that comes byte by byte costs its length, not the square of it. Method: no call
// leaves more to be parsed again than a line.
func TestReader_ParsesOnce(t *testing.T) {
	input := encode(make([]string, 1000)...)
	r := newReader(iotest.OneByteReader(strings.NewReader(input)), &allowance{limit: 1 << 20}, testLimits)
	for {
		args, err := r.command()
		if err == nil {
			require.Len(t, args, 1000)
			return
		}
		require.ErrorIs(t, err, errIncomplete)
		require.LessOrEqual(t, r.tail-r.next, maxLine+len("\r\n"), "left to parse")
		require.NoError(t, r.fill())
	}
}

// FuzzReader feeds bytes as they come, in pieces: the commands must be the same, no buffer may be more than twice what
// has come, and of well-formed commands they must be those of redcon.
func FuzzReader(f *testing.F) {
	for _, input := range []string{
		encode("SET", "a", "1") + encode("GET", "a"), "GET a\r\nSET b 'c d'\n", "*2\r\n$3\r\nGET\r\n$5\r\nab",
		"*1\r\n$9223372036854775807\r\n", "*3000\r\n" + strings.Repeat("$0\r\n\r\n", 3000), "*-1\r\n*0\r\n\r\n",
		encode("SET", strings.Repeat("x", 30_000)), "$1 a\r\n", "*1\r\n$1\r\nabc", "\"\\\"\\n\" x\n",
	} {
		f.Add([]byte(input), uint64(1))
	}
	narrow := limits{bytes: 20_000, arguments: 2000, refusal: "ERR too long"}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		buffers := &allowance{limit: 100_000}
		whole := newReader(bytes.NewReader(input), buffers, narrow)
		want := readAll(t, whole)
		whole.release()
		pieces := newReader(&pieceReader{input, rand.New(rand.NewPCG(seed, 0))}, buffers, narrow)
		got := readAll(t, pieces)
		pieces.release()
		require.Equal(t, fmt.Sprint(want), fmt.Sprint(got))
		require.Zero(t, buffers.used.Load())

		var canonical []byte
		for _, one := range want {
			if one.err == nil {
				canonical = append(canonical, encode(one.args...)...)
			}
		}
		for _, one := range want {
			if one.err != nil {
				continue
			}
			complete, args, _, rest, err := redcon.ReadNextCommand(canonical, nil)
			require.NoError(t, err)
			require.True(t, complete)
			for i, arg := range args {
				require.Equal(t, one.args[i], string(arg))
			}
			canonical = rest
		}
		require.Empty(t, canonical)
	})
}

// pieceReader gives what it has in pieces of random lengths.
type pieceReader struct {
	left []byte
	rng  *rand.Rand
}

func (p *pieceReader) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1+p.rng.IntN(100))], p.left)
	p.left = p.left[n:]
	return n, nil
}

// Goal: patterns mean what they mean to Redis, and no pattern takes longer than its length times the id's.
func TestMatch(t *testing.T) {
	for pattern, ids := range map[string]struct{ yes, no []string }{
		"":              {[]string{""}, []string{"a"}},
		"*":             {[]string{"", "a", "abc"}, nil},
		"a*c":           {[]string{"ac", "abc", "acac"}, []string{"a", "ab", "acb", "bac"}},
		"*a*b*":         {[]string{"ab", "xaxbx"}, []string{"ba", "a"}},
		"a?c":           {[]string{"abc", "a?c"}, []string{"ac", "abbc"}},
		"[a-c]x":        {[]string{"ax", "cx"}, []string{"dx", "x"}},
		"[c-a]":         {[]string{"b"}, []string{"d"}},
		"[^a-c]":        {[]string{"d", "^"}, []string{"a"}},
		`[\]]`:          {[]string{"]"}, []string{`\`}},
		`\*`:            {[]string{"*"}, []string{"a"}},
		`\`:             {[]string{`\`}, []string{"a"}},
		"[a":            {[]string{"a"}, []string{"b", "[a"}},
		"[]":            {nil, []string{"", "[]", "a"}},
		"user:*:\xff":   {[]string{"user:1:\xff"}, []string{"user:1"}},
		"a**":           {[]string{"a", "ab"}, []string{"b"}},
		"[^]a":          {[]string{"xa"}, []string{"a"}},
		"a-[0-9][0-9]?": {[]string{"a-123"}, []string{"a-1b3"}},
	} {
		for _, id := range ids.yes {
			require.True(t, match([]byte(pattern), id, new(int)), "%q %q", pattern, id)
		}
		for _, id := range ids.no {
			require.False(t, match([]byte(pattern), id, new(int)), "%q %q", pattern, id)
		}
	}
	require.False(t, match([]byte(strings.Repeat("*a", 1000)+"b"), strings.Repeat("a", 10_000), new(int)))
}
