// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/radio/ether"
	"hallig/sync/federation"
	"hallig/sync/parcel"
)

// door notes what a box is asked to send on, after looking at its signature as whoever sends it on must.
type door struct {
	t   *testing.T
	key ed25519.PublicKey

	mu   sync.Mutex
	came []sentOn
}

type sentOn struct {
	to, uri string
	body    []byte
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		d.t.Error(err)
	}
	a, err := federation.ParseAuthorization(r.Header.Get("Authorization"))
	if err == nil {
		err = federation.VerifyRequest(a, r.Method, r.RequestURI, body, d.key)
	}
	if err != nil || a.Destination != r.Host {
		d.t.Errorf("%s for %s: %+v, %v", r.RequestURI, r.Host, a, err)
	}
	d.mu.Lock()
	d.came = append(d.came, sentOn{r.Host, r.RequestURI, body})
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"pdus":{}}`))
}

func (d *door) all() []sentOn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]sentOn(nil), d.came...)
}

// transaction is one of events of a box, as its feed writes it.
func (b *box) transaction(edus string, ids ...event.ID) []byte {
	b.w.t.Helper()
	tx := parcel.Transaction{Origin: b.name, TS: time.Now().UnixMilli()}
	for _, id := range ids {
		p, _, err := b.rooms.Event(b.w.t.Context(), id)
		if err != nil {
			b.w.t.Fatal(err)
		}
		tx.PDUs = append(tx.PDUs, p.JSON())
	}
	if edus != "" {
		tx.EDUs = []byte(edus)
	}
	return tx.Body()
}

// A signed transaction for a server beyond a narrow line crosses without the events that are there already, and comes out byte for byte; one with an event that is not there crosses whole.
func TestTransactionThroughABox(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		out := &door{t: t, key: a.sign.Private.Public().(ed25519.PublicKey)}
		cfg := ether.Config{BitsPerSecond: 1200, Seed: 7}
		air := ether.New(cfg)
		radioed(air, cfg, a, b)
		w.start()
		pass(time.Minute)
		id, alone := a.create("anna"), a.create("anna")
		b.join(a, id, "bert")
		var said []event.ID
		for n := range 50 {
			said = append(said, a.text(id, "anna", fmt.Sprintf("Meldung %d: Pegel <%d> & Wind", n, n*7919%900)))
		}
		until(t, time.Hour, "all at the other box", func() bool { return len(b.timeline(id)) == 50 })
		b.link.c.Handler = out // nothing is under way
		pass(10 * time.Minute)
		client := federation.NewClient(federation.ClientConfig{Local: federation.Local{Server: a.name, Key: a.sign}, Transport: a.link.Through(b.name), Patience: time.Hour})
		push := func(txn string, body []byte) (spent uint64, took time.Duration) {
			t.Helper()
			before, began := spoken(air), time.Now()
			if _, err := client.Push(t.Context(), "zentrale.example.org", txn, body); err != nil {
				t.Fatal(err)
			}
			took = time.Since(began)
			pass(time.Minute)
			came := out.all()
			if last := came[len(came)-1]; last.to != "zentrale.example.org" || last.uri != sendPath+txn || !bytes.Equal(last.body, body) {
				t.Errorf("came out as %s %s\n%.300s\nwant\n%.300s", last.to, last.uri, last.body, body)
			}
			return spoken(air) - before, took
		}
		edus := `[{"content":{"messages":{"@carl:zentrale.example.org":{"HANDY":{"n":1}}}},"edu_type":"m.direct_to_device"}]`
		spent, took := push("t1", a.transaction("", said...))
		t.Logf("fifty events that are there: %d bytes on the air with all that goes with it, %v", spent, took)
		if spent > 700 {
			t.Errorf("%d bytes for a transaction whose events are there", spent)
		}
		push("t2", a.transaction(edus, said[3], said[40], said[7]))
		push("t3", a.transaction(edus))
		more := a.text(alone, "anna", "hier ist sonst niemand")
		spent, _ = push("t4", a.transaction("", said[49], more))
		t.Logf("with one that is not there: %d bytes", spent)
		if n := len(out.all()); n != 4 {
			t.Errorf("%d transactions came, want each once", n)
		}
	})
}

// What a box names is put together from its own events and from those of rooms that it is in; whether others are here it does not learn.
func TestPutTellsNothing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		wire := newWire("lan", 1_000_000, 0)
		a.on(wire)
		b.on(wire)
		w.start()
		pass(time.Minute)
		id := b.create("bert")
		secret := b.text(id, "bert", "geht anna nichts an")
		p, _, err := b.rooms.Event(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		body := (&parcel.Transaction{Origin: a.name, TS: 5, PDUs: [][]byte{p.JSON()}}).Body()
		send := &parcel.Send{ID: 1, To: "x.example", Txn: "t", Key: "ed25519:k", Sig: make([]byte, 64), TS: 5, Events: []parcel.Entry{{ID: secret}}, Sum: parcel.SumOf(body)}
		if q, err := b.link.put(t.Context(), a.peer, send); q != nil || err != nil {
			t.Errorf("%+v, %v: an event of a room that the box is not in", q, err)
		}
		if q, err := b.link.put(t.Context(), b.peer, send); q != nil || err != nil {
			t.Errorf("%+v, %v: put together under another box's name", q, err)
		}
		body = (&parcel.Transaction{Origin: b.name, TS: 5, PDUs: [][]byte{p.JSON()}}).Body()
		send.Sum = parcel.SumOf(body)
		if q, err := b.link.put(t.Context(), b.peer, send); q == nil || err != nil || !bytes.Equal(q.Body, body) {
			t.Errorf("%+v, %v: not put together for its own box", q, err)
		}
		for name, e := range map[string]parcel.Entry{"no such log": {Room: id, Log: parcel.LogRef{Box: a.peer.ID, Epoch: 9, Seq: 1}}, "no such room": {Room: "!x", Log: parcel.LogRef{Box: b.peer.ID, Epoch: 1, Seq: 1}},
			"number 0": {Room: id, Log: parcel.LogRef{Box: b.peer.ID, Seq: 0}}, "no such event": {ID: "$x"}} {
			send.Events = []parcel.Entry{e}
			if q, err := b.link.put(t.Context(), b.peer, send); q != nil || err != nil {
				t.Errorf("%s: %+v, %v", name, q, err)
			}
		}
	})
}
