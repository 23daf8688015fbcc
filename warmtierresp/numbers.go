package warmtierresp

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
	"strings"
)

const (
	errNotInteger = commandError("ERR value is not an integer or out of range")
	errNotFloat   = commandError("ERR value is not a valid float")
	errOverflow   = commandError("ERR increment or decrement would overflow")
	errNoDecrease = commandError("ERR decrement would overflow")
	errInfinite   = commandError("ERR increment would produce NaN or Infinity")
	errSyntax     = commandError("ERR syntax error")
)

const maxIntegerLen = len("-9223372036854775808")

// parseInteger reads an integer as Redis writes it: no sign but a minus, no zero before other digits.
func parseInteger(b []byte) (int64, error) {
	if len(b) > maxIntegerLen {
		return 0, errNotInteger
	}
	s := string(b)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return 0, errNotInteger
	}
	return n, nil
}

// incr is INCR, DECR, INCRBY and DECRBY.
func (c *conn) incr(args [][]byte) {
	by := int64(1)
	if len(args) == 3 {
		var err error
		if by, err = parseInteger(args[2]); err != nil {
			c.fail(err)
			return
		}
	}
	if name := c.lower(args[0]); name[0] == 'd' {
		if by == math.MinInt64 {
			c.fail(errNoDecrease)
			return
		}
		by = -by
	}
	var sum int64
	err := c.change(string(args[1]), atMost(maxIntegerLen, errNotInteger), func(h held) ([]byte, life, error) {
		sum = 0
		if h.exists() {
			var err error
			if sum, err = parseInteger(h.content); err != nil {
				return nil, life{}, err
			}
		}
		if by > 0 && sum > math.MaxInt64-by || by < 0 && sum < math.MinInt64-by {
			return nil, life{}, errOverflow
		}
		sum += by
		return strconv.AppendInt(nil, sum, 10), life{until: h.until}, nil
	})
	if err != nil {
		c.fail(err)
		return
	}
	c.integer(sum)
}

// Floating point numbers are those of Redis on x86: 64 bits of mantissa, written with 17 digits behind the point, the
// zeros at the end left out.
const (
	mantissaBits  = 64
	maxExponent   = 16384  // of 2
	minExponent   = -16445 // of 2; what is smaller would be 0
	maxMagnitude  = 4933   // the exponents of 10 beyond which no number is, with a reserve
	minMagnitude  = -4952
	floatDigits   = 17
	maxFloatLen   = 5<<10 - 1 // bytes of the longest one
	exponentLimit = 1 << 20   // what is beyond is as good as this
	zeroMagnitude = -1 << 30
)

// parseFloat reads a decimal number. Numbers that are too large or too small are refused before anything is computed:
// the cost of 1e-100000000 would be that of its hundred million digits.
func parseFloat(b []byte) (*big.Float, error) {
	magnitude, ok := decimal(b)
	if ok && magnitude == zeroMagnitude { // with any exponent
		return new(big.Float).SetPrec(mantissaBits), nil
	}
	if !ok || magnitude > maxMagnitude || magnitude < minMagnitude {
		return infinite(b)
	}
	f, _, err := big.ParseFloat(string(b), 10, mantissaBits, big.ToNearestEven)
	if err != nil || f.MantExp(nil) > maxExponent || f.MantExp(nil) < minExponent {
		return nil, errNotFloat
	}
	return f, nil
}

// infinite reads the words for infinity, which are numbers to Redis, though none that it adds.
func infinite(b []byte) (*big.Float, error) {
	negative := len(b) > 0 && b[0] == '-'
	if len(b) > 0 && (negative || b[0] == '+') {
		b = b[1:]
	}
	if bytes.EqualFold(b, []byte("inf")) || bytes.EqualFold(b, []byte("infinity")) {
		return new(big.Float).SetInf(negative), nil
	}
	return nil, errNotFloat
}

// decimal reports whether b is a decimal number, with a sign, a point and an exponent if it likes, and the exponent of
// ten of its first digit that is not 0; of 0 it is
// zeroMagnitude.
func decimal(b []byte) (magnitude int, ok bool) {
	if len(b) > maxFloatLen {
		return 0, false
	}
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		b = b[1:]
	}
	digits, point, first := 0, -1, -1 // first is the index of the first digit that is not 0
	i := 0
	for ; i < len(b) && (b[i] == '.' && point < 0 || '0' <= b[i] && b[i] <= '9'); i++ {
		if b[i] == '.' {
			point = digits
			continue
		}
		if b[i] != '0' && first < 0 {
			first = digits
		}
		digits++
	}
	if point < 0 {
		point = digits
	}
	exponent := 0
	if i < len(b) {
		if exponent, ok = decimalExponent(b[i:]); !ok {
			return 0, false
		}
	}
	switch {
	case digits == 0:
		return 0, false
	case first < 0:
		return zeroMagnitude, true
	default:
		return point - first - 1 + exponent, true
	}
}

// decimalExponent reads what is behind the digits: e, a sign if it likes, digits.
func decimalExponent(b []byte) (n int, ok bool) {
	if b[0] != 'e' && b[0] != 'E' {
		return 0, false
	}
	b = b[1:]
	negative := len(b) > 0 && b[0] == '-'
	if len(b) > 0 && (negative || b[0] == '+') {
		b = b[1:]
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(10*n+int(c-'0'), exponentLimit)
	}
	if negative {
		n = -n
	}
	return n, len(b) > 0
}

func (c *conn) incrbyfloat(args [][]byte) {
	by, err := parseFloat(args[2])
	if err != nil {
		c.fail(err)
		return
	}
	var text string
	err = c.change(string(args[1]), atMost(maxFloatLen, errNotFloat), func(h held) ([]byte, life, error) {
		sum := new(big.Float).SetPrec(mantissaBits)
		if h.exists() {
			if sum, err = parseFloat(h.content); err != nil {
				return nil, life{}, err
			}
		}
		if sum.IsInf() || by.IsInf() { // their sum may be no number, and panics then
			return nil, life{}, errInfinite
		}
		if sum.Add(sum, by); sum.MantExp(nil) > maxExponent {
			return nil, life{}, errInfinite
		}
		text = strings.TrimRight(strings.TrimRight(sum.Text('f', floatDigits), "0"), ".")
		if text == "-0" {
			text = "0"
		}
		return []byte(text), life{until: h.until}, nil
	})
	if err != nil {
		c.fail(err)
		return
	}
	c.text(text)
}
