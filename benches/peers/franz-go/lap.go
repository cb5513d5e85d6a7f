// lap runs one contestant once. It starts the command, waits until all its work is done, reads the
// CPU time and memory that it took until then, stops it, and prints one JSON line.
//
//	lap --sink URL --events N ... -- processor ...    done when the sink has N distinct ids
//	lap --events N ... -- producer ...                done when the command has ended
//
// Invariant: a line has figures only if every id was delivered, with the bytes that it should have, the
// command ended with exit code 0, and (consumers) the group has committed all of the topic; else it has
// `error`, and lap's exit code is 1. The command is killed when lap dies.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const (
	// startWithin: a contestant joins its group and reads within a second or two on an idle machine.
	startWithin = 60 * time.Second
	// stopWithin: 10 s of drain, 15 s to commit and leave, and as much again.
	stopWithin = 50 * time.Second
	// peakEvery is how often the peak of a producer is read: a producer ends by itself.
	peakEvery = 5 * time.Millisecond
)

// course holds the flags of a lap.
type course struct {
	line           line
	sink           string
	brokers, topic string
	group          string
	quiet          time.Duration
	log            string
	watched        []int
	sinkPid        int
	command        []string
}

func lap(ctx context.Context, args []string) error {
	var c course
	flags := flag.NewFlagSet("lap", flag.ContinueOnError)
	flags.StringVar(&c.line.Kind, "kind", "race", "of the line: race, curve, producer")
	flags.IntVar(&c.line.Round, "round", 1, "of the line")
	flags.StringVar(&c.line.Who, "who", "", "of the line: the contestant")
	flags.StringVar(&c.line.Mode, "mode", "", "of the line: what is varied")
	flags.Uint64Var(&c.line.Events, "events", 0, "events in the topic, or to be produced")
	flags.Uint64Var(&c.line.ValueBytes, "value-bytes", 536, "bytes of each event in the topic")
	flags.StringVar(&c.line.Transform, "transform", "none", "digest: each value must arrive with its digest; none")
	flags.StringVar(&c.sink, "sink", "", "the sink's `url`, for a consumer")
	flags.StringVar(&c.brokers, "brokers", "", "bootstrap `list`")
	flags.StringVar(&c.topic, "topic", "", "the topic")
	flags.StringVar(&c.group, "group", "", "a consumer's group")
	flags.DurationVar(&c.quiet, "quiet", 30*time.Second, "no new id for so long: the rest is lost")
	flags.StringVar(&c.log, "log", os.DevNull, "file for what the command says")
	flags.IntVar(&c.sinkPid, "sink-pid", 0, "the sink's process")
	flags.Func("broker-pid", "a broker's process; may be given several times", func(text string) error {
		pid, err := strconv.Atoi(text)
		c.watched = append(c.watched, pid)
		return err
	})
	if err := parse(flags, args, true); err != nil {
		return err
	}
	c.command = flags.Args()
	if len(c.command) == 0 || c.line.Who == "" || c.line.Events == 0 || c.brokers == "" || c.topic == "" {
		return misuse("needed: --who, --events, --brokers, --topic, -- COMMAND")
	}
	if c.sink != "" && c.group == "" {
		return misuse("--sink needs --group")
	}
	found, err := c.run(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		c.line.Error = err.Error()
	} else {
		c.line.Figures = &found
	}
	return errors.Join(err, say(c.line))
}

// contestant is the running command.
type contestant struct {
	command *exec.Cmd
	stdout  bytes.Buffer
	ended   chan struct{} // closed when it has ended, after `err` is set
	err     error
}

func (c *course) start() (*contestant, error) {
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	it := &contestant{command: exec.Command(c.command[0], c.command[1:]...), ended: make(chan struct{})}
	it.command.Stdout, it.command.Stderr = io.MultiWriter(&it.stdout, log), log
	// The kernel kills the command when the thread that started it ends, so that thread must stay.
	runtime.LockOSThread()
	it.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := it.command.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		it.err = errors.Join(it.command.Wait(), log.Close())
		close(it.ended)
	}()
	return it, nil
}

// stop asks it to end, and waits.
func (it *contestant) stop(within time.Duration) error {
	_ = it.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-it.ended:
		return it.err
	case <-time.After(within):
		_ = it.command.Process.Kill()
		<-it.ended
		return fmt.Errorf("did not end within %s of SIGTERM", within)
	}
}

// run runs the command to its end, whatever happens.
func (c *course) run(ctx context.Context) (Figures, error) {
	if c.sink != "" {
		if _, err := c.ask(ctx, http.MethodPost, "/reset"); err != nil {
			return Figures{}, err
		}
	}
	it, err := c.start()
	if err != nil {
		return Figures{}, err
	}
	defer it.stop(stopWithin)
	var f Figures
	if c.sink != "" {
		f, err = c.consumed(ctx, it)
	} else {
		f, err = c.produced(ctx, it)
	}
	if err != nil {
		return Figures{}, fmt.Errorf("%w (its words: %s)", err, c.log)
	}
	return f, nil
}

// usage is the CPU time of the brokers and of the sink.
type usage struct{ brokers, sink time.Duration }

func (c *course) usage() usage { return usage{cpuOfAll(c.watched), cpuOfAll(c.sinkPids())} }

// spent notes what they used since `before`: of a consumer without the start and the end of it, which are no work on events.
func (c *course) spent(f *Figures, before usage) {
	per := func(spent time.Duration) float64 { return float64(spent.Nanoseconds()) / 1e3 / float64(c.line.Events) }
	now := c.usage()
	f.BrokersMicros, f.SinkMicros = per(now.brokers-before.brokers), per(now.sink-before.sink)
}

func (c *course) sinkPids() []int {
	if c.sinkPid == 0 {
		return nil
	}
	return []int{c.sinkPid}
}

// took reads CPU time and peak memory of a command that still runs.
func (c *course) took(f *Figures, it *contestant) error {
	cpu, err := cpuOf(it.command.Process.Pid)
	if err != nil {
		return err
	}
	f.CPUMicros = float64(cpu.Nanoseconds()) / 1e3 / float64(c.line.Events)
	f.PeakMB = float64(peakBytes(it.command.Process.Pid)) / 1e6
	return nil
}

// consumed waits until the sink has every id, and looks at what it has then.
func (c *course) consumed(ctx context.Context, it *contestant) (Figures, error) {
	var f Figures
	first, err := c.arrived(ctx, it, 1, startWithin)
	if err != nil {
		return f, err
	}
	if cpu, err := cpuOf(it.command.Process.Pid); err == nil {
		f.CPUStartMillis = float64(cpu.Nanoseconds()) / 1e6
	}
	before := c.usage()
	for have := first; have.Distinct < c.line.Events; {
		if have, err = c.arrived(ctx, it, c.line.Events, c.quiet); err != nil {
			return f, err
		}
	}
	if err := c.took(&f, it); err != nil {
		return f, err
	}
	c.spent(&f, before)
	if err := it.stop(stopWithin); err != nil {
		return f, err
	}
	seen, err := c.ask(ctx, http.MethodGet, "/stats")
	if err != nil {
		return f, err
	}
	if err := c.sound(seen); err != nil {
		return f, err
	}
	f.Seconds = float64(seen.LastNs-seen.FirstNs) / 1e9
	if f.Seconds <= 0 {
		return f, fmt.Errorf("%d events came at one moment: too few for a rate", seen.Events)
	}
	// The events of the first request had arrived before the clock started; what came twice is no event more.
	f.PerSecond = float64(seen.Events-seen.FirstEvents-seen.Duplicates) / f.Seconds
	f.Duplicates, f.Requests = seen.Duplicates, seen.Requests
	f.BatchEvents = float64(seen.Events) / float64(seen.Requests)
	return f, c.committed(ctx)
}

// arrived waits for `distinct` ids while new ones arrive, at most `quiet` apart.
func (c *course) arrived(ctx context.Context, it *contestant, distinct uint64, quiet time.Duration) (tally, error) {
	var before tally
	for since := time.Now(); ; {
		seen, err := c.ask(ctx, http.MethodGet, fmt.Sprintf("/stats?distinct=%d&wait=500ms", distinct))
		if err != nil || seen.Distinct >= distinct {
			return seen, err
		}
		select {
		case <-it.ended:
			return seen, fmt.Errorf("ended with %d of %d ids delivered: %v", seen.Distinct, c.line.Events, it.err)
		default:
		}
		if seen.Distinct != before.Distinct {
			since = time.Now()
		}
		before = seen
		if time.Since(since) >= quiet {
			return seen, fmt.Errorf("%d of %d ids delivered, and no new one for %s", seen.Distinct, c.line.Events, quiet)
		}
	}
}

// sound returns an error if something is wrong with what arrived.
func (c *course) sound(seen tally) error {
	value := c.line.ValueBytes
	if c.line.Transform == "digest" {
		value += digestBytes
	}
	digested := uint64(0)
	if c.line.Transform == "digest" {
		digested = seen.Events
	}
	switch {
	case seen.Distinct != c.line.Events || seen.Missing != 0:
		return fmt.Errorf("%d ids delivered, %d missing, expected %d", seen.Distinct, seen.Missing, c.line.Events)
	case seen.Bytes != seen.Events*value:
		return fmt.Errorf("%d bytes delivered, expected %d values of %d", seen.Bytes, seen.Events, value)
	case seen.Digested != digested || seen.Mismatches != 0:
		return fmt.Errorf("%d digests delivered, expected %d; %d of them wrong", seen.Digested, digested, seen.Mismatches)
	case seen.Refused != 0:
		return fmt.Errorf("%d requests were no run of frames", seen.Refused)
	}
	return nil
}

// produced waits for the command's end.
func (c *course) produced(ctx context.Context, it *contestant) (Figures, error) {
	var f Figures
	before := c.usage()
	for running := true; running; {
		f.PeakMB = max(f.PeakMB, float64(peakBytes(it.command.Process.Pid))/1e6)
		select {
		case <-it.ended:
			running = false
		case <-ctx.Done():
			return f, ctx.Err()
		case <-time.After(peakEvery):
		}
	}
	if it.err != nil {
		return f, it.err
	}
	c.spent(&f, before)
	state := it.command.ProcessState
	f.CPUMicros = float64((state.UserTime() + state.SystemTime()).Microseconds()) / float64(c.line.Events)
	var summary struct {
		Produced uint64
		Seconds  float64 `json:"duration_seconds"`
	}
	if err := json.Unmarshal(it.stdout.Bytes(), &summary); err != nil {
		return f, fmt.Errorf("its summary is no JSON: %w", err)
	}
	if summary.Produced != c.line.Events || summary.Seconds <= 0 {
		return f, fmt.Errorf("produced %d in %g s, expected %d", summary.Produced, summary.Seconds, c.line.Events)
	}
	f.Seconds, f.PerSecond = summary.Seconds, float64(summary.Produced)/summary.Seconds
	held, err := c.held(ctx)
	if err == nil && held < c.line.Events {
		err = fmt.Errorf("the topic holds %d of %d events", held, c.line.Events)
	}
	if held > c.line.Events {
		f.Duplicates = held - c.line.Events // a resend without idempotence
	}
	return f, err
}
