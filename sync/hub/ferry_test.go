// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/health"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/ferry"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// beyondBox is a box that only another one reaches: what it says to what the hub has sealed for it, and what the one in between makes of that.
type beyondBox struct {
	t     *testing.T
	id    identity.Identity
	seal  *peer.Seal
	codec *parcel.Codec

	mu      sync.Mutex
	word    ferry.Word
	number  uint64
	played  []api.PlayedOne
	plays   []*ferry.Play
	took    []string // method and URI, in order
	says    func(q ferry.Request) int
	contact []byte
	lose    int                                       // so many answers do not come back
	bend    func(answer []byte, number uint64) []byte // nil: as it is
	gone    bool                                      // the line is
}

// newBeyond makes a box that was paired with the hub once, and one that is connected and has a line to it.
func (w *world) newBeyond() (far *beyondBox, between *testBox) {
	w.Helper()
	b := w.newBox("box1.test")
	c := b.contact()
	if status, _ := b.deposit(c); status != 200 {
		w.Fatal(status)
	}
	b.away()
	far = &beyondBox{t: w.T, id: b.id, says: func(ferry.Request) int { return 200 }}
	c.Version, c.Clock, c.Sentence = "v2", time.Now().UnixMilli(), "No net."
	var err error
	if far.contact, err = json.Marshal(c); err != nil {
		w.Fatal(err)
	}
	if far.codec, err = parcel.NewCodec(); err != nil {
		w.Fatal(err)
	}
	if far.seal, err = peer.NewSeal(b.id.Box, w.hub.id.Box.Public().(ed25519.PublicKey)); err != nil {
		w.Fatal(err)
	}
	between = w.newBox("box2.test")
	between.far = far
	return far, between
}

// reaches tells the hub whom a box has a line to.
func (b *testBox) reaches(rate int, servers ...string) {
	b.t.Helper()
	var l api.Reach
	for _, s := range servers {
		l.Boxes = append(l.Boxes, api.Reached{Server: s, Rate: rate, Way: api.ByRadio})
	}
	raw, err := json.Marshal(l)
	if err != nil {
		b.t.Fatal(err)
	}
	if status, body := b.ask("hub.test", "PUT", api.ReachPath, nil, raw); status != 200 {
		b.t.Fatal(status, string(body))
	}
}

// serve is both boxes: the one that hands on, and the one that answers.
func (f *beyondBox) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sealed, err := io.ReadAll(r.Body)
	if r.URL.Path != api.FerryPath+"box1.test" || f.gone || err != nil {
		refuse(w, http.StatusBadGateway, api.Unreachable, "not in reach")
		return
	}
	text, number, err := ferry.OpenPlay(f.seal, sealed)
	if err != nil {
		f.t.Error(err)
		return
	}
	p, err := ferry.ReadPlay(f.codec, text)
	if err != nil {
		f.t.Error(err)
		return
	}
	f.plays = append(f.plays, p)
	a := &ferry.Answer{Clock: time.Now().UnixMilli()}
	if p.Contact {
		a.Contact = f.contact
	}
	switch {
	case len(p.Requests) > 0 && p.Word == f.word && p.Word != ferry.Word{}:
		f.number, f.played = number, nil
		for _, q := range p.Requests {
			status := f.says(q)
			f.played = append(f.played, api.PlayedOne{Status: status, Text: `{"errcode":"M_TEST"}`})
			if status != 200 {
				break
			}
			f.took = append(f.took, q.Method+" "+q.URI)
		}
		for i := range f.played {
			if f.played[i].Status == 200 {
				f.played[i].Text = ""
			}
		}
		a.Of, a.Played = number, f.played
	case p.About != 0 && p.About == f.number:
		a.Of, a.Played = f.number, f.played
	}
	f.word[0]++
	f.word[1] = 1
	a.Word = f.word
	out, err := ferry.CloseAnswer(f.seal, number, a.Pack(f.codec))
	if err != nil {
		f.t.Error(err)
		return
	}
	if f.lose > 0 && len(p.Requests) > 0 {
		f.lose--
		refuse(w, http.StatusBadGateway, api.Unreachable, "the answer did not arrive")
		return
	}
	if f.bend != nil {
		out = f.bend(out, number)
	}
	_, _ = w.Write(out)
}

func (f *beyondBox) has() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.took)
}

func (f *beyondBox) with(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// sends has the far server send transactions to the box.
func (w *world) sends(from, n int) (uris []string) {
	w.Helper()
	for i := from; i < from+n; i++ {
		uri, header, body := w.far.transaction("box1.test", i)
		if status, text := w.ask("box1.test", "PUT", uri, header, body); status != 200 {
			w.Fatal(status, string(text))
		}
		uris = append(uris, "PUT "+uri)
	}
	return uris
}

// TestFerry: what waits for a box that is not connected reaches it through one that has a line to it, in order; what it has answered is forgotten, and the operator sees by which way it was in contact.
func TestFerry(t *testing.T) {
	w := newWorld(t)
	far, between := w.newBeyond()
	want := w.sends(0, 30)
	between.reaches(1200, "box1.test", "box2.test", "stranger.test")
	w.await("all of it to be there", func() bool { return slices.Equal(far.has(), want) && w.waiting("box1.test") == 0 })
	want = append(want, w.sends(30, 1)...)
	w.await("what came meanwhile", func() bool { return slices.Equal(far.has(), want) && w.waiting("box1.test") == 0 })
	s, err := w.hub.state(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := s.Boxes[slices.IndexFunc(s.Boxes, func(b BoxStatus) bool { return b.Server == "box1.test" })]
	if b.Connected || b.Way != "radio:box2.test" || b.Through != b.Way || b.Version != "v2" || b.Said.Sentence != "No net." || b.Said.State != health.OK || time.Since(b.Seen) > inTime {
		t.Errorf("the operator is shown %+v", b)
	}
	for _, p := range far.plays {
		for _, q := range p.Requests {
			if at := time.UnixMilli(q.Received); time.Since(at) > inTime || at.After(time.Now()) {
				t.Errorf("received at %s", at)
			}
		}
	}
	between.reaches(1200)
	w.await("the line to be gone", func() bool { return len(w.hub.passages("box1.test")) == 0 })
	w.sends(31, 1)
	between.reaches(1200, "box1.test")
	w.await("the rest", func() bool { return len(far.has()) == 32 })
	between.away()
	w.await("the one in between to be gone", func() bool { return len(w.hub.passages("box1.test")) == 0 })
}

// A box in between that forges, bends or repeats answers has the hub forget nothing.
func TestFerryForged(t *testing.T) {
	w := newWorld(t)
	far, between := w.newBeyond()
	far.gone = true
	w.sends(0, 3)
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := peer.NewSeal(stranger, w.hub.id.Box.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	for what, bend := range map[string]func([]byte, uint64) []byte{
		"forged": func(_ []byte, number uint64) []byte {
			out, _ := ferry.CloseAnswer(forged, number, (&ferry.Answer{Of: number, Word: ferry.Word{1}, Played: []api.PlayedOne{{Status: 200}, {Status: 200}, {Status: 200}}}).Pack(far.codec))
			return out
		},
		"bent":     func(b []byte, _ uint64) []byte { b[len(b)-1] ^= 1; return b },
		"empty":    func([]byte, uint64) []byte { return nil },
		"long":     func([]byte, uint64) []byte { return make([]byte, api.FerryAnswer+1) },
		"repeated": func(b []byte, _ uint64) []byte { first = append(first, b...); return first[:len(b)] },
	} {
		before := w.hub.count.delivered.Load()
		f := &ferryman{}
		var ctx context.Context
		if f, ctx, err = w.hub.newFerryman(t.Context(), "box1.test"); err != nil {
			t.Fatal(err)
		}
		p := passage{line{1200, api.ByRadio, time.Now()}, "box2.test"}
		far.with(func() { far.gone, far.bend = false, nil })
		if what == "repeated" {
			far.with(func() { far.bend = bend })
		}
		if err := f.greet(ctx, p); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		far.with(func() { far.bend = bend })
		s, _, _, err := f.next(ctx, p)
		if s == nil || err != nil {
			t.Fatalf("%s: nothing to hand on, %v", what, err)
		}
		if err := f.ship(ctx, p, s, nil); err == nil {
			t.Errorf("%s: the answer was believed", what)
		}
		if w.waiting("box1.test") != 3 || w.hub.count.delivered.Load() != before {
			t.Errorf("%s: the hub has forgotten what waits", what)
		}
		if f.sent != s || f.rest["box2.test"].wait == 0 {
			t.Errorf("%s: it is not asked about again, or the one in between is not left alone for a while", what)
		}
		f.cancel()
	}
	far.with(func() { far.bend, far.took, far.number = nil, nil, 0 })
	between.reaches(9600, "box1.test")
	w.await("the rest, once nobody forges", func() bool { return w.waiting("box1.test") == 0 })
}

// An answer that is lost costs a question; nothing is handed over twice for it. A box that has begun anew is given the same once more.
func TestFerryLostAnswer(t *testing.T) {
	w := newWorld(t)
	far, between := w.newBeyond()
	want := w.sends(0, 5)
	far.lose = 1
	between.reaches(9600, "box1.test")
	w.await("the hub to have heard nothing", func() bool { far.mu.Lock(); defer far.mu.Unlock(); return len(far.took) == 5 && far.lose == 0 })
	if n := w.waiting("box1.test"); n != 5 {
		t.Errorf("%d wait, though the hub knows of no answer", n)
	}
	between.reaches(9600) // it comes anew: the hub need not wait before it asks again
	between.reaches(9600, "box1.test")
	w.await("the answer to the question", func() bool { return w.waiting("box1.test") == 0 })
	if got := far.has(); !slices.Equal(got, want) {
		t.Errorf("the box was given %q", got)
	}
	want = append(want, w.sends(5, 1)...)
	w.await("one more", func() bool { return len(far.has()) == 6 && w.waiting("box1.test") == 0 })
	far.with(func() { far.word, far.number, far.played = ferry.Word{9}, 0, nil }) // it was switched off and on
	want = append(want, w.sends(6, 2)...)
	w.await("what came since", func() bool { return slices.Equal(far.has(), want) && w.waiting("box1.test") == 0 })
}

// What is refused for good is dropped; what is not is played again, with the sender's keys beside it, and holds up its own sender alone.
func TestFerryRefused(t *testing.T) {
	w := newWorld(t)
	far, between := w.newBeyond()
	uris := w.sends(0, 3)
	if _, err := w.spool.Append(t.Context(), spool.Queue{Box: "box1.test", Other: "other.test", In: true}, time.Now(), spool.Request{Key: "a", Method: "PUT", URI: "/_matrix/federation/v1/send/other", Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	far.says = func(q ferry.Request) int {
		switch {
		case strings.Contains(q.URI, "F0?"):
			return 400
		case strings.Contains(q.URI, "F1?"):
			return 401
		}
		return 200
	}
	between.reaches(9600, "box1.test")
	w.await("the other sender's to be there", func() bool {
		return slices.Contains(far.has(), "PUT /_matrix/federation/v1/send/other") && w.waiting("box1.test") == 2
	})
	if slices.Contains(far.has(), uris[2]) {
		t.Error("what came after it has overtaken it")
	}
	var f *ferryman
	w.hub.mu.Lock()
	f = w.hub.ferries["box1.test"]
	w.hub.mu.Unlock()
	f.cancel()
	<-f.ended
	far.with(func() { far.says = func(ferry.Request) int { return 200 } })
	between.reaches(9600, "box1.test")
	w.await("all to be there", func() bool { return w.waiting("box1.test") == 0 })
	fresh, ctx, err := w.hub.newFerryman(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	w.sends(3, 1)
	fresh.turn("far.test").keys = true
	if s, keys, _, err := fresh.next(ctx, passage{line: line{rate: 1200}}); err == nil && s != nil && (len(keys) != 1 || !strings.Contains(keys[0], `"far.test"`)) {
		t.Errorf("the sender's keys: %q", keys)
	}
}

// noise is what does not pack below three quarters of its n bytes.
func noise(n int) []byte {
	raw := make([]byte, n*3/4)
	_, _ = rand.Read(raw) // never fails
	return []byte(base64.StdEncoding.EncodeToString(raw))
}

// leave has a request wait for the box, as if a server had sent it.
func (w *world) leave(other, uri string, body []byte) {
	w.Helper()
	if _, err := w.spool.Append(w.Context(), spool.Queue{Box: "box1.test", Other: other, In: true}, time.Now(), spool.Request{Key: uri, Method: "PUT", URI: uri, Body: body}); err != nil {
		w.Fatal(err)
	}
}

// On a wide line, or one of which a box says that it is wider than any, no more is handed over at once than a box takes, and no more is read than that.
func TestFerryWide(t *testing.T) {
	w := newWorld(t)
	w.newBeyond()
	for i := range 60 {
		w.leave("other.test", fmt.Sprint("/_matrix/federation/v1/send/", i), noise(60_000))
	}
	f, ctx, err := w.hub.newFerryman(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.cancel()
	for _, rate := range []int{1200, 100_000_000, reachMost} {
		p := passage{line: line{rate: rate}, by: "box2.test"}
		s, _, _, err := f.next(ctx, p)
		if s == nil || err != nil {
			t.Fatalf("at %d bit/s: nothing to hand on, %v", rate, err)
		}
		play := &ferry.Play{}
		for _, r := range s.rs {
			play.Requests = append(play.Requests, f.write(ctx, r, p, false))
		}
		sealed, _, err := ferry.ClosePlay(f.seal, play.Pack(w.hub.codec))
		if err != nil || len(sealed) > api.FerryMost || rate > 1200 && len(s.rs) < 2 {
			t.Errorf("at %d bit/s: %d requests of %d bytes, %v", rate, len(s.rs), len(sealed), err)
		}
	}
	if room := roomOn(math.MaxInt); room > ferryRoom || room < ferryLeast {
		t.Errorf("%d bytes at once on a line that there is not", room)
	}
	between := w.newBox("box3.test")
	between.reaches(math.MaxInt, "box1.test")
	if ways := w.hub.passages("box1.test"); len(ways) != 1 || ways[0].rate != reachMost {
		t.Errorf("the hub believes %v", ways)
	}
}

// What is too long for the line waits, and nobody else with it.
func TestFerryLong(t *testing.T) {
	w := newWorld(t)
	w.newBeyond()
	w.leave("long.test", "/_matrix/federation/v1/send/1", noise(api.FerryMost))
	w.leave("other.test", "/_matrix/federation/v1/send/2", []byte("{}"))
	f, ctx, err := w.hub.newFerryman(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.cancel()
	p := passage{line: line{rate: 1200}, by: "box2.test"}
	f.turn("long.test").passed = ferryPassed // its turn has come
	s, _, again, err := f.next(ctx, p)
	if s != nil || err != nil || again == 0 || again > time.Second {
		t.Fatalf("what is too long: %v, %v; looked again in %s", s, err, again)
	}
	if s, _, _, err = f.next(ctx, p); err != nil || s == nil || s.queue.Other != "other.test" {
		t.Fatalf("then %v, %v", s, err)
	}
}

// Whatever goes wrong with an answer, the same is not sent over the line again at once.
func TestFerryPatience(t *testing.T) {
	w := newWorld(t)
	w.newBeyond()
	w.leave("other.test", "/_matrix/federation/v1/send/1", []byte("{}"))
	f, ctx, err := w.hub.newFerryman(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.cancel()
	p := passage{line: line{rate: 1200}, by: "box2.test"}
	s, _, _, err := f.next(ctx, p)
	if s == nil || err != nil {
		t.Fatal(s, err)
	}
	for what, answers := range map[string]int{"too many answers": 2, "a lease that is another's": 1} {
		f.turns["other.test"] = &ferryTurn{}
		f.lease = spool.Lease{Box: "box1.test", Token: 1 << 40}
		err := f.settle(ctx, s, &ferry.Answer{Played: slices.Repeat([]api.PlayedOne{{Status: 200}}, answers)})
		if left := time.Until(f.turns["other.test"].until); err == nil || left <= 0 {
			t.Errorf("%s: %v, and the next attempt in %s", what, err, left)
		}
	}
	if n := w.waiting("box1.test"); n != 1 {
		t.Errorf("%d wait", n)
	}
	f.lease, f.turns["other.test"] = spool.Lease{}, &ferryTurn{wait: ferryLast}
	if err := f.settle(ctx, s, &ferry.Answer{Played: []api.PlayedOne{{Status: 200}}}); err != nil || w.waiting("box1.test") != 0 || f.turns["other.test"].until.After(time.Now()) {
		t.Errorf("what was taken: %v, %d wait", err, w.waiting("box1.test"))
	}
}

// The box that comes by itself is played to by its own way, and the hub that dies goes on where it was.
func TestFerryGivesWay(t *testing.T) {
	w := newWorld(t)
	far, between := w.newBeyond()
	far.says = func(ferry.Request) int { return 503 }
	w.sends(0, 2)
	between.reaches(1200, "box1.test")
	w.await("the box to be asked", func() bool { far.mu.Lock(); defer far.mu.Unlock(); return len(far.plays) > 1 })
	w.stop()
	w.start()
	w.await("the one in between to be back", func() bool { return w.hub.p2p.InReach("box2.test") })
	far.with(func() { far.says = func(ferry.Request) int { return 200 } })
	between.reaches(1200, "box1.test")
	w.await("what has waited", func() bool { return len(far.has()) == 2 && w.waiting("box1.test") == 0 })
	w.hub.mu.Lock()
	w.hub.carriers["box1.test"] = &carrier{h: w.hub, box: "box1.test", cancel: func() {}}
	w.hub.mu.Unlock()
	if got := w.hub.passages("box1.test"); len(got) != 0 {
		t.Errorf("a box that is connected is reached through %v", got)
	}
	w.hub.mu.Lock()
	delete(w.hub.carriers, "box1.test")
	w.hub.mu.Unlock()
}

// A box brings what another one has signed, and nothing in its name that it has not.
func TestFromBeyond(t *testing.T) {
	w := newWorld(t)
	far, between := w.newBeyond()
	own := federation.Local{Server: "box1.test", Key: far.id.Key}
	body := []byte(`{"origin":"box1.test","origin_server_ts":1,"pdus":[]}`)
	const uri = "/_matrix/federation/v1/send/17"
	if status, text := between.ask("far.test", "PUT", uri, signed(t, own, "far.test", "PUT", uri, body), body); status != 200 {
		t.Fatal(status, string(text))
	}
	if got := w.far.heard(); len(got) != 1 || !strings.Contains(got[0], uri) || !strings.Contains(got[0], `origin="box1.test"`) || !strings.HasSuffix(got[0], string(body)) {
		t.Errorf("the far server was asked %q", got)
	}
	forged := own
	forged.Key.Private = between.id.Key.Private
	unknown := federation.Local{Server: "box1.test", Key: between.id.Key}
	stranger := federation.Local{Server: "stranger.test", Key: between.id.Key}
	both := signed(t, own, "far.test", "PUT", uri, body)
	both.Add("Authorization", signed(t, stranger, "far.test", "PUT", uri, body).Get("Authorization"))
	f, _, err := w.hub.newFerryman(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	defer f.cancel()
	w.hub.mu.Lock()
	w.hub.ferries["box1.test"] = f
	w.hub.mu.Unlock()
	for i := range 2 { // the box is asked for its keys once in a while, however often somebody names one that it has not
		if status, _ := between.ask("far.test", "PUT", uri, signed(t, unknown, "far.test", "PUT", uri, body), body); status != 429 {
			t.Errorf("with a key that the hub has not heard of: %d", status)
		}
		if asked := f.curious.Swap(false); asked != (i == 0) {
			t.Errorf("after %d requests with an unknown key the box is asked: %t", i+1, asked)
		}
	}
	w.hub.mu.Lock()
	delete(w.hub.ferries, "box1.test")
	w.hub.mu.Unlock()
	for what, header := range map[string]http.Header{
		"forged":           signed(t, forged, "far.test", "PUT", uri, body),
		"for another one":  signed(t, own, "gone.test", "PUT", uri, body),
		"of another URI":   signed(t, own, "far.test", "PUT", uri+"8", body),
		"a stranger's":     signed(t, stranger, "far.test", "PUT", uri, body),
		"one of two boxes": both,
	} {
		if status, _ := between.ask("far.test", "PUT", uri, header, body); status != 403 && !(what == "for another one" && status == 502) {
			t.Errorf("%s: %d", what, status)
		}
	}
	if n := len(w.far.heard()); n != 1 {
		t.Errorf("the far server was asked %d times", n)
	}
	if err := w.hub.revoke(t.Context(), "box1.test", "stolen", false); err != nil {
		t.Fatal(err)
	}
	if status, _ := between.ask("far.test", "PUT", uri, signed(t, own, "far.test", "PUT", uri, body), body); status != 403 {
		t.Errorf("of a box that was turned away: %d", status)
	}
}

func TestReadReach(t *testing.T) {
	for text, good := range map[string]bool{
		`{"boxes":[{"server":"a","rate":1,"way":"radio"},{"server":"b","rate":50,"way":"relay"},{"server":"c","rate":9,"way":"net"}]}`: true,
		`{"boxes":null}`: true, `{}`: true, `nonsense`: false, `{"boxes":[{"server":"","rate":1,"way":"radio"}]}`: false,
		`{"boxes":[{"server":"a","rate":0,"way":"radio"}]}`: false, `{"boxes":[{"server":"a","rate":1,"way":"raven"}]}`: false,
		`{"boxes":[` + strings.Repeat(`{"server":"a","rate":1,"way":"radio"},`, api.MaxReach) + `{"server":"a","rate":1,"way":"radio"}]}`: false,
		fmt.Sprintf(`{"boxes":[{"server":%q,"rate":1,"way":"radio"}]}`, strings.Repeat("a", 256)):                                         false,
	} {
		if _, err := api.ReadReach([]byte(text)); (err == nil) != good {
			t.Errorf("%.80s: %v", text, err)
		}
	}
}
