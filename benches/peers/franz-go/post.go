// A worker's client of the sink: one kept-alive connection of net/http, one body buffer.
//
// Invariant: `send` returns nil only when the sink has acked every event of the body. It sends the
// rest again, from the first event without an ack, until the context ends; a refusal (400, 413) is
// an error at once, because the same bytes will be refused again.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// postTimeout is the longest call of the sink, as `processor --sink-timeout` has it.
	postTimeout = 60 * time.Second
	// retryFirst doubles up to retryMax.
	retryFirst, retryMax = 50 * time.Millisecond, time.Second
)

// poster is one worker's client.
type poster struct {
	client  http.Client
	request *http.Request
	digest  bool
	body    []byte
	events  int
	reader  bytes.Reader
	answer  []byte
}

func newPoster(base string, digest bool, writeBuffer int) (*poster, error) {
	url, err := url.Parse(base)
	if err != nil || url.Host == "" || url.Scheme != "http" {
		return nil, misuse("--sink %q: expected such as http://127.0.0.1:9900", base)
	}
	url.Path = "/batch"
	if digest {
		url.RawQuery = transformDigest
	}
	request, err := http.NewRequest(http.MethodPost, url.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	transport := &http.Transport{
		MaxIdleConnsPerHost: 1,
		DisableCompression:  true,
		WriteBufferSize:     writeBuffer,
	}
	return &poster{
		client:  http.Client{Transport: transport, Timeout: postTimeout},
		request: request, digest: digest, answer: make([]byte, 0, 512),
	}, nil
}

// begin empties the body and makes room for `events` values of about `valueBytes` together.
func (p *poster) begin(events, valueBytes int) {
	p.events = 0
	p.body = p.body[:0]
	if need := valueBytes + events*(frameBytes+digestBytes); cap(p.body) < need {
		p.body = make([]byte, 0, need)
	}
}

// add appends one value to the body.
func (p *poster) add(value []byte) {
	p.events++
	if !p.digest {
		p.body = binary.BigEndian.AppendUint32(p.body, uint32(len(value)))
		p.body = append(p.body, value...)
		return
	}
	p.body = binary.BigEndian.AppendUint32(p.body, uint32(len(value)+digestBytes))
	p.body = append(p.body, value...)
	p.body = binary.BigEndian.AppendUint64(p.body, xxhash.Sum64(value[headerBytes:]))
}

// send posts the body until all of it is acked.
func (p *poster) send(ctx context.Context) error {
	body, left, wait := p.body, p.events, retryFirst
	for left > 0 {
		acked, err := p.post(ctx, body)
		switch {
		case err == nil:
			acked = min(acked, left)
			body = skip(body, acked)
			left -= acked
		case isRefusal(err):
			return err
		}
		if left == 0 {
			return nil
		}
		if acked > 0 {
			wait = retryFirst
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d events are not acked: %w", left, ctx.Err())
		case <-time.After(wait):
			wait = min(2*wait, retryMax)
		}
	}
	return nil
}

// refusal is an answer that will not change.
type refusal struct{ error }

func isRefusal(err error) bool {
	_, is := err.(refusal)
	return is
}

// post makes one attempt; it returns how many events of the body's start are acked.
func (p *poster) post(ctx context.Context, body []byte) (int, error) {
	// A request can be used again once its answer is read and closed; WithContext copies it
	// shallowly.
	request := p.request.WithContext(ctx)
	p.reader.Reset(body)
	request.Body = io.NopCloser(&p.reader)
	request.ContentLength = int64(len(body))
	// For a kept-alive connection that the sink has closed in the meantime.
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	answer, err := p.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text := bytes.NewBuffer(p.answer[:0])
	if _, err := text.ReadFrom(io.LimitReader(answer.Body, 4096)); err != nil {
		return 0, err
	}
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return 0, refusal{fmt.Errorf("the sink says %s: %.200s", answer.Status, text)}
	default:
		return 0, fmt.Errorf("the sink says %s", answer.Status)
	}
	var says struct{ Acked uint32 }
	if err := json.Unmarshal(text.Bytes(), &says); err != nil {
		return 0, fmt.Errorf("the sink says %.200s: %w", text, err)
	}
	return int(says.Acked), nil
}

// skip returns the body after its first `events` frames; the body has as many.
func skip(body []byte, events int) []byte {
	for ; events > 0; events-- {
		body = body[frameBytes+binary.BigEndian.Uint32(body):]
	}
	return body
}
