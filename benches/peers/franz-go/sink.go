// sink receives the events of a race. It acks as fast as it can read, and records what arrived.
//
// Invariant: an id is a bit. Every value of every answered request was checked: its id is distinct
// or a duplicate, its bytes are counted, and where the request says `?transform=digest` the digest
// of every value is recomputed (a few hundredths of a µs each; sampling would save too little to
// see). A request that is not a run of frames is refused whole, before any of it counts.
//
//	POST /batch, /write    {"acked": n}
//	GET  /stats            what arrived; ?distinct=N&wait=1s waits for N ids, 1 s at most
//	POST /reset            forgets all of it

package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// bodyBytesMax: 200 events of 64 KiB, the race's longest batch, are 13 MB; 64 MiB holds five.
	bodyBytesMax = 64 << 20
	// idMax keeps the bitmap below 128 MiB.
	idMax = 1 << 30
	// transformDigest is the query of a request whose values carry their digest.
	transformDigest = "transform=digest"
)

// tally is what /stats says.
type tally struct {
	// Events that arrived, and of them those with a new id and those with a known one.
	Events     uint64 `json:"events"`
	Distinct   uint64 `json:"distinct"`
	Duplicates uint64 `json:"duplicates"`
	// Missing ids below the largest.
	Missing uint64 `json:"missing"`
	// Bytes of the values, digests included.
	Bytes uint64 `json:"bytes"`
	// Values whose digest was recomputed, and of them those whose digest was wrong.
	Digested   uint64 `json:"digested"`
	Mismatches uint64 `json:"mismatches"`
	// Requests that were answered with 200, and with 400.
	Requests uint64 `json:"requests"`
	Refused  uint64 `json:"refused"`
	// When the first and the last request had been read, ns on this process's monotonic clock, and how
	// many events the first one held.
	FirstNs     int64  `json:"first_ns"`
	LastNs      int64  `json:"last_ns"`
	FirstEvents uint64 `json:"first_events"`
}

// ledger holds the ids that arrived.
type ledger struct {
	mu    sync.Mutex
	tally tally
	bits  []uint64
	end   uint64 // the largest id plus 1
	// bell is closed, and replaced, when `Distinct` reaches `want`.
	want uint64
	bell chan struct{}
}

func newLedger() *ledger {
	return &ledger{bell: make(chan struct{})}
}

// take counts one request: its ids, the bytes of its values, its digests.
func (l *ledger) take(ids []uint64, bytes, digested, mismatches uint64, atNs int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.tally
	if t.Requests == 0 {
		t.FirstNs, t.FirstEvents = atNs, uint64(len(ids))
	}
	t.LastNs = max(t.LastNs, atNs)
	t.Requests++
	t.Events += uint64(len(ids))
	t.Bytes += bytes
	t.Digested += digested
	t.Mismatches += mismatches
	before := t.Distinct
	for _, id := range ids {
		word, bit := id/64, uint64(1)<<(id%64)
		if word >= uint64(len(l.bits)) {
			l.bits = append(l.bits, make([]uint64, max(word+1, 2*uint64(len(l.bits)))-uint64(len(l.bits)))...)
		}
		if l.bits[word]&bit == 0 {
			l.bits[word] |= bit
			t.Distinct++
		}
		l.end = max(l.end, id+1)
	}
	if before < l.want && t.Distinct >= l.want {
		close(l.bell)
		l.bell = make(chan struct{})
	}
}

func (l *ledger) refuse() {
	l.mu.Lock()
	l.tally.Refused++
	l.mu.Unlock()
}

func (l *ledger) stats() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally
	t.Duplicates = t.Events - t.Distinct
	t.Missing = l.end - t.Distinct
	return t
}

func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally, l.end = tally{}, 0
	clear(l.bits)
}

// await returns once `distinct` ids have arrived, or after `wait`. It serves one caller at a time:
// of several with different numbers only the last one is woken in time.
func (l *ledger) await(ctx context.Context, distinct uint64, wait time.Duration) {
	l.mu.Lock()
	l.want = distinct
	bell, reached := l.bell, l.tally.Distinct >= distinct
	l.mu.Unlock()
	if reached {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-bell:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// request is what a handler needs for one body; the server keeps some.
type request struct {
	body []byte
	ids  []uint64
}

// frames reads a batch body, or with `single` one bare value.
func (r *request) frames(single, digest bool) (bytes, digested, mismatches uint64, err error) {
	r.ids = r.ids[:0]
	for rest := r.body; len(rest) > 0; {
		value := rest
		if single {
			rest = nil
		} else {
			if len(rest) < frameBytes {
				return 0, 0, 0, fmt.Errorf("event %d: %d bytes left, a frame has at least %d", len(r.ids), len(rest), frameBytes)
			}
			length := uint64(binary.BigEndian.Uint32(rest))
			rest = rest[frameBytes:]
			if length > uint64(len(rest)) {
				return 0, 0, 0, fmt.Errorf("event %d: %d bytes left, %d announced", len(r.ids), len(rest), length)
			}
			value, rest = rest[:length], rest[length:]
		}
		least := headerBytes
		if digest {
			least += digestBytes
		}
		if len(value) < least || len(value) > eventBytesMax+digestBytes {
			return 0, 0, 0, fmt.Errorf("event %d: %d bytes, expected %d to %d", len(r.ids), len(value), least, eventBytesMax+digestBytes)
		}
		id := binary.BigEndian.Uint64(value)
		if id >= idMax {
			return 0, 0, 0, fmt.Errorf("event %d: id %d, expected below %d", len(r.ids), id, idMax)
		}
		if digest {
			end := len(value) - digestBytes
			digested++
			if xxhash.Sum64(value[headerBytes:end]) != binary.BigEndian.Uint64(value[end:]) {
				mismatches++
			}
		}
		r.ids = append(r.ids, id)
		bytes += uint64(len(value))
	}
	if len(r.ids) == 0 {
		return 0, 0, 0, errors.New("no event")
	}
	return bytes, digested, mismatches, nil
}

// read reads the whole body into the request's own buffer.
func (r *request) read(body io.Reader, length int64) error {
	if length > bodyBytesMax {
		return fmt.Errorf("%d bytes, expected at most %d", length, bodyBytesMax)
	}
	if length >= 0 {
		if int64(cap(r.body)) < length {
			r.body = make([]byte, length)
		}
		r.body = r.body[:length]
		_, err := io.ReadFull(body, r.body)
		return err
	}
	// Chunked: of unknown length.
	all, err := io.ReadAll(io.LimitReader(body, bodyBytesMax+1))
	if err == nil && len(all) > bodyBytesMax {
		err = fmt.Errorf("more than %d bytes", bodyBytesMax)
	}
	r.body = all
	return err
}

// handler is the sink as an HTTP handler, on a clock that starts now.
func (l *ledger) handler() http.Handler {
	started := time.Now()
	spare := sync.Pool{New: func() any { return new(request) }}
	write := func(single bool) http.HandlerFunc {
		return func(w http.ResponseWriter, asked *http.Request) {
			r := spare.Get().(*request)
			defer spare.Put(r)
			err := r.read(asked.Body, asked.ContentLength)
			at := time.Since(started).Nanoseconds()
			if err == nil {
				var bytes, digested, mismatches uint64
				bytes, digested, mismatches, err = r.frames(single, asked.URL.RawQuery == transformDigest)
				if err == nil {
					l.take(r.ids, bytes, digested, mismatches, at)
				}
			}
			if err != nil {
				l.refuse()
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header()["Content-Type"] = []string{"application/json"}
			answer := append(strconv.AppendInt(append(make([]byte, 0, 32), `{"acked":`...), int64(len(r.ids)), 10), '}')
			_, _ = w.Write(answer) // a client that is gone sends again, and its events are duplicates
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /batch", write(false))
	mux.HandleFunc("POST /write", write(true))
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) { l.reset() })
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		if query := r.URL.Query(); query.Has("distinct") {
			distinct, err := strconv.ParseUint(query.Get("distinct"), 10, 64)
			wait, errWait := time.ParseDuration(query.Get("wait"))
			if err = errors.Join(err, errWait); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			l.await(r.Context(), distinct, wait)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(l.stats())
	})
	return mux
}

func sink(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("sink", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on; it is printed")
	if err := parse(flags, args, false); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	server := http.Server{Handler: newLedger().handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close() // the client repeats what is in flight
	}()
	if err := say(map[string]string{"listen": listener.Addr().String()}); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
