// Between poll and workers: a bounded queue is a channel, an unbounded one a list.
//
// Invariant: every batch that was pushed is popped once, in order. After `close` the rest is still
// popped, then pop returns nil. A push that waits for room ends with the context.

package main

import (
	"context"
	"sync"
)

// queue has one pusher, which closes it, and any number of poppers.
type queue interface {
	push(context.Context, *batch) error
	pop() *batch
	close()
}

type bounded chan *batch

// newBounded holds as many batches as have room in a capacity of events: fewer events where some
// batches are short, never more.
func newBounded(batches int) bounded { return make(chan *batch, batches) }

func (q bounded) push(ctx context.Context, b *batch) error {
	select {
	case q <- b:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q bounded) pop() *batch { return <-q }
func (q bounded) close()      { close(q) }

type unbounded struct {
	mu     sync.Mutex
	some   sync.Cond
	list   []*batch
	closed bool
}

func newUnbounded() *unbounded {
	q := new(unbounded)
	q.some.L = &q.mu
	return q
}

func (q *unbounded) push(_ context.Context, b *batch) error {
	q.mu.Lock()
	q.list = append(q.list, b)
	q.mu.Unlock()
	q.some.Signal()
	return nil
}

func (q *unbounded) pop() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 && !q.closed {
		q.some.Wait()
	}
	if len(q.list) == 0 {
		return nil
	}
	b := q.list[0]
	q.list[0] = nil
	q.list = q.list[1:]
	return b
}

func (q *unbounded) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.some.Broadcast()
}
