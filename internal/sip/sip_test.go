package sip

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func ascending(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// Goal: hashes are those of SipHash-1-3, for strings and bytes, whatever the length of the last block.
// Method: values of another implementation, CPython 3.11's hash of bytes with PYTHONHASHSEED=0, whose
// key is zero; and the first vector published for the key 00 01 ... 0f.
func TestHash_Golden(t *testing.T) {
	for _, c := range []struct {
		id   []byte
		want uint64
	}{
		{[]byte("a"), 0x407448d2b89b1813},
		{[]byte("warmtier"), 0xc886a9d406e02f80},
		{[]byte("warmtier!"), 0x614806bac2e692bf},
		{ascending(15), 0xf30eb725bb91c9ea},
		{ascending(64), 0x75e05fd5bbc870c6},
	} {
		t.Run(fmt.Sprintf("%d bytes", len(c.id)), func(t *testing.T) {
			require.Equal(t, c.want, Hash(Key{}, c.id))
			require.Equal(t, c.want, Hash(Key{}, string(c.id)))
		})
	}
	require.Equal(t, uint64(0xabac0158050fc4dc), Hash(DecodeKey(ascending(16)), ""))
}

// Goal: a key is decoded as it was encoded, and each half of it counts.
func TestKey_RoundTrip(t *testing.T) {
	b := ascending(16)
	key := DecodeKey(b)
	encoded := make([]byte, 16)
	key.Encode(encoded)
	require.Equal(t, b, encoded)
	require.NotEqual(t, Hash(key, "id"), Hash(Key{K0: key.K0 + 1, K1: key.K1}, "id"))
	require.NotEqual(t, Hash(key, "id"), Hash(Key{K0: key.K0, K1: key.K1 + 1}, "id"))
}
