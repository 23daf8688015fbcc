// Package sip is SipHash-1-3, a keyed hash whose results cannot be predicted without the key and are
// the same in every process. It knows nothing of stores.
package sip

import (
	"encoding/binary"
	"math/bits"
)

// Key is the secret: knowing it allows choosing inputs whose hashes crowd together.
type Key struct{ K0, K1 uint64 }

// Hash returns the SipHash-1-3 of id under key (Aumasson and Bernstein, "SipHash: a fast short-input
// PRF", INDOCRYPT 2012, section 2): one round per block and three at the end. hash/maphash is about
// 8 ns faster, but its hashes are of one process alone.
func Hash[T string | []byte](key Key, id T) uint64 {
	v := [4]uint64{
		key.K0 ^ 0x736f6d6570736575,
		key.K1 ^ 0x646f72616e646f6d,
		key.K0 ^ 0x6c7967656e657261,
		key.K1 ^ 0x7465646279746573,
	}
	last := uint64(len(id)) << 56
	for len(id) >= 8 {
		m := uint64(id[0]) | uint64(id[1])<<8 | uint64(id[2])<<16 | uint64(id[3])<<24 |
			uint64(id[4])<<32 | uint64(id[5])<<40 | uint64(id[6])<<48 | uint64(id[7])<<56
		v[3] ^= m
		sipRound(&v)
		v[0] ^= m
		id = id[8:]
	}
	for i := range len(id) {
		last |= uint64(id[i]) << (8 * i)
	}
	v[3] ^= last
	sipRound(&v)
	v[0] ^= last
	v[2] ^= 0xff
	for range 3 {
		sipRound(&v)
	}
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

func sipRound(v *[4]uint64) {
	v0, v1, v2, v3 := v[0], v[1], v[2], v[3]
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	v[0], v[1], v[2], v[3] = v0, v1, v2, v3
}

// DecodeKey reads a key from the first 16 bytes of b, little endian.
func DecodeKey(b []byte) Key {
	return Key{K0: binary.LittleEndian.Uint64(b), K1: binary.LittleEndian.Uint64(b[8:])}
}

// Encode writes the key to the first 16 bytes of b, as DecodeKey reads it.
func (k Key) Encode(b []byte) {
	binary.LittleEndian.PutUint64(b, k.K0)
	binary.LittleEndian.PutUint64(b[8:], k.K1)
}
