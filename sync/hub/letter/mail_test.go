// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

const farAway = "far.test"

// Letters come out in order, each once, one at a time; the box hears of each.
func TestInOrderOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.slow = time.Second
		w.leave("box1.test", farAway, "a/1", "a/2")
		w.leave("box1.test", farAway, "edu")
		l := w.leave("box1.test", farAway, "a/3", "b/1")
		for range 2 { // the box did not hear that it was taken
			if err := w.take("box1.test", l); err != nil {
				t.Fatal(err)
			}
		}
		w.done("box1.test", farAway, 0, 3)
		w.after(900 * time.Millisecond)
		w.centre.has("$a/1 $a/2", 1)
		w.after(10 * time.Second)
		w.centre.has("$a/1 $a/2 $a/3 $b/1", 3)
		w.done("box1.test", farAway, 3, 0)
		if !slices.Equal(w.centre.edus, []string{"edu"}) || w.told["box1.test"] < 3 {
			t.Errorf("EDUs %q, the box was told %d times", w.centre.edus, w.told["box1.test"])
		}
		if w.centre.asked > 25 {
			t.Errorf("the centre was asked %d times", w.centre.asked)
		}
		w.mail.mu.Lock()
		if len(w.mail.lines)+len(w.mail.fars) > 0 {
			t.Errorf("%d queues and %d servers are remembered for nothing", len(w.mail.lines), len(w.mail.fars))
		}
		w.mail.mu.Unlock()
		w.leave("box1.test", farAway, "a/4")
		w.after(2 * time.Second)
		w.done("box1.test", farAway, 4, 0)
	})
}

// A server that is down gets one try a minute whatever waits for it, after an hour fewer, and all of it in order when it is back.
func TestServerDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.down = true
		for i := range 10 {
			w.leave("box1.test", farAway, fmt.Sprintf("a/%d", i))
			w.leave("box2.test", farAway, fmt.Sprintf("b/%d", i))
		}
		w.leave("box1.test", "other.test", "c/1") // down as well; it tries for itself
		w.after(3 * time.Hour)
		if n := w.centre.tries(); n > 2*85 || n < 2*70 {
			t.Errorf("%d tries in three hours", n)
		}
		s := w.standing("box1.test", farAway)
		if s.Waiting != 10 || !strings.Contains(s.Trouble, "connection refused") || s.Status != 0 {
			t.Errorf("the box hears %+v", s)
		}
		for n := w.centre.tries(); w.centre.tries() < n+2; { // until both have just been tried
			w.after(time.Second)
		}
		w.centre.set(func(c *centre) { c.down = false })
		w.mail.Heard(farAway)
		w.after(5 * time.Second)
		w.done("box1.test", farAway, 10, 0)
		w.done("box2.test", farAway, 10, 0)
		if s := w.standing("box1.test", farAway); s.Trouble != "" {
			t.Errorf("still %q", s.Trouble)
		}
		w.after(time.Hour)
		w.centre.set(func(c *centre) {
			slices.SortStableFunc(c.events, func(a, b string) int { return strings.Compare(room(a), room(b)) })
		})
		w.centre.has("$a/0 $a/1 $a/2 $a/3 $a/4 $a/5 $a/6 $a/7 $a/8 $a/9 $b/0 $b/1 $b/2 $b/3 $b/4 $b/5 $b/6 $b/7 $b/8 $b/9 $c/1", -1)
	})
}

// What a server takes and drops goes again under a spare, then in the hub's own name; and not there when the server had a word against it, or the hub knows the room to be closed to the box.
func TestDropped(t *testing.T) {
	for name, tt := range map[string]struct {
		drops  int
		denies string
		may    bool
		want   string
		how    []string // what went, by origin
		amiss  string
	}{
		"spare":               {drops: 1, may: true, want: "$a/1 $a/2", how: []string{"box1.test", "box1.test"}},
		"in the hub's name":   {drops: 3, may: true, want: "$a/1 $a/2", how: []string{"box1.test", "box1.test", "box1.test", "hub.test"}},
		"in vain":             {drops: 4, may: true, want: "", how: []string{"box1.test", "box1.test", "box1.test", "hub.test"}, amiss: api.Unkept},
		"closed to the box":   {drops: 4, may: false, want: "", how: []string{"box1.test", "box1.test", "box1.test"}, amiss: api.Unkept},
		"refused of the box":  {denies: "$a/2", may: true, want: "$a/1", how: []string{"box1.test", "box1.test", "box1.test", "hub.test"}, amiss: api.Unkept},
		"refused and dropped": {drops: 3, denies: "$a/2", may: true, want: "$a/1", how: []string{"box1.test", "box1.test", "box1.test", "hub.test"}, amiss: api.Unkept},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.config = func(c *Config) { c.May = func(context.Context, string, string) bool { return tt.may } }
				w.start("node1")
				w.centre.drops, w.centre.denies = tt.drops, tt.denies
				w.leave("box1.test", farAway, "a/1", "a/2")
				w.leave("box1.test", farAway, "edu")
				w.after(10 * time.Minute)
				w.centre.has(tt.want, len(tt.how)+1)
				var how []string
				for _, s := range w.centre.sent[:len(tt.how)] {
					origin, _, _ := strings.Cut(s, " ")
					how = append(how, origin)
				}
				if !slices.Equal(how, tt.how) {
					t.Errorf("sent by %q, want %q", how, tt.how)
				}
				w.done("box1.test", farAway, 2, 0)
				amiss := w.standing("box1.test", farAway).Amiss
				if tt.amiss == "" && len(amiss) > 0 || tt.amiss != "" && !slices.Equal(amiss, []api.Amiss{{Series: "s", N: 1, Event: "$a/2", What: tt.amiss}}) {
					t.Errorf("amiss: %+v", amiss)
				}
			})
		})
	}
}

// A server that says that the box is out of a room gets no further question for it; the box hears so.
func TestBarred(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.askIs = 403
		w.leave("box1.test", farAway, "a/1")
		w.after(time.Second)
		w.done("box1.test", farAway, 1, 0)
		if a := w.standing("box1.test", farAway).Amiss; len(a) != 1 || a[0].What != api.Barred || w.centre.tries() != 1 {
			t.Errorf("amiss: %+v, sent %q", a, w.centre.sent)
		}
	})
}

// A key that has ended or a refusal of all holds letters up and drops none; a fresh key document has them tried at once.
func TestRefused(t *testing.T) {
	for _, status := range []int{401, 403, 413, 429, 500} {
		inWorld(t, func(w *world) {
			w.centre.status = status
			w.leave("box1.test", farAway, "a/1")
			w.leave("box2.test", farAway, "b/1")
			w.after(5 * time.Hour)
			if n := w.centre.tries(); n > 2*320 || n < 2*28 {
				t.Errorf("%d: %d tries in five hours", status, n)
			}
			if s := w.standing("box1.test", farAway); s.Waiting != 1 || s.Status != status || s.Trouble == "" {
				t.Errorf("%d: the box hears %+v", status, s)
			}
			w.centre.set(func(c *centre) { c.status = 0 })
			w.mail.Hurry("box1.test")
			w.after(time.Second)
			w.done("box1.test", farAway, 1, 0)
			w.after(waitLong)
			w.done("box2.test", farAway, 1, 0)
		})
	}
}

// Whatever of the spool's acts fails, or happens without a word, and whenever the hub is killed: nothing is lost, nothing comes twice.
func TestKilled(t *testing.T) {
	for _, tt := range []struct{ fails, unsaid string }{{"settle", ""}, {"", "settle"}, {"amend", ""}, {"", "amend"}} {
		inWorld(t, func(w *world) {
			w.spool.fails, w.spool.unsaid = tt.fails, tt.unsaid
			w.leave("box1.test", farAway, "a/1")
			w.leave("box1.test", farAway, "edu")
			w.after(300 * time.Millisecond)
			w.start("node2")
			w.after(5 * time.Minute) // the lease of the node that was killed ends
			w.centre.has("$a/1", -1)
			w.done("box1.test", farAway, 2, 0)
			if !slices.Equal(w.centre.edus, []string{"edu"}) || w.spool.fails+w.spool.unsaid != "" {
				t.Errorf("%+v: EDUs %q", tt, w.centre.edus)
			}
		})
	}
	for _, at := range []time.Duration{0, time.Millisecond, 60 * time.Millisecond, 3 * time.Second, 16 * time.Second, 50 * time.Second} { // before and after each step of a letter that is dropped at first
		inWorld(t, func(w *world) {
			w.centre.drops, w.centre.slow = 1, 2*time.Second
			w.leave("box1.test", farAway, "a/1", "a/2")
			w.leave("box1.test", farAway, "edu", "edu2")
			w.after(at)
			w.start("node2")
			w.after(5 * time.Minute)
			w.centre.has("$a/1 $a/2", -1)
			w.done("box1.test", farAway, 2, 0)
			if !slices.Equal(w.centre.edus, []string{"edu", "edu2"}) {
				t.Errorf("killed after %v: EDUs %q", at, w.centre.edus)
			}
		})
	}
}

// A server that goes down may have lost what it took: it gets that once more, under the same id, before any spare.
func TestServerForgets(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.slow = 3 * time.Second
		w.leave("box1.test", farAway, "a/1")
		w.after(time.Second)
		w.centre.set(func(c *centre) {
			c.down, c.txns, c.events, c.at = true, map[string]string{}, nil, nil
		})
		w.after(time.Minute)
		w.centre.set(func(c *centre) { c.down = false })
		w.mail.Heard(farAway)
		w.after(5 * time.Second)
		w.done("box1.test", farAway, 1, 0)
		if last := w.centre.last(); last != w.centre.sent[0] {
			t.Errorf("first %q, then %q", w.centre.sent[0], last)
		}
	})
}

// Two boxes that write into one room are not brought at once: a server throws away what it has too much of at a time. A room of its own is not held up.
func TestOneRoomAtATime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.slow = 5 * time.Second
		many := func(room, by string) (out []string) {
			for i := range 50 {
				out = append(out, fmt.Sprintf("%s/%s%d", room, by, i))
			}
			return out
		}
		w.leave("box1.test", farAway, many("a", "x")...)
		w.leave("box2.test", farAway, many("a", "y")...)
		w.after(time.Minute)
		if w.centre.most != 50 || len(w.centre.events) != 100 {
			t.Errorf("%d events of a room at once, %d in all", w.centre.most, len(w.centre.events))
		}
		began := time.Now()
		w.leave("box1.test", farAway, "b/1")
		w.leave("box2.test", farAway, "c/1")
		w.after(8 * time.Second)
		w.done("box1.test", farAway, 2, 0)
		w.done("box2.test", farAway, 2, 0)
		if at := w.centre.at["$c/1"]; at.Sub(began) > time.Second {
			t.Errorf("a room of its own waited for %v", at.Sub(began))
		}
	})
}

// What is not signed by the box for that very server is not taken, nor more than is kept for one box.
func TestTake(t *testing.T) {
	inWorld(t, func(w *world) {
		w.config = func(c *Config) { c.Limits = Limits{Letters: 10, Bytes: 1 << 20} }
		w.start("node1")
		w.centre.down = true
		for name, spoil := range map[string]func(*api.Letter){
			"another body": func(l *api.Letter) { l.Body = append(l.Body[:len(l.Body)-1], `,"x":1}`...) },
			"another id":   func(l *api.Letter) { l.Sends[0].URI += "x" },
			"spare of another": func(l *api.Letter) {
				l.Sends[2].Auth = w.sign("box2.test", farAway, "PUT", l.Sends[2].URI, l.Body).Auth
			},
			"question of another": func(l *api.Letter) { l.Asks[0].Auth = w.sign("box2.test", farAway, "GET", l.Asks[0].URI, nil).Auth },
			"another server":      func(l *api.Letter) { l.To = "other.test" },
			"no signature":        func(l *api.Letter) { l.Sends[0].Auth = "Bearer x" },
		} {
			l := w.letter("box1.test", farAway, "a/1")
			spoil(&l)
			if err := w.take("box1.test", l); !errors.Is(err, ErrBad) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := w.take("box2.test", w.letter("box1.test", farAway, "a/1")); !errors.Is(err, ErrBad) {
			t.Errorf("brought by another box: %v", err)
		}
		for _, to := range []string{"box2.test", "hub.test", "no server"} {
			if err := w.take("box1.test", w.letter("box1.test", to, "a/1")); !errors.Is(err, ErrBad) {
				t.Errorf("to %s: %v", to, err)
			}
		}
		l := w.letter("box1.test", farAway, "a/1")
		l.Epoch = "another"
		if err := w.take("box1.test", l); !errors.Is(err, ErrEpoch) {
			t.Errorf("for another memory: %v", err)
		}
		if n := w.mail.Count.Refused.Load(); n != 10 {
			t.Errorf("%d refusals counted", n)
		}
		for i := range 5 {
			w.leave("box1.test", farAway, fmt.Sprintf("a/%d", i))
		}
		if err := w.take("box1.test", w.letter("box1.test", farAway, "a/6")); !errors.Is(err, spool.ErrFull) {
			t.Errorf("beyond half: %v", err)
		}
		for i := range 3 {
			w.leave("box1.test", "other.test", fmt.Sprintf("a/%d", i))
		}
		if err := w.take("box1.test", w.letter("box1.test", "other.test", "a/3")); !errors.Is(err, spool.ErrFull) {
			t.Errorf("beyond its share: %v", err)
		}
		w.leave("box1.test", "third.test", "a/0")
		if err := w.take("box1.test", w.letter("box1.test", "fourth.test", "a/6")); !errors.Is(err, spool.ErrFull) {
			t.Errorf("into what is for servers in reach: %v", err)
		}
		w.leave("box2.test", farAway, "a/9") // another box has its own
		w.centre.set(func(c *centre) { c.down = false })
		w.after(2 * time.Minute)
		if n := len(w.centre.events); n != 6 {
			t.Errorf("%d events arrived, want 6: %q", n, w.centre.events)
		}
	})
}

// A series that the box takes back goes no further, also when its oldest letter is under way; what comes after it does.
func TestTakeBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.slow = time.Hour
		w.leave("box1.test", farAway, "a/1")
		w.leave("box1.test", farAway, "a/2")
		w.after(time.Second)
		if err := w.mail.TakeBack(w.Context(), "box1.test", farAway, "s"); err != nil {
			t.Fatal(err)
		}
		l := w.letter("box1.test", farAway, "a/1", "a/2")
		l.Series = "s2"
		if err := w.take("box1.test", l); err != nil {
			t.Fatal(err)
		}
		w.after(5 * time.Second)
		w.centre.set(func(c *centre) { c.slow = 0 })
		w.after(5 * time.Second)
		w.centre.has("$a/1 $a/2", 2)
		s := w.standing("box1.test", farAway)
		if !slices.Equal(s.Done, []api.Done{{Series: "s2", N: 3}}) || s.Waiting != 0 {
			t.Errorf("the box hears %+v", s)
		}
		if err := w.mail.TakeBack(w.Context(), "box1.test", "nobody.test", "s"); err != nil {
			t.Error(err)
		}
	})
}

// From a copy that was put back events go, since servers know them again, and nothing that a server would append.
func TestRestored(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.down = true
		w.leave("box1.test", farAway, "edu")
		w.leave("box1.test", farAway, "a/1")
		w.after(time.Minute)
		w.stop()
		if err := w.spool.Restored(w.Context()); err != nil {
			t.Fatal(err)
		}
		w.start("node2")
		w.centre.set(func(c *centre) { c.down = false })
		w.after(5 * time.Minute)
		w.centre.has("$a/1", -1)
		if len(w.centre.edus) > 0 {
			t.Errorf("EDUs %q came out of the copy", w.centre.edus)
		}
	})
}

// A lost box sends nothing any more; another node's box is left to that node, until it dies; where there can be no other node nobody is waited for.
func TestWhoSends(t *testing.T) {
	inWorld(t, func(w *world) {
		if _, ok, err := w.spool.Acquire(w.Context(), "box1.test", "node9", time.Now(), 30*time.Second, true); err != nil || !ok {
			t.Fatal(ok, err)
		}
		w.revoke("box2.test", true)
		w.leave("box1.test", farAway, "a/1")
		w.leave("box2.test", farAway, "b/1")
		w.after(20 * time.Second)
		w.centre.has("", 0)
		w.after(2 * time.Minute)
		w.centre.has("$a/1", 1)
		w.revoke("box2.test", false)
		w.after(time.Minute)
		w.centre.has("$a/1 $b/1", 2)
		if _, _, err := w.spool.Acquire(w.Context(), "box1.test", "killed", time.Now(), 30*time.Second, true); err != nil {
			t.Fatal(err)
		}
		w.config = func(c *Config) { c.Alone = true }
		w.start("node3")
		w.leave("box1.test", farAway, "a/2")
		w.after(time.Second)
		w.centre.has("$a/1 $b/1 $a/2", 3)
	})
}

// Another signer of the box helps when what the box signed does not count any more, and when its ids are used up.
func TestAnotherSigner(t *testing.T) {
	inWorld(t, func(w *world) {
		second := w.boxes["box1.test"]
		second.Key.ID = "ed25519:hub"
		signs := 0
		w.config = func(c *Config) {
			c.Sign = func(_ context.Context, box, to, method, uri string, body []byte) (string, error) {
				if box != "box1.test" {
					return "", ErrNoSigner
				}
				signs++
				a, err := federation.SignRequest(second, to, method, uri, body)
				return a.String(), err
			}
			send := c.Send
			c.Send = func(ctx context.Context, to, method, uri, auth string, body []byte) (int, []byte, error) {
				a, err := federation.ParseAuthorization(auth)
				if err != nil {
					return 0, nil, err
				}
				if a.Origin == "box1.test" && a.Key != second.Key.ID {
					return 401, nil, nil
				}
				if err := federation.VerifyRequest(a, method, uri, body, second.Key.Private.Public().(ed25519.PublicKey)); a.Origin == "box1.test" && err != nil {
					t.Error(err)
				}
				return send(ctx, to, method, uri, auth, body)
			}
		}
		w.start("node1")
		w.centre.drops = 4
		w.leave("box1.test", farAway, "a/1")
		w.after(5 * time.Minute)
		w.done("box1.test", farAway, 1, 0)
		w.centre.has("$a/1", 5)
		l := &line{q: spool.Queue{Box: "box2.test", Other: farAway}, resign: true} // its signer was taken back in the middle
		own := w.sign("box2.test", farAway, "GET", "/_matrix/federation/v1/event/$x", nil)
		if status, _, err := w.mail.signed(w.Context(), l, "GET", own.URI, own.Auth, nil); status != 404 || err != nil || l.resign {
			t.Errorf("as the box signed it: %d %v, still signed by another: %v", status, err, l.resign)
		}
		if signs < 6 || strings.HasPrefix(w.centre.sent[4], "hub.test") {
			t.Errorf("%d signatures, sent %q", signs, w.centre.sent)
		}
		w.centre.set(func(c *centre) { c.drops = 3 })
		w.leave("box2.test", farAway, "b/1")
		w.after(5 * time.Minute)
		w.done("box2.test", farAway, 1, 0)
		if last := w.centre.last(); !strings.HasPrefix(last, "hub.test") {
			t.Errorf("without another signer the last to send was %q", last)
		}
	})
}

// A server that asks the hub for what lacks before an event that it had from it gets all of it.
func TestMissing(t *testing.T) {
	m := New(Config{})
	q := spool.Queue{Box: "box1.test", Other: farAway}
	m.line(q)
	m.lines[q].graph = graph{
		"$1": {room: "!a", prev: []string{"$0"}, raw: []byte("1")}, "$2": {room: "!a", prev: []string{"$1"}, raw: []byte("2")},
		"$3": {room: "!a", prev: []string{"$2", "$1"}, raw: []byte("3")}, "$x": {room: "!b", raw: []byte("x")},
	}
	for _, tt := range []struct {
		server, room     string
		latest, earliest []string
		want             string
	}{
		{farAway, "!a", []string{"$3"}, []string{"$0"}, "12"},
		{farAway, "!a", []string{"$3", "$2"}, []string{"$1"}, "2"},
		{farAway, "!a", []string{"$9"}, nil, ""},
		{farAway, "!b", []string{"$3"}, nil, ""},
		{"other.test", "!a", []string{"$3"}, nil, ""},
	} {
		got := ""
		for _, raw := range m.Missing(tt.server, tt.room, tt.latest, tt.earliest) {
			got += string(raw)
		}
		if got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
