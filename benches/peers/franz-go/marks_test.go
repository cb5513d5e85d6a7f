package main

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Prevents: a commit that is ahead of an ack, and one that never comes, whatever the order of the acks.
func TestCommittableIsTheAckedPrefix(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		p := new(partition)
		var numbers []uint64
		acked := make(map[uint64]bool)
		ends := make(map[uint64]int64)
		offset := int64(0)
		for range 100 {
			if random.IntN(2) == 0 {
				offset += 1 + random.Int64N(200)
				number := p.open(&kgo.Record{Offset: offset - 1})
				numbers = append(numbers, number)
				ends[number] = offset
			} else if len(numbers) > 0 {
				at := random.IntN(len(numbers))
				p.ack(numbers[at])
				acked[numbers[at]] = true
				numbers = append(numbers[:at], numbers[at+1:]...)
			}
			want := int64(0)
			for n := uint64(0); acked[n]; n++ {
				want = ends[n]
			}
			if next, _ := p.committable(); next.Offset != want {
				t.Fatalf("committable %d, acked up to %d", next.Offset, want)
			}
		}
	}
}

// Prevents: offsets of a failed commit that are forgotten; a revoked partition that is committed.
func TestAssignmentGivesEachOffsetOnce(t *testing.T) {
	a := newAssignment("t")
	a.add([]int32{0, 1})
	for n := range int32(2) {
		p := a.get(n)
		p.ack(p.open(&kgo.Record{Offset: 9}))
	}
	first, failed := a.committable()
	if len(first["t"]) != 2 || first["t"][1].Offset != 10 {
		t.Errorf("%v", first)
	}
	if again, _ := a.committable(); again != nil {
		t.Errorf("the same twice: %v", again)
	}
	failed()
	gone := a.get(1)
	a.drop([]int32{1})
	if again, _ := a.committable(); len(again["t"]) != 1 || again["t"][0].Offset != 10 {
		t.Errorf("after a failure and a revocation: %v", again)
	}
	if !gone.revoked.Load() || a.get(1) != nil {
		t.Error("a revoked partition is still there")
	}
}

// Prevents: a queue that loses its remaining batches when it is closed; a pusher that still waits
// after the stop.
func TestQueuesGiveAllAndEnd(t *testing.T) {
	for name, q := range map[string]queue{"bounded": newBounded(3), "unbounded": newUnbounded()} {
		for n := range 3 {
			if err := q.push(context.Background(), &batch{events: n}); err != nil {
				t.Fatal(name, err)
			}
		}
		if name == "bounded" {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := q.push(ctx, new(batch)); err == nil {
				t.Error("a full queue took one more")
			}
		}
		q.close()
		for n := range 3 {
			if b := q.pop(); b == nil || b.events != n {
				t.Errorf("%s: %v at %d", name, b, n)
			}
		}
		if q.pop() != nil {
			t.Errorf("%s: more than was pushed", name)
		}
	}
}
