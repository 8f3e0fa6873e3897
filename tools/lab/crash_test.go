// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"hallig/tools/matrixclient"
)

// sender sends texts one after the other, each under a transaction id that is also its text.
type sender struct {
	*matrixclient.Client
	name  string
	n     int
	last  string            // transaction id of the last answered send
	open  string            // of the send that nobody answered, "" if none
	acked map[string]string // transaction id -> event id
}

func (s *sender) one(ctx context.Context, room, txn string) error {
	s.open = txn
	id, err := s.Send(ctx, room, "m.room.message", txn, map[string]string{"msgtype": "m.text", "body": txn})
	if err != nil {
		return err
	}
	s.acked[txn], s.last, s.open = id, txn, ""
	return nil
}

// again repeats what a client would repeat after a lost connection.
func (s *sender) again(t *testing.T, ctx context.Context, room string) {
	t.Helper()
	if s.last != "" {
		id, err := s.Send(ctx, room, "m.room.message", s.last, map[string]string{"msgtype": "m.text", "body": s.last})
		if err != nil || id != s.acked[s.last] {
			t.Errorf("%s repeats %s: got %s, %v, want %s", s.name, s.last, id, err, s.acked[s.last])
		}
	}
	if s.open != "" {
		if err := s.one(ctx, room, s.open); err != nil {
			t.Errorf("%s sends %s again: %v", s.name, s.open, err)
		}
	}
}

// TestKilledUnderLoad: kill -9 at random moments while several clients send. Whatever was acknowledged is there once, what was
// not is there once after its repetition, and the database is whole.
func TestKilledUnderLoad(t *testing.T) {
	const rounds, senders, seed = 6, 5, 20
	chance := rand.New(rand.NewPCG(seed, 1))
	ctx := within(t, 5*time.Minute)
	b := newBox(t, "crash.example")
	b.start()
	all := make([]*sender, senders)
	var room string
	for i := range all {
		name := fmt.Sprintf("sender%d", i)
		all[i] = &sender{Client: b.register(name), name: name, acked: map[string]string{}}
		if i == 0 {
			room = must[string](t, "create room")(all[0].CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"}))
		} else {
			must[string](t, "join")(all[i].Join(ctx, room))
		}
	}
	reader := b.register("reader")
	must[string](t, "join")(reader.Join(ctx, room))
	since := must[*matrixclient.SyncResponse](t, "first sync")(reader.Sync(ctx, matrixclient.SyncOptions{})).NextBatch

	for range rounds {
		answered := make(chan struct{}, 10_000)
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(func() {
				for {
					s.n++
					if s.one(ctx, room, fmt.Sprintf("%s-%d", s.name, s.n)) != nil {
						return
					}
					answered <- struct{}{}
				}
			})
		}
		for range 20 + chance.IntN(150) {
			<-answered
		}
		b.kill()
		wg.Wait()
		b.start()
		for _, s := range all {
			s.again(t, ctx, room)
		}
	}
	checkAcked(t, ctx, reader, room, all)
	checkFollowed(t, ctx, reader, room, since, all)
	b.stop()
	b.verify()
}

// checkAcked pages through the history: each text there once, under the id that was answered.
func checkAcked(t *testing.T, ctx context.Context, c *matrixclient.Client, room string, all []*sender) {
	t.Helper()
	events := must[[]matrixclient.Event](t, "page back")(history(c, ctx, room))
	found, sent := map[string]string{}, 0
	for _, e := range events {
		if e.Type != "m.room.message" {
			continue
		}
		if other, twice := found[e.Body()]; twice {
			t.Errorf("%s is there twice: %s and %s", e.Body(), other, e.ID)
		}
		found[e.Body()] = e.ID
	}
	for _, s := range all {
		for txn, id := range s.acked {
			sent++
			if found[txn] != id {
				t.Errorf("%s was acknowledged as %s; the history has %q", txn, id, found[txn])
			}
		}
	}
	if len(found) != sent {
		t.Errorf("%d messages in the history, want the %d sent", len(found), sent)
	}
	t.Logf("%d messages", sent)
}

// checkFollowed goes on from a token of before all kills, filling gaps as a client does: again each message once.
func checkFollowed(t *testing.T, ctx context.Context, c *matrixclient.Client, room, since string, all []*sender) {
	t.Helper()
	r := must[*matrixclient.SyncResponse](t, "sync from an old token")(c.Sync(ctx, matrixclient.SyncOptions{Since: since}))
	line := r.Rooms.Join[room].Timeline
	want, got := 0, map[string]int{}
	for _, e := range line.Events {
		got[e.ID]++
	}
	if !line.Limited {
		t.Error("the timeline is not limited; the test sends too little")
	}
	for from := line.PrevBatch; from != ""; {
		m := must[*matrixclient.Messages](t, "fill the gap")(c.Messages(ctx, room, from, "b", 100))
		for _, e := range m.Chunk {
			got[e.ID]++
		}
		from = m.End
	}
	for _, s := range all {
		for txn, id := range s.acked {
			want++
			if got[id] != 1 {
				t.Errorf("%s came %d times by /sync and /messages, want once", txn, got[id])
			}
		}
	}
}
