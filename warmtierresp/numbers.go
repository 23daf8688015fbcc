package warmtierresp

import (
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

// parseInteger reads an integer as Redis writes it: no sign but a minus, no zero before other digits.
func parseInteger(b []byte) (int64, error) {
	if len(b) > len("-9223372036854775808") {
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
	err := c.server.change(string(args[1]), func(h held) ([]byte, life, error) {
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
	mantissaBits = 64
	maxExponent  = 16384 // of 2
	floatDigits  = 17
	maxFloatLen  = 5 << 10 // bytes of the longest one
)

func parseFloat(b []byte) (*big.Float, error) {
	if len(b) > maxFloatLen {
		return nil, errNotFloat
	}
	f, _, err := big.ParseFloat(string(b), 10, mantissaBits, big.ToNearestEven)
	if err != nil || f.MantExp(nil) > maxExponent {
		return nil, errNotFloat
	}
	return f, nil
}

func (c *conn) incrbyfloat(args [][]byte) {
	by, err := parseFloat(args[2])
	if err != nil {
		c.fail(err)
		return
	}
	var text string
	err = c.server.change(string(args[1]), func(h held) ([]byte, life, error) {
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
