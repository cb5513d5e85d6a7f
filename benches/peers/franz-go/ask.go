// Requests of a lap: it asks the cluster how many offsets there are and which are committed, and
// the sink what arrived. It changes only two things: it resets the sink's count (/reset) and
// deletes the lap's own group.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// admin runs `ask` with an admin client of the cluster.
func (c *course) admin(ask func(*kadm.Client) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.brokers, ",")...))
	if err != nil {
		return err
	}
	defer client.Close()
	return ask(kadm.NewClient(client))
}

// held returns how many offsets the topic has.
func (c *course) held(ctx context.Context) (sum uint64, err error) {
	err = c.admin(func(admin *kadm.Client) error {
		ends, err := admin.ListEndOffsets(ctx, c.topic)
		if err = errors.Join(err, ends.Error()); err != nil {
			return err
		}
		ends.Each(func(end kadm.ListedOffset) { sum += uint64(end.Offset) })
		return nil
	})
	return sum, err
}

// committed returns an error unless the group has committed the ends of the topic. It then deletes
// the group: each lap has its own, and they must not pile up on a cluster that stays.
func (c *course) committed(ctx context.Context) error {
	held, err := c.held(ctx)
	if err != nil {
		return err
	}
	return c.admin(func(admin *kadm.Client) error {
		offsets, err := admin.FetchOffsetsForTopics(ctx, c.group, c.topic)
		if err = errors.Join(err, offsets.Error()); err != nil {
			return err
		}
		sum := uint64(0)
		offsets.Each(func(o kadm.OffsetResponse) { sum += uint64(max(0, o.At)) })
		if sum != held {
			return fmt.Errorf("the group has committed %d of %d offsets", sum, held)
		}
		_, err = admin.DeleteGroup(ctx, c.group)
		return err
	})
}

// ask asks the sink.
func (c *course) ask(ctx context.Context, method, path string) (tally, error) {
	var says tally
	request, err := http.NewRequestWithContext(ctx, method, c.sink+path, nil)
	if err != nil {
		return says, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return says, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("the sink says %s: %.200s", answer.Status, text)
	}
	if err == nil && method == http.MethodGet {
		err = json.Unmarshal(text, &says)
	}
	return says, err
}
