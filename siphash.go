package warmtier

import (
	"encoding/binary"
	"math/bits"
)

// sipKey is a secret: who knows it can choose ids that crowd one shard.
type sipKey struct{ k0, k1 uint64 }

// sipHash is SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012,
// section 2), one round per block and three at the end. Directory stores hash ids with it, since the
// hash of hash/maphash, about 8 ns faster, cannot be had again in the next process, and the hint file
// holds tables of hashes.
func sipHash[T string | []byte](key sipKey, id T) uint64 {
	v := [4]uint64{
		key.k0 ^ 0x736f6d6570736575,
		key.k1 ^ 0x646f72616e646f6d,
		key.k0 ^ 0x6c7967656e657261,
		key.k1 ^ 0x7465646279746573,
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

func decodeSipKey(b []byte) sipKey {
	return sipKey{k0: binary.LittleEndian.Uint64(b), k1: binary.LittleEndian.Uint64(b[8:])}
}
