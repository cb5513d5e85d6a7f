// The event and its bytes, as src/event.rs has them: big-endian `id u64 | key u64 | ts i64 (µs since
// the epoch) | payload`; the record's key is `key` as 8 bytes. A frame of a batch body is
// `u32 length | value`, and with the digest the value has 8 bytes more, the xxHash64 of its payload.
//
// Invariant: key and payload are the same pure functions of (seed, id) as in src/event.rs and
// src/load/keys.rs, so both producers send the same bytes but for `ts`. event_test.go compares them
// with bytes of the Rust side.

package main

import (
	"encoding/binary"
	"math/bits"
)

const (
	// headerBytes precede the payload: three 8-byte fields.
	headerBytes = 24
	// keyBytes is the length of a record's key.
	keyBytes = 8
	// frameBytes precede each value of a batch body: its length.
	frameBytes = 4
	// digestBytes follow the payload when the digest is added.
	digestBytes = 8
	// eventBytesMax is the longest value that src/event.rs takes.
	eventBytesMax = 1_000_000
)

// stream is the random stream of one event: xoshiro256++ seeded through SplitMix64, key drawn first,
// payload next.
type stream [4]uint64

// streamOf is `event::stream(seed, id)`.
func streamOf(seed, id uint64) stream {
	const phi = 0x9E3779B97F4A7C15
	var s stream
	x := seed*phi + id
	for i := range s {
		x += phi
		z := (x ^ x>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		s[i] = z ^ z>>31
	}
	return s
}

func (s *stream) next() uint64 {
	result := bits.RotateLeft64(s[0]+s[3], 23) + s[0]
	t := s[1] << 17
	s[2] ^= s[0]
	s[3] ^= s[1]
	s[1] ^= s[2]
	s[0] ^= s[3]
	s[2] ^= t
	s[3] = bits.RotateLeft64(s[3], 45)
	return result
}

// key draws one of `keys` keys, uniformly: the high half of a widening product.
func (s *stream) key(keys uint64) uint64 {
	key, _ := bits.Mul64(s.next(), keys)
	return key
}

// fill fills `payload` with the stream's bytes, little-endian. It repeats `next` with the state in
// registers, because half of a producer's work is here.
func (s *stream) fill(payload []byte) {
	a, b, c, d := s[0], s[1], s[2], s[3]
	for len(payload) >= 8 {
		binary.LittleEndian.PutUint64(payload, bits.RotateLeft64(a+d, 23)+a)
		payload = payload[8:]
		t := b << 17
		c ^= a
		d ^= b
		b ^= c
		a ^= d
		c ^= t
		d = bits.RotateLeft64(d, 45)
	}
	*s = stream{a, b, c, d}
	if len(payload) > 0 {
		var last [8]byte
		binary.LittleEndian.PutUint64(last[:], s.next())
		copy(payload, last[:])
	}
}

// recipe makes events out of ids.
type recipe struct{ seed, keys uint64 }

// encode writes event `id` into `value`, whose length decides the payload's.
func (r recipe) encode(value []byte, id uint64, tsMicros int64) {
	s := streamOf(r.seed, id)
	binary.BigEndian.PutUint64(value, id)
	binary.BigEndian.PutUint64(value[8:], s.key(r.keys))
	binary.BigEndian.PutUint64(value[16:], uint64(tsMicros))
	s.fill(value[headerBytes:])
}
