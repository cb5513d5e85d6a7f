package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func value(id uint64, payload int) []byte {
	value := make([]byte, headerBytes+payload)
	recipe{seed: 1, keys: 10}.encode(value, id, 0)
	return value
}

// posted posts values with the client of the race.
func posted(t *testing.T, url string, digest bool, values ...[]byte) {
	t.Helper()
	p, err := newPoster(url, digest, 4096)
	if err != nil {
		t.Fatal(err)
	}
	p.begin(len(values), 0)
	for _, value := range values {
		p.add(value)
	}
	if err := p.send(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func statsOf(t *testing.T, url string) (says tally) {
	t.Helper()
	answer, err := http.Get(url + "/stats?distinct=0&wait=1s")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&says); err != nil {
		t.Fatal(err)
	}
	return says
}

// Prevents: a contestant that lost an id, sent it twice, or sent other bytes, and shows a speed.
func TestSinkSeesWhatIsWrong(t *testing.T) {
	server := httptest.NewServer(newLedger().handler())
	defer server.Close()
	posted(t, server.URL, true, value(0, 100), value(1, 100), value(3, 100))
	posted(t, server.URL, true, value(1, 100))
	got := statsOf(t, server.URL)
	if got.Events != 4 || got.Distinct != 3 || got.Duplicates != 1 || got.Missing != 1 ||
		got.Bytes != 4*132 || got.Digested != 4 || got.Mismatches != 0 || got.Requests != 2 || got.FirstEvents != 3 {
		t.Errorf("%+v", got)
	}
	// A value without the announced digest: its last 8 bytes are not the digest of the rest.
	answer, err := http.Post(server.URL+"/write?transform=digest", "", strings.NewReader(string(value(2, 100))))
	if err != nil {
		t.Fatal(err)
	}
	words, _ := io.ReadAll(answer.Body)
	if got := statsOf(t, server.URL); got.Mismatches != 1 || got.Missing != 0 || string(words) != `{"acked":1}` {
		t.Errorf("%+v, %s", got, words)
	}
	if _, err := http.Post(server.URL+"/reset", "", nil); err != nil {
		t.Fatal(err)
	}
	if got := statsOf(t, server.URL); got != (tally{}) {
		t.Errorf("after a reset: %+v", got)
	}
}

// Prevents: a truncated body that counts all the same.
func TestSinkRefusesWhatIsNoRunOfFrames(t *testing.T) {
	server := httptest.NewServer(newLedger().handler())
	defer server.Close()
	frame := func(length byte, body []byte) string { return string(append([]byte{0, 0, 0, length}, body...)) }
	huge := value(idMax, 0)
	for _, body := range []string{
		"", "abc", frame(24, value(0, 0)) + "x", frame(25, value(0, 0)), frame(23, value(0, 0)[:23]), frame(24, huge),
	} {
		answer, err := http.Post(server.URL+"/batch", "", strings.NewReader(body))
		if err != nil || answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %v %v", body, answer, err)
		}
	}
	if got := statsOf(t, server.URL); got.Events != 0 || got.Refused != 6 {
		t.Errorf("%+v", got)
	}
}

// Prevents: a lap that ends late because it is not told that the last id has arrived.
func TestStatsAnswersWhenTheIdsAreThere(t *testing.T) {
	server := httptest.NewServer(newLedger().handler())
	defer server.Close()
	said := make(chan time.Duration)
	go func() {
		since := time.Now()
		if answer, err := http.Get(server.URL + "/stats?distinct=2&wait=20s"); err == nil {
			answer.Body.Close()
		}
		said <- time.Since(since)
	}()
	posted(t, server.URL, false, value(0, 0))
	posted(t, server.URL, false, value(1, 0))
	if took := <-said; took > 10*time.Second {
		t.Errorf("told after %s", took)
	}
}

// Prevents: events without an ack that are not sent again; a refusal that is retried for ever.
func TestPosterSendsWhatWasNotAcked(t *testing.T) {
	ledger := newLedger()
	whole, calls := ledger.handler(), 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch calls++; calls {
		case 1:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		case 2: // takes the first of three
			body, _ := io.ReadAll(r.Body)
			ledger.take([]uint64{uint64(body[frameBytes+7])}, 24, 0, 0, 1)
			fmt.Fprint(w, `{"acked":1}`)
		case 3:
			whole.ServeHTTP(w, r)
		default:
			http.Error(w, "no", http.StatusBadRequest)
		}
	}))
	defer server.Close()
	posted(t, server.URL, false, value(5, 0), value(6, 0), value(7, 0))
	if got := ledger.stats(); got.Distinct != 3 || got.Duplicates != 0 || calls != 3 {
		t.Errorf("%+v after %d calls", got, calls)
	}
	p, _ := newPoster(server.URL, false, 4096)
	p.begin(1, 0)
	p.add(value(8, 0))
	if err := p.send(context.Background()); err == nil || !isRefusal(err) {
		t.Errorf("a refusal is %v", err)
	}
}
