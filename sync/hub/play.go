// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file hands on many requests at once. After three weeks thousands of transactions wait, most of them with a single event: one after the other, each would cost a turn of the line, and the keys
// to encrypted messages, which nobody can be asked for again, would come at the end of hours over a satellite.

// some hands on the first of some requests, as many as go together. n of them the box has, or has refused for good; an error is about the one after these.
func (c *carrier) some(ctx context.Context, rs []spool.Request) (n int, err error) {
	batch := together(rs)
	if len(batch) < 2 || c.single.Load() {
		if err := c.one(ctx, rs[0]); err != nil {
			return 0, err
		}
		return 1, nil
	}
	answers, err := c.send(ctx, batch)
	var old *tooOld
	if errors.As(err, &old) {
		c.single.Store(true)
		return 0, nil // the next turn goes one by one
	}
	if err != nil {
		return 0, err
	}
	for i, a := range answers {
		if err := c.h.judge(ctx, c.box, rs[i], a.Status, []byte(a.Text)); err != nil {
			return i, err
		}
	}
	return len(answers), nil
}

// together gives as many of the first requests as fit one Play.
func together(rs []spool.Request) (batch []api.Waited) {
	size := 0
	for _, r := range rs {
		q := api.Waited{Method: r.Method, URI: r.URI, Authorization: r.Authorization, Body: string(r.Body), Received: r.Received.UnixMilli()}
		if size += len(q.Body); size > api.PlayBytes || len(batch) == api.PlayMost || !q.Fits() {
			break
		}
		batch = append(batch, q)
	}
	return batch
}

// tooOld: the box does not know how many at once go.
type tooOld struct{}

func (*tooOld) Error() string { return "the box takes one request at a time" }

// send plays a batch. There is at least one answer when there is no error.
func (c *carrier) send(ctx context.Context, batch []api.Waited) ([]api.PlayedOne, error) {
	raw, err := (&api.Play{Requests: batch}).Pack()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, playPatience)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, federation.Scheme+"://"+c.box+api.PlayPath, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	resp, err := c.h.p2p.RoundTripper().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the box's answer: %w", err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, &tooOld{}
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answered %d %.200q", resp.StatusCode, text)
	}
	var p api.Played
	if err := json.Unmarshal(text, &p); err != nil || len(p.Answers) == 0 {
		return nil, &tooOld{}
	}
	if len(p.Answers) > len(batch) {
		return nil, fmt.Errorf("it gave %d answers to %d requests", len(p.Answers), len(batch))
	}
	return p.Answers, nil
}
