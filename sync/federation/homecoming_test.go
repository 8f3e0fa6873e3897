// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// home is a box of ours and a central server that nobody here wrote, with one user each.
type home struct {
	*testing.T
	box        *testBox
	peer       *testpeer.Peer
	anna, carl *matrixclient.Client
}

func newHome(t *testing.T) *home {
	t.Helper()
	ca := testCA(t)
	peer, err := testpeer.Start(t.Context(), testpeer.Options{Dir: t.TempDir(), CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := peer.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log("the central server's log ends:\n" + peer.LogTail(6000))
		}
	})
	h := &home{T: t, peer: peer, box: newTestBox(t, ca)}
	h.anna = h.box.user("anna")
	h.carl = matrixclient.New(peer.Client)
	if err := h.carl.RegisterShared(t.Context(), peer.Secret, "carl", "a long enough password", false); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *home) cut() {
	h.box.link.Cut()
	h.peer.Link.Cut()
}

func (h *home) join() {
	h.box.link.Join()
	h.peer.Link.Join()
}

// follower collects what a client that syncs all the time sees as timeline. It never pages back: what /sync does not bring, or leaves
// out as limited, counts as lost.
type follower struct {
	c    *matrixclient.Client
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	seen    map[string]int
	limited int
	err     error
	news    chan struct{}
}

const wholeTimeline = `{"room":{"timeline":{"limit":1000}}}`

// follow starts a follower; what was there before is caught up with first.
func follow(t *testing.T, c *matrixclient.Client) *follower {
	t.Helper()
	r, err := c.Sync(t.Context(), matrixclient.SyncOptions{Filter: wholeTimeline})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &follower{c: c, stop: stop, done: make(chan struct{}), seen: map[string]int{}, news: make(chan struct{}, 1)}
	go f.run(ctx, r.NextBatch) // close waits for it
	t.Cleanup(f.close)
	return f
}

func (f *follower) close() {
	f.stop()
	<-f.done
}

func (f *follower) run(ctx context.Context, since string) {
	defer close(f.done)
	for ctx.Err() == nil {
		r, err := f.c.Sync(ctx, matrixclient.SyncOptions{Since: since, Filter: wholeTimeline, Timeout: 10 * time.Second})
		f.mu.Lock()
		if err != nil {
			f.err = err
		} else {
			since = r.NextBatch
			for _, room := range r.Rooms.Join {
				if room.Timeline.Limited {
					f.limited++
				}
				for _, e := range room.Timeline.Events {
					f.seen[e.ID]++
				}
			}
		}
		f.mu.Unlock()
		poke(f.news)
		if err != nil {
			return
		}
	}
}

// lacks gives the events that were not seen, and those seen more than once.
func (f *follower) lacks(want []string) (lack, twice []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range want {
		switch n := f.seen[id]; {
		case n == 0:
			lack = append(lack, id)
		case n > 1:
			twice = append(twice, id)
		}
	}
	return lack, twice
}

// until waits until all events were seen, as long as more and more are: how fast the central server is depends on the machine.
func (f *follower) until(t *testing.T, want []string) {
	t.Helper()
	const still = 100 * time.Second
	timeout := time.NewTimer(still)
	defer timeout.Stop()
	for least := len(want); ; {
		lack, twice := f.lacks(want)
		if len(lack) < least {
			least = len(lack)
			timeout.Reset(still)
		}
		if len(lack) == 0 {
			if len(twice) > 0 {
				t.Errorf("%s saw %d events more than once", f.c.UserID, len(twice))
			}
			return
		}
		select {
		case <-f.news:
		case <-timeout.C:
			t.Fatalf("%s lacks %d of %d events and sees no more, first %v; limited %d times; %v", f.c.UserID, len(lack), len(want), lack[:min(3, len(lack))], f.limited, f.err)
		}
	}
}

func (h *home) waitJoined(c *matrixclient.Client, id string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	if _, err := c.Follow(ctx, "", func(r *matrixclient.SyncResponse) bool { _, ok := r.Rooms.Join[id]; return ok }); err != nil {
		h.Fatalf("%s is not in %s: %v", c.UserID, id, err)
	}
}

func (h *home) state(c *matrixclient.Client, id string) map[string]string {
	h.Helper()
	evs, err := c.State(h.Context(), id)
	if err != nil {
		h.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range evs {
		m[e.Type+" "+*e.StateKey] = e.ID
	}
	return m
}

// equalState waits until both servers answer with the same state.
func (h *home) equalState(id string) {
	h.Helper()
	var a, c map[string]string
	deadline := time.Now().Add(time.Minute)
	since := ""
	for time.Now().Before(deadline) {
		a, c = h.state(h.anna, id), h.state(h.carl, id)
		if maps.Equal(a, c) {
			return
		}
		r, err := h.carl.Sync(h.Context(), matrixclient.SyncOptions{Since: since, Timeout: time.Second})
		if err != nil {
			h.Fatal(err)
		}
		since = r.NextBatch
	}
	for k := range a {
		if a[k] != c[k] {
			h.Errorf("%s: %s: box %s, central %s", id, k, a[k], c[k])
		}
	}
	for k := range c {
		if a[k] == "" {
			h.Errorf("%s: %s: only central", id, k)
		}
	}
}

// rooms makes one room on the central server and two on the box, with both users in each.
func (h *home) rooms() []string {
	h.Helper()
	ctx := h.Context()
	made := must[string](h)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Zentrale", PowerOverride: map[string]any{
		"users": map[string]int{h.carl.UserID: 100, h.anna.UserID: 100}}}))
	must[string](h)(h.anna.Join(ctx, made, h.peer.Name))
	open := must[string](h)(h.anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Name: "Hallig", PowerOverride: map[string]any{
		"users": map[string]int{h.carl.UserID: 100}}}))
	must[string](h)(h.carl.Join(ctx, open, h.box.name))
	asked := must[string](h)(h.anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: "11", Preset: "private_chat", PowerOverride: map[string]any{
		"users": map[string]int{h.carl.UserID: 100, h.anna.UserID: 100}}}))
	if err := h.anna.Invite(ctx, asked, h.carl.UserID); err != nil {
		h.Fatal("invite to the central server: ", err)
	}
	must[string](h)(h.carl.Join(ctx, asked, h.box.name))
	all := []string{made, open, asked}
	for _, id := range all {
		h.waitJoined(h.carl, id)
		h.waitJoined(h.anna, id)
	}
	return all
}

// TestHomecoming is the main claim: after a partition both sides have everything in /sync, once, and the same state, though the
// central server strands its own queue.
func TestHomecoming(t *testing.T) {
	h := newHome(t)
	rooms := h.rooms()
	a, c := follow(t, h.anna), follow(t, h.carl)
	var warm []string
	for _, id := range rooms {
		warm = append(warm, say(t, h.anna, id, 1, "vorher")...)
		warm = append(warm, say(t, h.carl, id, 1, "vorher")...)
	}
	a.until(t, warm)
	c.until(t, warm)
	h.cut()
	var written []string
	for _, id := range rooms {
		written = append(written, say(t, h.anna, id, 100, "auf der Hallig")...)
		written = append(written, say(t, h.carl, id, 100, "an Land")...)
		for _, who := range []*matrixclient.Client{h.anna, h.carl} {
			e, err := who.SetState(t.Context(), id, "m.room.topic", "", map[string]string{"topic": "gesetzt von " + who.UserID})
			if err != nil {
				t.Fatal(err)
			}
			written = append(written, e)
		}
	}
	h.box.await("what the central server lacks, told room by room", func() bool {
		p := must[[]Progress](h)(h.box.sender.Progress(t.Context()))
		return len(p) == 1 && p[0].Server == h.peer.Name && p[0].Out >= 303 && p[0].Out <= 306 && len(p[0].Rooms) == 3 && p[0].Rooms[2].Out >= 101 // the warm-up may not be confirmed
	})
	h.join()
	start := time.Now()
	h.box.sender.LinkUp(h.peer.Name)
	a.until(t, written)
	t.Logf("the box has all %d after %v", len(written), time.Since(start).Round(time.Millisecond))
	c.until(t, written)
	t.Logf("the central server has all %d after %v", len(written), time.Since(start).Round(time.Millisecond))
	for _, id := range rooms {
		h.equalState(id)
	}
	h.box.await("the end of the homecoming", func() bool { return len(must[[]Progress](h)(h.box.sender.Progress(t.Context()))) == 0 })
	if h.box.seen.count("/send/") == 0 {
		t.Error("the central server never sent anything")
	}
}

// TestNobodyNotices: the link is cut and joined while only the central server's users write, and nobody tells the box. The central server and
// the box are restarted meanwhile.
func TestNobodyNotices(t *testing.T) {
	h := newHome(t)
	ctx := t.Context()
	id := must[string](h)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "11", Preset: "public_chat"}))
	must[string](h)(h.anna.Join(ctx, id, h.peer.Name))
	warm := append(say(t, h.anna, id, 1, "vorher"), say(t, h.carl, id, 1, "vorher")...)
	h.box.await("the first messages", func() bool { return h.box.has(id, warm) })
	c := follow(t, h.carl)
	h.cut()
	written := say(t, h.carl, id, 160, "an Land")
	h.join()
	h.box.await("what the central server never sent", func() bool { return h.box.has(id, written) })

	h.cut()
	mine := say(t, h.anna, id, 60, "vor dem Neustart")
	h.box.restart(h.anna)
	mine = append(mine, say(t, h.anna, id, 60, "nach dem Neustart")...)
	c.close()
	if err := h.peer.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := h.peer.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	c = follow(t, h.carl)
	theirs := say(t, h.carl, id, 60, "auch neu gestartet")
	h.join()
	h.box.await("the central server's messages", func() bool { return h.box.has(id, theirs) })
	c.until(t, mine)
	h.equalState(id)
}

// TestTwoBoxesComeHome: two boxes go on talking with each other while both are cut off from the central server. Their events build on each
// other's, and the central server gets them from two sides.
func TestTwoBoxesComeHome(t *testing.T) {
	t.Run("each by its own way", func(t *testing.T) { twoBoxesComeHome(t, false) })
	t.Run("one carries for both", func(t *testing.T) { twoBoxesComeHome(t, true) })
}

func twoBoxesComeHome(t *testing.T, oneIsSilent bool) {
	h := newHome(t)
	ctx := t.Context()
	other := newTestBox(t, h.box.ca)
	bert := other.user("bert")
	id := must[string](h)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat"}))
	must[string](h)(h.anna.Join(ctx, id, h.peer.Name))
	must[string](h)(bert.Join(ctx, id, h.peer.Name))
	power := map[string]any{"users": map[string]int{h.carl.UserID: 100, h.anna.UserID: 100, bert.UserID: 100}}
	if _, err := h.carl.SetState(ctx, id, "m.room.power_levels", "", power); err != nil {
		t.Fatal(err)
	}
	warm := slices.Concat(say(t, h.anna, id, 1, "vorher"), say(t, bert, id, 1, "vorher"), say(t, h.carl, id, 1, "vorher"))
	for _, b := range []*testBox{h.box, other} {
		b.await("the first messages", func() bool { return b.has(id, warm) })
	}
	c := follow(t, h.carl)
	h.box.boxes.Store(other.name, true)
	other.boxes.Store(h.box.name, true)
	h.cut()
	other.link.Cut()
	carry := func(from, to *testBox, id string) { // what the link between boxes does
		p, _, err := from.rooms.Event(ctx, event.ID(id))
		if err != nil {
			t.Fatal(err)
		}
		res, err := to.rooms.Accept(ctx, room.Incoming{PDU: p, From: room.Source{Kind: "link", Server: from.name}})
		if err != nil || res.Outcome != room.Accepted {
			t.Fatalf("over the link: %v %v", res, err)
		}
	}
	var written []string
	topic := func(who *matrixclient.Client) string {
		e, err := who.SetState(ctx, id, "m.room.topic", "", map[string]string{"topic": who.UserID})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for i := range 60 {
		mine, theirs := say(t, h.anna, id, 1, "von Box zu Box"), say(t, bert, id, 2, "zurück")
		if i == 30 {
			mine, theirs = append(mine, topic(h.anna)), append(theirs, topic(bert))
		}
		for _, e := range mine {
			carry(h.box, other, e)
		}
		for _, e := range theirs {
			carry(other, h.box, e)
		}
		written = slices.Concat(written, mine, theirs, say(t, h.carl, id, 1, "an Land"))
	}
	written = append(written, topic(h.carl))
	last := say(t, h.anna, id, 1, "das Letzte")
	carry(h.box, other, last[0])
	written = append(written, last...)
	other.sender.silent.Store(oneIsSilent)
	h.join()
	other.link.Join()
	start := time.Now()
	h.box.sender.LinkUp("")
	other.sender.LinkUp("")
	c.until(t, written)
	for _, b := range []*testBox{h.box, other} {
		b.await("everything", func() bool { return b.has(id, written) })
	}
	t.Logf("all %d everywhere after %v", len(written), time.Since(start).Round(time.Millisecond))
	h.equalState(id)
	sameState(t, id, h.box, other)
}

// TestCentralInvites: invites the other way round, refused and taken, and messages, redactions and leaving.
func TestCentralInvites(t *testing.T) {
	h := newHome(t)
	ctx := t.Context()
	invited := func(id string) func(*matrixclient.SyncResponse) bool {
		return func(r *matrixclient.SyncResponse) bool { _, ok := r.Rooms.Invite[id]; return ok }
	}
	for _, version := range []string{"10", "12"} {
		id := must[string](t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Preset: "private_chat", Invite: []string{h.anna.UserID}}))
		if _, err := h.anna.Follow(ctx, "", invited(id)); err != nil {
			t.Fatal(err)
		}
		if err := h.anna.Leave(ctx, id); err != nil {
			t.Fatal("refuse: ", err)
		}
		before := say(t, h.carl, id, 3, "vor der Zeit")
		if err := h.carl.Invite(ctx, id, h.anna.UserID); err != nil {
			t.Fatal(err)
		}
		if _, err := h.anna.Follow(ctx, "", invited(id)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.anna.Join(ctx, id, h.peer.Name); err != nil {
			t.Fatal("join: ", err)
		}
		h.waitJoined(h.anna, id)
		a, c := follow(t, h.anna), follow(t, h.carl)
		both := append(say(t, h.anna, id, 2, "hier"), say(t, h.carl, id, 2, "dort")...)
		a.until(t, both)
		c.until(t, both)
		h.equalState(id)
		h.box.history(h.anna, id, before)
		if _, err := h.carl.Redact(ctx, id, both[2], "doch nicht"); err != nil {
			t.Fatal(err)
		}
		if version == "10" {
			h.box.await("the redaction", func() bool {
				e, err := h.anna.Event(ctx, id, both[2])
				return err == nil && e.Body() == ""
			})
		}
		if err := h.anna.Leave(ctx, id); err != nil {
			t.Fatal(err)
		}
		if _, err := h.carl.Follow(ctx, "", func(*matrixclient.SyncResponse) bool {
			return !strings.Contains(fmt.Sprint(h.joined(h.carl, id)), h.anna.UserID)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// history pages back until all events have come; the box has to fetch them from the central server.
func (b *testBox) history(c *matrixclient.Client, id string, want []string) {
	b.Helper()
	seen := map[string]bool{}
	from := ""
	for range 20 {
		m, err := c.Messages(b.Context(), id, from, "b", 50)
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range m.Chunk {
			seen[e.ID] = true
		}
		if from = m.End; from == "" {
			break
		}
	}
	for _, w := range want {
		if !seen[w] {
			b.Errorf("%s from before the join is not in /messages", w)
		}
	}
}

func (h *home) joined(c *matrixclient.Client, id string) []string {
	h.Helper()
	evs, err := c.Members(h.Context(), id)
	if err != nil {
		h.Fatal(err)
	}
	var out []string
	for _, e := range evs {
		if e.Membership() == "join" {
			out = append(out, *e.StateKey)
		}
	}
	return out
}

// TestTrafficBesideEvents: to-device messages, device keys, receipts and profiles travel both ways.
func TestTrafficBesideEvents(t *testing.T) { newHome(t).trafficBesideEvents() }

func (h *home) trafficBesideEvents() {
	t := h.T
	ctx := t.Context()
	id := must[string](h)(h.anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat"}))
	must[string](h)(h.carl.Join(ctx, id, h.box.name))
	h.waitJoined(h.anna, id)
	key := strings.Repeat("A", 43)
	keys := func(c *matrixclient.Client) map[string]any {
		return map[string]any{"device_keys": map[string]any{"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
			"keys":       map[string]string{"curve25519:" + c.DeviceID: key, "ed25519:" + c.DeviceID: key},
			"signatures": map[string]any{c.UserID: map[string]string{"ed25519:" + c.DeviceID: key + key[:43]}}},
			"one_time_keys": map[string]any{"signed_curve25519:AAAA": map[string]any{"key": key, "signatures": map[string]any{}}}}
	}
	for _, pair := range [][2]*matrixclient.Client{{h.anna, h.carl}, {h.carl, h.anna}} {
		me, you := pair[0], pair[1]
		if err := you.Do(ctx, "POST", matrixclient.Path("keys", "upload"), keys(you), nil); err != nil {
			t.Fatal(err)
		}
		var query struct {
			DeviceKeys map[string]map[string]any `json:"device_keys"`
		}
		if err := me.Do(ctx, "POST", matrixclient.Path("keys", "query"), map[string]any{"device_keys": map[string]any{you.UserID: []string{}}}, &query); err != nil {
			t.Fatal(err)
		}
		if query.DeviceKeys[you.UserID][you.DeviceID] == nil {
			t.Errorf("%s does not see the device of %s: %v", me.UserID, you.UserID, query)
		}
		var claim struct {
			Keys map[string]map[string]map[string]any `json:"one_time_keys"`
		}
		err := me.Do(ctx, "POST", matrixclient.Path("keys", "claim"), map[string]any{"one_time_keys": map[string]any{you.UserID: map[string]string{you.DeviceID: "signed_curve25519"}}}, &claim)
		if err != nil || len(claim.Keys[you.UserID][you.DeviceID]) != 1 {
			t.Errorf("%s claims a key of %s: %v %v", me.UserID, you.UserID, claim, err)
		}
		body := map[string]any{"messages": map[string]any{you.UserID: map[string]any{you.DeviceID: map[string]string{"secret": me.UserID}}}}
		if err := me.Do(ctx, "PUT", matrixclient.Path("sendToDevice", "org.example.test", me.NextTxn()), body, nil); err != nil {
			t.Fatal(err)
		}
		h.await(you, "to-device message", func(r *matrixclient.SyncResponse) bool { return len(r.ToDevice.Events) > 0 })

		said := say(t, me, id, 1, "gelesen?")
		wait, cancel := context.WithTimeout(ctx, time.Minute)
		if _, _, err := you.WaitEvent(wait, "", id, func(e matrixclient.Event) bool { return e.ID == said[0] }); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := you.Do(ctx, "POST", matrixclient.Path("rooms", id, "receipt", "m.read", said[0]), struct{}{}, nil); err != nil {
			t.Fatal(err)
		}
		h.await(me, "receipt", func(r *matrixclient.SyncResponse) bool {
			for _, e := range r.Rooms.Join[id].Ephemeral.Events {
				if e.Type == "m.receipt" && strings.Contains(string(e.Content), said[0]) && strings.Contains(string(e.Content), you.UserID) {
					return true
				}
			}
			return false
		})
		if err := me.Do(ctx, "GET", matrixclient.Path("profile", you.UserID), nil, &struct{}{}); err != nil {
			t.Error("profile: ", err)
		}
	}
}

func (h *home) await(c *matrixclient.Client, what string, ok func(*matrixclient.SyncResponse) bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	if _, err := c.Follow(ctx, "", ok); err != nil {
		h.Fatalf("%s waits in vain for a %s: %v", c.UserID, what, err)
	}
}
