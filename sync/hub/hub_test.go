// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
)

// What the world sends to a box that is away is kept, and handed on as it was, in order, when the box is back.
func TestKeepsAndHandsOn(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.away()
	var want []string
	for n := range 5 {
		uri, header, body := w.far.transaction("box1.test", n)
		want = append(want, "PUT "+uri+" "+header.Get("Authorization")+" "+string(body))
		for range 2 { // the far server repeats itself
			if status, out := w.ask("box1.test", "PUT", uri, header, body); status != 200 || string(out) != `{"pdus":{}}` {
				t.Fatalf("transaction %d: %d %s", n, status, out)
			}
		}
	}
	if got := w.waiting("box1.test"); got != 5 {
		t.Errorf("%d transactions wait, want 5", got)
	}
	began := time.Now()
	b.back()
	w.await("the transactions to be taken", func() bool { return w.waiting("box1.test") == 0 })
	if got := b.heard(); !slices.Equal(got, want) {
		t.Errorf("the box was given\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, head := range b.heads {
		var ms int64
		if _, err := fmt.Sscan(head.Get(api.Received), &ms); err != nil || time.UnixMilli(ms).After(began) {
			t.Errorf("received %q, want a time before the box came back", head.Get(api.Received))
		}
	}
	uri, header, body := w.far.transaction("box1.test", 3) // known, and taken
	w.ask("box1.test", "PUT", uri, header, body)
	uri, header, body = w.far.transaction("box1.test", 9) // new, and the box is here
	w.ask("box1.test", "PUT", uri, header, body)
	w.await("what is new to be taken", func() bool { return len(b.heard()) > 5 })
	if got := b.heard(); len(got) != 6 || !strings.HasPrefix(got[5], "PUT "+uri+" ") {
		t.Errorf("the box was given %d transactions, the last %s", len(got), got[len(got)-1])
	}
}

// A server that did not hear the answer sends the same transaction id again, with whatever it has by then: what is new is kept, in its order; what is the same but for the time is not.
func TestSameIDWithMoreInIt(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.away()
	const uri = sendPath + "1700000000000-7"
	var want []string
	for i, tt := range []struct {
		edus string
		kept bool
	}{{`"a"`, true}, {`"a"`, false}, {`"a","b"`, true}, {`"a","b"`, false}, {`"a"`, false}} {
		var edus []string
		for _, n := range strings.Split(tt.edus, ",") {
			edus = append(edus, `{"edu_type":"m.presence","content":{"n":`+n+`}}`)
		}
		body := fmt.Appendf(nil, `{"origin":"far.test","origin_server_ts":%d,"pdus":[],"edus":[%s]}`, i, strings.Join(edus, ","))
		header := signed(t, w.far.Local, "box1.test", "PUT", uri, body)
		if status, out := w.ask("box1.test", "PUT", uri, header, body); status != 200 {
			t.Fatalf("%d: %d %s", i, status, out)
		}
		if tt.kept {
			want = append(want, "PUT "+uri+" "+header.Get("Authorization")+" "+string(body))
		}
	}
	b.back()
	w.await("the transactions to be taken", func() bool { return w.waiting("box1.test") == 0 })
	if got := b.heard(); !slices.Equal(got, want) {
		t.Errorf("the box was given\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Nothing is kept, and nothing acknowledged, that is not signed for the box in a form that it could take.
func TestFrontRefuses(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").away()
	uri, good, body := w.far.transaction("box1.test", 1)
	_, other, _ := w.far.transaction("box2.test", 1)
	stranger := w.far.Local
	stranger.Key.Private = w.hub.id.Key.Private
	many := []byte(`{"pdus":[` + strings.TrimSuffix(strings.Repeat("{},", 51), ",") + `]}`)
	for name, tt := range map[string]struct {
		uri    string
		header http.Header
		body   []byte
		want   int
	}{
		"no signature":    {uri, nil, body, 401},
		"other body":      {uri, good, append(bytes.Clone(body[:len(body)-1]), `,"a":1}`...), 401},
		"other id":        {uri + "1", good, body, 401},
		"other box":       {uri, other, body, 421},
		"wrong key":       {uri, signed(t, stranger, "box1.test", "PUT", uri, body), body, 401},
		"51 PDUs":         {uri, signed(t, w.far.Local, "box1.test", "PUT", uri, many), many, 400},
		"no transaction":  {uri, signed(t, w.far.Local, "box1.test", "PUT", uri, []byte(`[]`)), []byte(`[]`), 400},
		"too long an id":  {sendPath + strings.Repeat("x", 256), good, body, 400},
		"origin is box":   {uri, signed(t, federation.Local{Server: "box1.test", Key: w.far.Key}, "box1.test", "PUT", uri, body), body, 401},
		"way out":         {"/_matrix/federation/../../_hallig/hub/v1/contact", nil, body, 404},
		"another method":  {"/_matrix/federation/v1/make_join/x/y", nil, body, 403},
		"what boxes keep": {"/_hallig/backup/1/x", nil, body, 404},
	} {
		if status, out := w.ask("box1.test", "PUT", tt.uri, tt.header, tt.body); status != tt.want {
			t.Errorf("%s: %d %s, want %d", name, status, out, tt.want)
		}
	}
	if n := w.waiting("box1.test"); n != 0 {
		t.Errorf("%d transactions were kept", n)
	}
	if status, _ := w.ask("hub.test", "PUT", uri, signed(t, w.far.Local, "hub.test", "PUT", uri, body), body); status != 404 {
		t.Errorf("the hub itself takes transactions: %d", status)
	}
}

// What cannot be kept is not acknowledged; central servers try 429 again by themselves.
func TestFullSpoolAcknowledgesNothing(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").away()
	for _, why := range []error{spool.ErrFull, spool.ErrNoSpace, errors.New("input/output error")} {
		w.spool.fail(func(what string) error {
			if what == "Append" {
				return why
			}
			return nil
		})
		uri, header, body := w.far.transaction("box1.test", 1)
		if status, out := w.ask("box1.test", "PUT", uri, header, body); status != 429 {
			t.Errorf("%v: %d %s", why, status, out)
		}
	}
	if n := w.waiting("box1.test"); n != 0 {
		t.Errorf("%d transactions wait", n)
	}
}

// No query is answered in a way for which central servers leave a name alone, whatever the box does.
func TestQueriesAreNeverHeldAgainstTheName(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	ask := func(method, uri string) (int, string) {
		status, out := w.ask("box1.test", method, uri, signed(t, w.far.Local, "box1.test", method, uri, nil), nil)
		return status, string(out)
	}
	const query, invite, key = "/_matrix/federation/v1/event/$x", "/_matrix/federation/v2/invite/!r/$e", "/_matrix/key/v2/server"
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		answer(w, 403, map[string]string{"errcode": "M_FORBIDDEN", "error": "not in the room"})
	})
	if status, out := ask("GET", query); status != 403 || !strings.Contains(out, "not in the room") {
		t.Errorf("the box's own answer: %d %s", status, out)
	}
	if got := b.heard(); len(got) != 1 || !strings.Contains(got[0], "GET "+query+" X-Matrix origin=") {
		t.Errorf("the box was asked %q", got)
	}
	for _, uri := range []string{"/_hallig/backup/1", "/_matrix/federation/../../_hallig/backup/1", "/_matrix/client/versions", "/_matrix/federation//v1/version"} {
		if status, _ := ask("GET", uri); status != 404 || len(b.heard()) != 1 {
			t.Errorf("%s: %d, the box was asked %q", uri, status, b.heard())
		}
	}
	for _, bad := range []int{401, 429, 500, 502} {
		b.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(bad) })
		if status, out := ask("GET", query); status != 404 || !strings.Contains(out, "M_NOT_FOUND") {
			t.Errorf("the box answers %d: %d %s", bad, status, out)
		}
		if status, out := ask("PUT", invite); status != 403 || !strings.Contains(out, "nicht erreichbar") {
			t.Errorf("invite, the box answers %d: %d %s", bad, status, out)
		}
	}
	c := b.contact()
	if status, a := b.deposit(c); status != 200 || a.Server != "hub.test" || a.Mode != "sealed" {
		t.Errorf("contact: %d %+v", status, a)
	}
	b.away()
	if status, out := ask("GET", key); status != 200 || out != string(c.KeyDocument) {
		t.Errorf("key document: %d %s, want %s", status, out, c.KeyDocument)
	}
	if status, out := ask("GET", query); status != 404 {
		t.Errorf("the box is away: %d %s", status, out)
	}
	if status, out := ask("GET", "/_matrix/federation/v1/version"); status != 200 || !strings.Contains(out, `"v1"`) {
		t.Errorf("version: %d %s", status, out)
	}
	if status, out := ask("GET", wellKnownPath); status != 200 || !strings.Contains(out, "hub.test:8448") {
		t.Errorf("well-known: %d %s", status, out)
	}
	if status, _ := w.ask("hub.test", "GET", key, nil, nil); status != 200 {
		t.Errorf("the hub's own keys: %d", status)
	}
}

// A box that is connected and does not answer costs the one who asks eight seconds, and no more.
func TestSilentBox(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	began := time.Now()
	uri := "/_matrix/federation/v1/event/$x"
	status, out := w.ask("box1.test", "GET", uri, signed(t, w.far.Local, "box1.test", "GET", uri, nil), nil)
	if took := time.Since(began); status != 404 || took < askPatience || took > askPatience+inTime {
		t.Errorf("%d %s after %s", status, out, took)
	}
}

// The hub sends on what the box signed itself, as it is, and is no open proxy.
func TestSendsOut(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	self := federation.Local{Server: "box1.test", Key: b.id.Key}
	uri, body := "/_matrix/federation/v1/send/a%2Fb?c=d", []byte(`{"pdus": [] }`)
	header := signed(t, self, "far.test", "PUT", uri, body)
	if status, out := b.ask("far.test", "PUT", uri, header, body); status != 200 || string(out) != `{"pdus":{}}` {
		t.Errorf("%d %s", status, out)
	}
	if want := []string{"PUT " + uri + " " + header.Get("Authorization") + " " + string(body)}; !slices.Equal(w.far.asked, want) {
		t.Errorf("the far server was asked %q, want %q", w.far.asked, want)
	}
	w.far.next = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Inside", "1")
		answer(w, 502, map[string]string{"errcode": "M_UNKNOWN"})
	}
	next := "/_matrix/federation/v1/send/next"
	if status, out := b.ask("far.test", "PUT", next, signed(t, self, "far.test", "PUT", next, body), body); status != 502 || !strings.Contains(string(out), "M_UNKNOWN") {
		t.Errorf("the far server's own failure: %d %s", status, out)
	}
	if status, out := b.ask("gone.test", "PUT", uri, signed(t, self, "gone.test", "PUT", uri, body), body); status != 502 || !strings.Contains(string(out), api.Unreachable) {
		t.Errorf("out of reach: %d %s", status, out)
	}
	if status, out := b.ask("far.test", "GET", "/_matrix/key/v2/server", nil, nil); status != 200 || !strings.Contains(string(out), "far.test") {
		t.Errorf("keys: %d %s", status, out)
	}
	asked := len(w.far.asked)
	for name, tt := range map[string]struct {
		to, uri string
		as      federation.Local
	}{
		"somebody else's name": {"far.test", uri, federation.Local{Server: "box2.test", Key: b.id.Key}},
		"client api":           {"far.test", "/_matrix/client/v3/login", self},
		"other paths":          {"far.test", "/admin", self},
		"dots":                 {"far.test", "/_matrix/federation/../client/v3/login", self},
	} {
		if status, out := b.ask(tt.to, "PUT", tt.uri, signed(t, tt.as, tt.to, "PUT", tt.uri, body), body); status != 403 {
			t.Errorf("%s: %d %s", name, status, out)
		}
	}
	if status, _ := b.ask("far.test", "PUT", uri, nil, body); status != 403 {
		t.Errorf("without a signature: %d", status)
	}
	if status, _ := b.ask("far.test", "PUT", uri, signed(t, self, "gone.test", "PUT", uri, body), body); status != 502 {
		t.Errorf("signed for another: %d", status) // it goes where it was signed for
	}
	if len(w.far.asked) != asked {
		t.Errorf("the far server was asked %q", w.far.asked[asked:])
	}
}

// Boxes that never met exchange what they have through their hub.
func TestBoxToBox(t *testing.T) {
	w := newWorld(t)
	a, b := w.newBox("box1.test"), w.newBox("box2.test")
	self := federation.Local{Server: "box1.test", Key: a.id.Key}
	uri, body := "/_matrix/federation/v1/send/1", []byte(`{"pdus":[]}`)
	header := signed(t, self, "box2.test", "PUT", uri, body)
	b.away()
	if status, out := a.ask("box2.test", "PUT", uri, header, body); status != 200 {
		t.Fatalf("%d %s", status, out)
	}
	b.back()
	w.await("the transaction", func() bool { return len(b.heard()) == 1 && w.waiting("box2.test") == 0 })
	q := "/_matrix/federation/v1/event/$x"
	if status, _ := a.ask("box2.test", "GET", q, signed(t, self, "box2.test", "GET", q, nil), nil); status != 200 || len(b.heard()) != 2 {
		t.Errorf("a query: %d, %q", status, b.heard())
	}
}

// A box's refusal settles nothing unless the request itself is what is wrong; what failed comes again, in order.
func TestNothingIsLostByARefusal(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.away()
	for n := range 4 {
		uri, header, body := w.far.transaction("box1.test", n)
		w.ask("box1.test", "PUT", uri, header, body)
	}
	refusals := []int{401, 429, 500, -400, 200, 400, 403, 200, 200} // -400: from who knows where
	var at atomic.Int32
	b.answers(func(w http.ResponseWriter, _ *http.Request) {
		if n := int(at.Add(1)) - 1; n < len(refusals) && refusals[n] < 0 {
			http.Error(w, "400 Bad Request", -refusals[n])
		} else if n < len(refusals) {
			refuse(w, refusals[n], "M_BAD_JSON", "no")
		}
	})
	b.back()
	w.await("all to be settled", func() bool { return w.waiting("box1.test") == 0 })
	var got []int
	for _, asked := range b.heard() {
		var n, again int
		if _, err := fmt.Sscanf(asked, "PUT "+sendPath+"t%%2F%d?x=%d", &n, &again); err != nil {
			t.Fatal(asked, err)
		}
		got = append(got, n)
	}
	if want := []int{0, 0, 0, 0, 0, 1, 2, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("the box was given %v, want %v", got, want)
	}
}

// What came to a box by stick is not handed on once more by line, once the box has said so.
func TestDealtWithByStick(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.answers(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "not yet")
	})
	b.away()
	for n := range 4 {
		uri, header, body := w.far.transaction("box1.test", n)
		w.ask("box1.test", "PUT", uri, header, body)
	}
	rs, err := w.spool.Next(t.Context(), spool.Queue{Box: "box1.test", Other: "far.test", In: true}, 0, 1<<20)
	if err != nil || len(rs) != 4 {
		t.Fatalf("%d wait, %v", len(rs), err)
	}
	b.back()
	_, a := b.deposit(b.contact())
	w.await("the box to refuse the first", func() bool { return len(b.heard()) > 0 })
	tell := func(d api.Dealt) int {
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := b.ask("hub.test", "PUT", api.DealtPath, nil, raw)
		return status
	}
	from := []api.DealtFrom{{From: "far.test", Through: rs[2].Seq}, {From: "strange.test", Through: 1 << 40}}
	if got := tell(api.Dealt{Epoch: a.Epoch + "x", From: from}); got != 409 || w.waiting("box1.test") != 4 {
		t.Errorf("of another memory: %d, %d wait", got, w.waiting("box1.test"))
	}
	if got := tell(api.Dealt{Epoch: a.Epoch, From: []api.DealtFrom{{Through: -1}}}); got != 400 {
		t.Errorf("of nobody: %d", got)
	}
	if got := tell(api.Dealt{Epoch: a.Epoch, From: from}); got != 200 || w.waiting("box1.test") != 1 {
		t.Errorf("%d, %d wait", got, w.waiting("box1.test"))
	}
	b.answers(nil)
	w.await("the last", func() bool { return w.waiting("box1.test") == 0 })
	for _, asked := range b.heard() {
		if strings.Contains(asked, "t%2F1?") || strings.Contains(asked, "t%2F2?") {
			t.Errorf("handed on once more: %s", asked)
		}
	}
}

// Killed between any two steps the hub loses nothing; the one request that the box has had already comes to it once more, as it was.
func TestRestartsBetweenTheSteps(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.away()
	uri, header, body := w.far.transaction("box1.test", 1)
	w.ask("box1.test", "PUT", uri, header, body)
	w.stop() // kept, not handed on
	w.start()
	w.spool.fail(func(what string) error {
		if what == "Settle" {
			return errors.New("killed")
		}
		return nil
	})
	b.back()
	w.await("the transaction", func() bool { return len(b.heard()) > 0 })
	w.stop() // handed on, not settled
	w.spool.fail(nil)
	if n := w.waiting("box1.test"); n != 1 {
		t.Errorf("%d wait, want 1", n)
	}
	before := len(b.heard())
	w.start()
	w.await("it to be settled", func() bool { return w.waiting("box1.test") == 0 })
	got := b.heard()
	if len(got) != before+1 {
		t.Errorf("handed on %d times after the restart", len(got)-before)
	}
	for _, g := range got {
		if g != got[0] {
			t.Errorf("handed on as %s and as %s", got[0], g)
		}
	}
	if status, _ := w.ask("box1.test", "PUT", uri, header, body); status != 200 || w.waiting("box1.test") != 0 {
		t.Errorf("the far server repeats it: %d, %d wait", status, w.waiting("box1.test"))
	}
}

// A box deposits its own papers, the newest of them.
func TestContact(t *testing.T) {
	w := newWorld(t)
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	good := b.contact()
	deposited := func() string {
		doc, err := w.spool.Deposited(t.Context(), "box1.test", kindKey, "")
		if err != nil {
			t.Fatal(err)
		}
		return string(doc)
	}
	for name, change := range map[string]func(*api.Contact){
		"another's document":  func(c *api.Contact) { c.KeyDocument = other.contact().KeyDocument },
		"another's statement": func(c *api.Contact) { c.Statement = other.contact().Statement },
		"no signature": func(c *api.Contact) {
			c.KeyDocument = bytes.Replace(c.KeyDocument, []byte(`"valid_until_ts":`), []byte(`"valid_until_ts":9`), 1)
		},
		"unknown mode": func(c *api.Contact) { c.Mode = "open" },
		"no statement": func(c *api.Contact) { c.Statement = nil },
	} {
		c := good
		change(&c)
		if status, _ := b.deposit(c); status != 400 || deposited() != "" {
			t.Errorf("%s: %d, deposited %q", name, status, deposited())
		}
	}
	uri, header, body := w.far.transaction("box1.test", 1)
	b.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	w.ask("box1.test", "PUT", uri, header, body)
	status, a := b.deposit(good)
	if status != 200 || len(a.Waiting) != 1 || a.Waiting[0].From != "far.test" || a.Waiting[0].Count != 1 {
		t.Errorf("contact: %d %+v", status, a)
	}
	if deposited() != string(good.KeyDocument) {
		t.Errorf("deposited %s", deposited())
	}
	past := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(federation.Local{Server: "box1.test", Key: b.id.Key}), Now: func() time.Time { return time.Unix(1000, 0) }})
	old, err := past.Document(federation.Local{Server: "box1.test", Key: b.id.Key})
	if err != nil {
		t.Fatal(err)
	}
	lagging := good
	lagging.KeyDocument = old
	if status, _ := b.deposit(lagging); status != 200 || deposited() != string(good.KeyDocument) {
		t.Errorf("a box whose clock lags: %d, deposited %s", status, deposited())
	}
	// A new signing key: what is signed with it is known at once.
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	b.id.Old = map[string]federation.OldKey{b.id.Key.ID: {Key: b.id.Key.Private.Public().(ed25519.PublicKey), ExpiredTS: 1}}
	b.id.Key = key
	if status, _ := b.deposit(b.contact()); status != 200 || w.hub.signingKey("box1.test", key.ID) == nil {
		t.Errorf("after a rotation: %d, key known: %v", status, w.hub.signingKey("box1.test", key.ID) != nil)
	}
}

// A box that was lost and turned away is cut off, and its name is out of service.
func TestRevoked(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.deposit(b.contact())
	var s Status
	if err := Ask(t.Context(), w.dir, "GET", "/status", nil, &s); err != nil || len(s.Boxes) != 1 || !s.Boxes[0].Connected || s.Boxes[0].Version != "v1" || s.Boxes[0].KeyUntil.Before(time.Now()) {
		t.Errorf("status: %+v, %v", s, err)
	}
	if err := Ask(t.Context(), w.dir, "POST", "/revoke", Order{Box: "box9.test"}, nil); err == nil || !strings.Contains(err.Error(), "box9.test") {
		t.Errorf("a box that is not there: %v", err)
	}
	if err := Ask(t.Context(), w.dir, "POST", "/revoke", Order{Box: "box1.test", Reason: "stolen"}, nil); err != nil {
		t.Fatal(err)
	}
	w.await("the box to be cut off", func() bool { return !w.hub.p2p.InReach("box1.test") })
	uri, header, body := w.far.transaction("box1.test", 1)
	if status, out := w.ask("box1.test", "PUT", uri, header, body); status != 403 || w.waiting("box1.test") != 0 {
		t.Errorf("a transaction for it: %d %s", status, out)
	}
	var code Code
	if err := Ask(t.Context(), w.dir, "POST", "/pair/show", nil, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.host.Take(t.Context(), code.Code, w.hub.Addrs()[0]); err == nil {
		t.Error("a revoked box was paired again")
	}
}

// A box that is turned away in the middle of a transaction, or deleted with all that waits for it, is played to no more, and holds nothing of the hub.
func TestRevokedWhileItIsPlayedTo(t *testing.T) {
	for _, order := range []Order{{Box: "box1.test", Reason: "stolen"}, {Box: "box1.test", Forget: true}} {
		w := newWorld(t)
		b := w.newBox("box1.test")
		asked := make(chan struct{}, 8)
		b.answers(func(_ http.ResponseWriter, r *http.Request) {
			asked <- struct{}{}
			<-r.Context().Done()
		})
		uri, header, body := w.far.transaction("box1.test", 1)
		w.ask("box1.test", "PUT", uri, header, body)
		<-asked
		w.hub.mu.Lock()
		c := w.hub.carriers["box1.test"]
		w.hub.mu.Unlock()
		if err := Ask(t.Context(), w.dir, "POST", "/revoke", order, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.ended:
		case <-time.After(inTime):
			t.Fatalf("%+v: the hub still serves the box", order)
		}
		if l, err := w.spool.Holder(t.Context(), "box1.test"); l.Until.After(time.Now()) || err != nil && !errors.Is(err, spool.ErrUnknown) {
			t.Errorf("%+v: the box is still held: %+v, %v", order, l, err)
		}
		if len(asked) != 0 {
			t.Errorf("%+v: the box was asked again", order)
		}
	}
}

// Only names that the operator allows get in, and none twice.
func TestNames(t *testing.T) {
	c := Config{Names: []string{"box1.test", "*.boxes.test"}}
	for name, want := range map[string]bool{"box1.test": true, "a.boxes.test": true, "a.boxes.test:8448": true, "boxes.test": false, "xboxes.test": false, "box2.test": false, "a.boxes.test.evil": false} {
		if got := c.allows(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	w := newWorld(t)
	w.newBox("box1.test")
	id, err := identity.Load(t.TempDir(), "box1.test", false)
	if err != nil {
		t.Fatal(err)
	}
	twin := &testBox{t: t, w: w, id: id}
	twin.connect()
	code, _, err := w.hub.p2p.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := twin.host.Take(t.Context(), code.String(), w.hub.Addrs()[0]); err == nil {
		t.Error("two boxes have one name")
	}
}
