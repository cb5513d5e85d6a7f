package main

import (
	"encoding/hex"
	"testing"
)

// Prevents: two producers that race with different bytes, or keys that go to other partitions.
func TestEventsAreTheRustProducers(t *testing.T) {
	// Id, key and payload of what `producer --seed 7 --msg-size 21 --first-id 42 --count 3` wrote.
	for n, want := range []string{
		"000000000000002a" + "00000000000023a1" + "74563690d11f96d0cebdcf8ff5078387a53791dd1f",
		"000000000000002b" + "00000000000018df" + "897188ff449b0683331cef089d517e1291c2bf1cf9",
		"000000000000002c" + "0000000000001b69" + "3653d15052e06274cbcb8dd86b95ef1f683d0df840",
	} {
		value := make([]byte, headerBytes+21)
		recipe{seed: 7, keys: 10_000}.encode(value, 42+uint64(n), 0x0102030405060708)
		got := hex.EncodeToString(value)
		if ts := got[32:48]; ts != "0102030405060708" {
			t.Errorf("event %d: ts %s", n, ts)
		}
		if got = got[:32] + got[48:]; got != want {
			t.Errorf("event %d: %s, expected %s", n, got, want)
		}
	}
}
