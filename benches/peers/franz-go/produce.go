// produce and fill: ids 0 to count-1 as events, keyed, acks from all replicas, idempotent, as fast as
// the brokers take them.
//
// Invariant: it succeeds only if every event is acknowledged. The JSON line on stdout gives their
// number and the time from the making of the first event to the last acknowledgement, under the
// names that `producer` uses. Nothing is compressed: the payload cannot be. `fill` wants large
// record batches, not speed, so it buffers some for every partition and flushes them together.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// loading holds the flags of both commands.
type loading struct {
	brokers, topic string
	count          uint64
	payloadBytes   int
	recipe         recipe
}

func (l *loading) flags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.StringVar(&l.brokers, "brokers", "127.0.0.1:19092", "bootstrap `list`")
	flags.StringVar(&l.topic, "topic", "events", "topic to send to")
	flags.Uint64Var(&l.count, "count", 1_000_000, "events")
	flags.IntVar(&l.payloadBytes, "msg-size", 512, "bytes of payload; an event has 24 more")
	flags.Uint64Var(&l.recipe.seed, "seed", 1, "seed of keys and payloads")
	flags.Uint64Var(&l.recipe.keys, "keys", 10_000, "number of keys")
	return flags
}

func (l *loading) check() error {
	if l.payloadBytes < 0 || l.payloadBytes > eventBytesMax-headerBytes || l.recipe.keys == 0 || l.count == 0 {
		return misuse("--msg-size: expected 0 to %d; --keys, --count: at least 1", eventBytesMax-headerBytes)
	}
	return nil
}

// batches counts the record batches that were written, for the mean of their size.
type batches struct{ written, records atomic.Int64 }

func (b *batches) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	b.written.Add(1)
	b.records.Add(int64(m.NumRecords))
}

// options returns the client options that both share.
func (l *loading) options(b *batches, more ...kgo.Opt) []kgo.Opt {
	return append([]kgo.Opt{
		kgo.SeedBrokers(strings.Split(l.brokers, ",")...),
		kgo.ClientID("franz-go-produce"),
		kgo.DefaultProduceTopicAlways(),
		kgo.DefaultProduceTopic(l.topic),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		// Murmur2 of the key, as the Java client and `producer`.
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.WithHooks(b),
	}, more...)
}

// connect makes a client that has reached a broker, so that no figure includes the start.
func (l *loading) connect(ctx context.Context, options []kgo.Opt) (*kgo.Client, error) {
	client, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("%s: %w", l.brokers, err)
	}
	return client, nil
}

// summary is the JSON line.
func (l *loading) summary(produced int64, took time.Duration, b *batches) error {
	return say(map[string]any{
		"topic": l.topic, "produced": produced, "duration_seconds": took.Seconds(),
		"achieved_rate": float64(produced) / took.Seconds(),
		"batches":       b.written.Load(), "batch_records": float64(b.records.Load()) / float64(max(1, b.written.Load())),
	})
}

// sending makes events and gives them to the client; a record and its bytes are used again once they
// are acknowledged.
type sending struct {
	*loading
	client   *kgo.Client
	spare    sync.Pool
	produced atomic.Int64
	failed   atomic.Pointer[error]
}

func (l *loading) sending(client *kgo.Client) *sending {
	s := &sending{loading: l, client: client}
	s.spare.New = func() any {
		return &kgo.Record{Value: make([]byte, headerBytes+l.payloadBytes)}
	}
	return s
}

// send produces the events of the ids from `from` to `to`, exclusive, `step` apart.
func (s *sending) send(ctx context.Context, from, to, step uint64) {
	for id := from; id < to && ctx.Err() == nil && s.failed.Load() == nil; id += step {
		record := s.spare.Get().(*kgo.Record)
		value := record.Value
		now := time.Now()
		s.recipe.encode(value, id, now.UnixMicro())
		*record = kgo.Record{Key: value[8 : 8+keyBytes], Value: value, Timestamp: now}
		s.client.Produce(ctx, record, s.acknowledged)
	}
}

func (s *sending) acknowledged(record *kgo.Record, err error) {
	if err != nil {
		s.failed.CompareAndSwap(nil, &err)
		return
	}
	s.produced.Add(1)
	s.spare.Put(record)
}

// finish flushes, and returns an error that says why if not everything was acknowledged.
func (s *sending) finish(ctx context.Context) error {
	err := s.client.Flush(ctx)
	if failed := s.failed.Load(); failed != nil {
		err = errors.Join(*failed, err)
	}
	return err
}

func (s *sending) complete(err error) error {
	if produced := uint64(s.produced.Load()); err == nil && produced != s.count {
		err = fmt.Errorf("%d of %d events are acknowledged", produced, s.count)
	}
	return err
}

func produce(ctx context.Context, args []string) error {
	var l loading
	flags := l.flags("produce")
	makers := flags.Uint64("makers", 1, "goroutines that make events; with one they are in order of id")
	buffered := flags.Int("buffered", 50_000, "MaxBufferedRecords")
	linger := flags.Duration("linger", 50*time.Millisecond, "ProducerLinger; franz-go's own 10ms makes smaller batches, which cost the brokers more")
	if err := parse(flags, args, false); err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return err
	}
	if *makers < 1 {
		return misuse("--makers 0: expected at least 1")
	}
	var b batches
	client, err := l.connect(ctx, l.options(&b, kgo.MaxBufferedRecords(*buffered), kgo.ProducerLinger(*linger)))
	if err != nil {
		return err
	}
	defer client.Close()
	s := l.sending(client)
	started := time.Now()
	var making sync.WaitGroup
	for n := range *makers {
		making.Go(func() { s.send(ctx, n, l.count, *makers) })
	}
	making.Wait()
	err = s.finish(ctx)
	took := time.Since(started)
	return errors.Join(s.complete(err), l.summary(s.produced.Load(), took, &b))
}

const (
	// fillBatchBytes is below the brokers' limit of 1,048,588; the figures about fetching are for
	// this size.
	fillBatchBytes = 900_000
	// fillFlushBytes are buffered before a flush: ten full batches for each of 12 partitions (108
	// MB), so that only one batch of eleven is short after a flush.
	fillFlushBytes = 10 * 12 * fillBatchBytes
)

func fill(ctx context.Context, args []string) error {
	var l loading
	if err := parse(l.flags("fill"), args, false); err != nil {
		return err
	}
	if err := l.check(); err != nil {
		return err
	}
	flush := max(1, uint64(fillFlushBytes/(headerBytes+l.payloadBytes)))
	var b batches
	client, err := l.connect(ctx, l.options(&b,
		kgo.MaxBufferedRecords(int(flush)), kgo.ManualFlushing(), kgo.ProducerBatchMaxBytes(fillBatchBytes)))
	if err != nil {
		return err
	}
	defer client.Close()
	s := l.sending(client)
	started := time.Now()
	for from := uint64(0); from < l.count && err == nil; from += flush {
		s.send(ctx, from, min(from+flush, l.count), 1)
		err = s.finish(ctx)
	}
	took := time.Since(started)
	return errors.Join(s.complete(err), l.summary(s.produced.Load(), took, &b))
}
