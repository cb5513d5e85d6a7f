// What has been acked of a partition, and so may be committed.
//
// Invariant: `committable` is the offset after the longest run of acked spans from the first one
// on: a span that is still in flight holds back every later one. Spans are opened in order of
// offset. A revoked partition is never used again: if it is assigned again, it gets a new
// `partition`.

package main

import (
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// partition is one assigned partition.
type partition struct {
	revoked atomic.Bool

	mu     sync.Mutex
	spans  []mark
	opened uint64 // spans ever opened; the last of `spans` is number opened-1
	next   kgo.EpochOffset
	moved  bool // `next` was not taken yet
}

// mark is one span: the offset after its last record, and whether all of it is acked.
type mark struct {
	next  kgo.EpochOffset
	acked bool
}

// open adds a span that ends with `last`, and returns its number.
func (p *partition) open(last *kgo.Record) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spans = append(p.spans, mark{next: kgo.EpochOffset{Epoch: last.LeaderEpoch, Offset: last.Offset + 1}})
	p.opened++
	return p.opened - 1
}

// ack closes span `number`.
func (p *partition) ack(number uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.opened - uint64(len(p.spans))
	p.spans[number-first].acked = true
	done := 0
	for done < len(p.spans) && p.spans[done].acked {
		p.next, p.moved = p.spans[done].next, true
		done++
	}
	// The rest moves down in the slice: the slice keeps its memory, and it is short.
	p.spans = p.spans[:copy(p.spans, p.spans[done:])]
}

// committable returns what may be committed, if that changed since it was last asked for.
func (p *partition) committable() (kgo.EpochOffset, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	moved := p.moved
	p.moved = false
	return p.next, moved
}

// notCommitted makes the next `committable` answer again: the commit failed.
func (p *partition) notCommitted() {
	p.mu.Lock()
	p.moved = true
	p.mu.Unlock()
}

// assignment is what the group has given this member of its one topic.
type assignment struct {
	topic string

	mu         sync.Mutex
	partitions map[int32]*partition
}

func newAssignment(topic string) *assignment {
	return &assignment{topic: topic, partitions: make(map[int32]*partition)}
}

// add is for OnPartitionsAssigned.
func (a *assignment) add(given []int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range given {
		a.partitions[n] = new(partition)
	}
}

// drop is for OnPartitionsRevoked and OnPartitionsLost.
func (a *assignment) drop(taken []int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range taken {
		if p := a.partitions[n]; p != nil {
			p.revoked.Store(true)
		}
		delete(a.partitions, n)
	}
}

// get returns nil for a partition that is not assigned.
func (a *assignment) get(n int32) *partition {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.partitions[n]
}

// committable collects what may be committed and was not collected before; `failed` undoes that.
func (a *assignment) committable() (offsets map[string]map[int32]kgo.EpochOffset, failed func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	some := make(map[int32]kgo.EpochOffset)
	var asked []*partition
	for n, p := range a.partitions {
		if next, moved := p.committable(); moved {
			some[n] = next
			asked = append(asked, p)
		}
	}
	failed = func() {
		for _, p := range asked {
			p.notCommitted()
		}
	}
	if len(some) == 0 {
		return nil, failed
	}
	return map[string]map[int32]kgo.EpochOffset{a.topic: some}, failed
}
