// pipe does the processor's job with franz-go: it polls a group's partitions, enqueues the records
// for workers, posts batches to the sink, and commits what was acked.
//
//	PollFetches ─► batches of 200 ─► queue ─► 4 workers ─► net/http POST ─► sink
//	                                                 └─ ack ─► marks ─► commit, each second
//
// Invariant: a commit is never ahead of an ack (marks.go), and a revoked partition sends nothing
// more except the batch that a worker has begun. A queue of `--queue bounded` holds `--queue-cap`
// events at most; franz-go also holds what it fetched and was not polled, at most one answer a
// broker. It sheds nothing, measures no latency and serves no metrics.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// commitInterval, drainTimeout and leaveTimeout are the processor's.
	commitInterval = time.Second
	drainTimeout   = 10 * time.Second
	leaveTimeout   = 15 * time.Second
)

// span is a run of one partition's records within a batch.
type span struct {
	partition *partition
	number    uint64
	records   []*kgo.Record
}

// batch is one request's worth of records.
type batch struct {
	spans  []span
	events int
	// round is told when the batch is done; with `--queue pull` only.
	round *sync.WaitGroup
}

type pipeline struct {
	client     *kgo.Client
	assignment *assignment
	queue      queue
	batchSize  int
	pull       bool
	pollMax    int       // records; 0: all that is fetched
	spare      sync.Pool // of batches
	acked      atomic.Uint64
	invalid    atomic.Uint64
}

func pipe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("pipe", flag.ContinueOnError)
	brokers := flags.String("brokers", "127.0.0.1:19092", "bootstrap `list`")
	topic := flags.String("topic", "events", "topic to read")
	group := flags.String("group", "franz", "consumer group")
	sink := flags.String("sink", "http://127.0.0.1:9900", "the sink's `url`")
	kind := flags.String("queue", "bounded", "between poll and workers: bounded, unbounded, pull")
	capacity := flags.Int("queue-cap", 10_000, "events that a bounded queue holds")
	size := flags.Int("batch-size", 200, "events in a batch, at most")
	workers := flags.Int("sink-workers", 4, "workers that call the sink")
	transform := flags.String("transform", "digest", "what is done to a value: digest (add its payload's xxHash64), none")
	pullMax := flags.Int("pull-max", 0, "records that a poll takes, at most, with --queue pull; 0: a batch for each worker")
	writeBuffer := flags.Int("write-buffer", 128<<10, "bytes of net/http's write buffer")
	partitionBytes := flags.Int("fetch-partition-bytes", 1<<20, "FetchMaxPartitionBytes; with 2 MiB it is faster, and takes half as much memory again")
	if err := parse(flags, args, false); err != nil {
		return err
	}
	switch {
	case *transform != "digest" && *transform != "none":
		return misuse("--transform %q: expected digest, none", *transform)
	case *size < 1 || *workers < 1 || *capacity < *size || *pullMax < 0:
		return misuse("--batch-size, --sink-workers: expected at least 1; --queue-cap: at least a batch")
	}

	p := &pipeline{assignment: newAssignment(*topic), batchSize: *size}
	p.spare.New = func() any { return new(batch) }
	switch *kind {
	case "bounded":
		p.queue = newBounded(*capacity / *size)
	case "unbounded":
		p.queue = newUnbounded()
	case "pull":
		// The queue holds one poll's records until their round is done; the next poll waits for
		// that.
		p.queue, p.pull = newUnbounded(), true
		if p.pollMax = *pullMax; p.pollMax == 0 {
			p.pollMax = *size * *workers
		}
	default:
		return misuse("--queue %q: expected bounded, unbounded, pull", *kind)
	}
	posters := make([]*poster, *workers)
	for n := range posters {
		var err error
		if posters[n], err = newPoster(*sink, *transform == "digest", *writeBuffer); err != nil {
			return err
		}
	}

	var err error
	p.client, err = kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...),
		kgo.ClientID("franz-go-pipe"),
		kgo.ConsumerGroup(*group),
		kgo.ConsumeTopics(*topic),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxPartitionBytes(int32(*partitionBytes)),
		kgo.DisableAutoCommit(),
		kgo.WithPools(new(recordPool)),
		// The assignment does not change between a poll and the enqueue of its last record.
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, given map[string][]int32) {
			p.assignment.add(given[*topic])
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, _ *kgo.Client, taken map[string][]int32) {
			p.commit(ctx)
			p.assignment.drop(taken[*topic])
		}),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, taken map[string][]int32) {
			p.assignment.drop(taken[*topic])
		}),
	)
	if err != nil {
		return err
	}
	return p.run(ctx, posters)
}

// run polls until the context ends or something fails, then drains, commits and leaves.
func (p *pipeline) run(ctx context.Context, posters []*poster) error {
	started := time.Now()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	// Workers go on after the context's end, for the drain.
	draining, endDrain := context.WithCancel(context.WithoutCancel(ctx))
	defer endDrain()

	var workers, committer sync.WaitGroup
	for _, poster := range posters {
		workers.Go(func() {
			if err := p.work(draining, poster); err != nil {
				fail(err)
				endDrain()
			}
		})
	}
	committer.Go(func() {
		every := time.NewTicker(commitInterval)
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
				p.commit(ctx)
			}
		}
	})
	// The drain counts from the signal, also where the poller waits for a round whose acks do not
	// come.
	context.AfterFunc(ctx, func() { time.AfterFunc(drainTimeout, endDrain) })
	fail(p.poll(ctx))
	p.queue.close()
	workers.Wait()
	committer.Wait()

	leaving, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	p.client.AllowRebalance()
	p.commit(leaving)
	err := p.client.LeaveGroupContext(leaving)
	p.client.Close()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return errors.Join(err, say(map[string]any{
		"acked": p.acked.Load(), "invalid": p.invalid.Load(), "seconds": time.Since(started).Seconds(),
	}))
}

// poll moves records from the client into the queue.
func (p *pipeline) poll(ctx context.Context) error {
	var round sync.WaitGroup
	for {
		fetches := p.client.PollRecords(ctx, p.pollMax)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, failed := range fetches.Errors() {
			// franz-go retries by itself what can be retried; an error that it returns is final.
			return fmt.Errorf("partition %d: %w", failed.Partition, failed.Err)
		}
		if err := p.enqueue(ctx, fetches, &round); err != nil {
			return err
		}
		p.client.AllowRebalance()
		if p.pull {
			round.Wait()
		}
	}
}

// enqueue cuts what a poll gave into batches. Only the last one is short.
func (p *pipeline) enqueue(ctx context.Context, fetches kgo.Fetches, round *sync.WaitGroup) error {
	b := p.newBatch(round)
	var err error
	fetches.EachPartition(func(fetched kgo.FetchTopicPartition) {
		records := fetched.Records
		partition := p.assignment.get(fetched.Partition)
		if partition == nil || err != nil {
			return
		}
		for len(records) > 0 && err == nil {
			some := records[:min(len(records), p.batchSize-b.events)]
			records = records[len(some):]
			b.spans = append(b.spans, span{partition, partition.open(some[len(some)-1]), some})
			b.events += len(some)
			if b.events == p.batchSize {
				err = p.queue.push(ctx, b)
				b = p.newBatch(round)
			}
		}
	})
	if err == nil && b.events > 0 {
		err = p.queue.push(ctx, b)
		b = nil
	}
	if b != nil && p.pull {
		round.Done()
	}
	return err
}

func (p *pipeline) newBatch(round *sync.WaitGroup) *batch {
	b := p.spare.Get().(*batch)
	clear(b.spans) // its records' memory belongs to franz-go
	b.spans, b.events, b.round = b.spans[:0], 0, nil
	if p.pull {
		round.Add(1)
		b.round = round
	}
	return b
}

// work posts batches until the queue is closed and empty, or the drain is over.
func (p *pipeline) work(ctx context.Context, poster *poster) error {
	for {
		b := p.queue.pop()
		if b == nil {
			return nil
		}
		if err := p.deliver(ctx, poster, b); err != nil {
			if ctx.Err() != nil {
				return nil // what is left is in the log
			}
			return err
		}
	}
}

func (p *pipeline) deliver(ctx context.Context, poster *poster, b *batch) error {
	if b.round != nil {
		defer b.round.Done()
	}
	bytes := 0
	for _, span := range b.spans {
		for _, record := range span.records {
			bytes += len(record.Value)
		}
	}
	poster.begin(b.events, bytes)
	for _, span := range b.spans {
		if span.partition.revoked.Load() {
			continue
		}
		for _, record := range span.records {
			if len(record.Value) < headerBytes || len(record.Value) > eventBytesMax {
				p.invalid.Add(1)
				continue
			}
			poster.add(record.Value)
		}
	}
	if err := poster.send(ctx); err != nil {
		return err
	}
	p.acked.Add(uint64(poster.events))
	for _, span := range b.spans {
		span.partition.ack(span.number)
	}
	for _, span := range b.spans {
		for _, record := range span.records {
			record.Recycle()
		}
	}
	p.spare.Put(b)
	return nil
}

// commit commits what was acked since the last one. A failure is logged, and the next commit makes
// up for it.
func (p *pipeline) commit(ctx context.Context) {
	offsets, failed := p.assignment.committable()
	if offsets == nil {
		return
	}
	var why error
	p.client.CommitOffsetsSync(ctx, offsets,
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
			why = err
			if err != nil {
				return
			}
			for _, topic := range answer.Topics {
				for _, partition := range topic.Partitions {
					why = errors.Join(why, kerr.ErrorForCode(partition.ErrorCode))
				}
			}
		})
	if why != nil {
		failed()
		fmt.Fprintf(os.Stderr, "pipe: commit: %v\n", why)
	}
}

// recordPool lets franz-go use the records of earlier fetches again, some 200 B each, once all of a
// slice are recycled. It saves 5 % of CPU time and 10 MB of memory.
type recordPool struct{ spare sync.Pool }

func (p *recordPool) GetRecords(n int) []kgo.Record {
	if some, _ := p.spare.Get().(*[]kgo.Record); some != nil && cap(*some) >= n {
		return (*some)[:n]
	}
	return make([]kgo.Record, n)
}

func (p *recordPool) PutRecords(some []kgo.Record) {
	p.spare.Put(&some)
}
