// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
)

// delegating is a server whose second key somebody else holds.
type delegating struct {
	*testing.T
	now   time.Time
	local Local
	other event.Key // theirs
	ring  *KeyRing
}

func newDelegating(t *testing.T) *delegating {
	d := &delegating{T: t, now: time.UnixMilli(1_800_000_000_000), other: testKey(7), local: Local{Server: "a.example", Key: testKey(1)}}
	d.other.ID = "ed25519:hub_7"
	d.local.Delegated = DelegatedKey{ID: d.other.ID, Key: publicOf(d.other)}
	d.ring = NewKeyRing(KeyRingConfig{Locals: func(name string) (Local, bool) { return d.local, name == d.local.Server }, DB: keyStore(t), Now: func() time.Time { return d.now }})
	return d
}

func (d *delegating) lists() (ids []string) {
	d.Helper()
	raw := must[[]byte](d.T)(d.ring.Document(d.local))
	if err := CheckDocument(raw, d.local.Server); err != nil {
		d.Errorf("a document that others refuse: %v", err)
	}
	var doc keyDocument
	if err := json.Unmarshal(raw, &doc); err != nil {
		d.Fatal(err)
	}
	for id := range doc.VerifyKeys {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (d *delegating) want(what string, ids ...string) {
	d.Helper()
	slices.Sort(ids)
	if got := d.lists(); !slices.Equal(got, ids) {
		d.Errorf("%s: the document lists %q, want %q", what, got, ids)
	}
}

func (d *delegating) cosign() {
	d.Helper()
	p := must[[]byte](d.T)(d.ring.Proposal(d.local))
	if p == nil {
		d.Fatal("nothing is proposed")
	}
	if CheckDocument(p, d.local.Server) == nil {
		d.Error("the proposal counts before the other key has signed it")
	}
	if err := d.ring.Cosigned(d.local, p, must[[]byte](d.T)(Cosign(p, d.local.Server, d.other))); err != nil {
		d.Fatal(err)
	}
}

// TestDelegatedKeyIsListed: the second key is in the document once both have signed, stays while its holder is away, and is out of it as soon as it is taken back.
func TestDelegatedKeyIsListed(t *testing.T) {
	d := newDelegating(t)
	own := d.local.Key.ID
	d.want("before", own)
	d.cosign()
	d.want("signed by both", own, d.other.ID)
	if p := must[[]byte](t)(d.ring.Proposal(d.local)); p != nil {
		t.Error("a document is proposed that is there already")
	}
	first := validUntil(t, must[[]byte](t)(d.ring.Document(d.local)))
	d.now = d.now.Add(3 * ownRenewal)
	d.want("three days later, the holder away", own, d.other.ID)
	d.cosign()
	if got := validUntil(t, must[[]byte](t)(d.ring.Document(d.local))); got != first+3*ownRenewal.Milliseconds() {
		t.Errorf("good until %d, want three days more than %d", got, first)
	}
	d.now = d.now.Add(ownValidity - cosignedLeft + time.Hour)
	d.want("away for half a year", own)
	d.cosign()
	if key, err := d.ring.Key(t.Context(), d.local.Server, d.other.ID, d.now.UnixMilli()); err != nil || !key.Equal(publicOf(d.other)) {
		t.Errorf("our own ring: %v", err)
	}
	// It is taken back together with our own.
	was := d.local
	d.local = Local{Server: was.Server, Key: testKey(2), Old: map[string]OldKey{
		was.Key.ID: {Key: publicOf(was.Key), ExpiredTS: d.now.UnixMilli()}, d.other.ID: {Key: publicOf(d.other), ExpiredTS: d.now.UnixMilli()}}}
	d.want("taken back", d.local.Key.ID)
	doc := must[[]byte](t)(d.ring.Document(d.local))
	if !Retired(doc, d.other.ID) || Delegates(doc, was.Server, d.other, d.now) {
		t.Error("the document does not say that the key signs no more")
	}
	if _, err := d.ring.Key(t.Context(), was.Server, d.other.ID, d.now.UnixMilli()+1); err == nil {
		t.Error("our own ring takes what the key has signed since")
	}
	d.local.Delegated = was.Delegated // whoever brings it back
	if p := must[[]byte](t)(d.ring.Proposal(d.local)); p != nil {
		if _, err := Cosign(p, was.Server, d.other); err == nil {
			t.Error("a retired key is signed for again")
		}
	}
}

// TestCosignedByAHostileHolder: whatever comes back in place of the proposal, only the proposal becomes ours.
func TestCosignedByAHostileHolder(t *testing.T) {
	d := newDelegating(t)
	older := must[[]byte](t)(d.ring.Proposal(d.local))
	d.now = d.now.Add(time.Minute)
	p := must[[]byte](t)(d.ring.Proposal(d.local))
	good := must[[]byte](t)(Cosign(p, d.local.Server, d.other))
	third := testKey(9)
	third.ID = "ed25519:third"
	with := func(from, change string) []byte {
		return must[[]byte](t)(event.SignJSON([]byte(strings.Replace(string(p), from, change, 1)), d.local.Server, d.other))
	}
	for name, doc := range map[string][]byte{
		"the proposal, unsigned": p, "an older one": must[[]byte](t)(Cosign(older, d.local.Server, d.other)),
		"another's name": with(`"server_name":"a.example"`, `"server_name":"b.example"`), "for longer": with(`"valid_until_ts":1`, `"valid_until_ts":9`), "another key": with(`"ed25519:hub_7":{"key"`, `"ed25519:third":{"key"`),
		"nothing": nil, "no JSON": []byte("x"), "null": []byte("null"), "somebody else's": must[[]byte](t)(newDelegating(t).ring.Document(Local{Server: "c.example", Key: third})),
	} {
		if err := d.ring.Cosigned(d.local, p, doc); err == nil {
			t.Errorf("%s was taken: %s", name, doc)
		}
	}
	rotated := d.local // meanwhile
	rotated.Key = testKey(2)
	if err := d.ring.Cosigned(rotated, p, good); err == nil {
		t.Error("a document of keys that are not ours any more was taken")
	}
	d.want("after all that", d.local.Key.ID)
	if err := d.ring.Cosigned(d.local, p, good); err != nil {
		t.Error(err)
	}
}

// TestCosignRefuses: a holder signs no document that does not list its key, for whatever server.
func TestCosignRefuses(t *testing.T) {
	d := newDelegating(t)
	p := must[[]byte](t)(d.ring.Proposal(d.local))
	forged := d.other
	forged.Private = testKey(8).Private
	without := must[[]byte](t)(d.ring.Document(d.local))
	for name, try := range map[string]func() ([]byte, error){
		"another's":  func() ([]byte, error) { return Cosign(p, "b.example", d.other) },
		"not listed": func() ([]byte, error) { return Cosign(without, d.local.Server, d.other) },
		"other key":  func() ([]byte, error) { return Cosign(p, d.local.Server, forged) },
		"not the server's": func() ([]byte, error) {
			return Cosign([]byte(strings.Replace(string(p), `"sig`, `"gis`, 1)), d.local.Server, d.other)
		},
		"too long":           func() ([]byte, error) { return Cosign(make([]byte, maxKeyDoc+1), d.local.Server, d.other) },
		"an event of theirs": func() ([]byte, error) { return Cosign([]byte(`{"type":"m.room.member"}`), d.local.Server, d.other) },
	} {
		if out, err := try(); err == nil {
			t.Errorf("%s was signed: %s", name, out)
		}
	}
}

// TestPeersAskForTheList: what a second key has signed counts at others only once they are shown a document that lists it, and up to when it was taken back.
func TestPeersAskForTheList(t *testing.T) {
	d := newDelegating(t)
	shown := must[[]byte](t)(d.ring.Document(d.local))
	peer := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "p.example", Key: testKey(3)}), DB: keyStore(t), Now: func() time.Time { return d.now }})
	key := func() (ed25519.PublicKey, error) {
		return peer.Key(t.Context(), d.local.Server, d.other.ID, d.now.UnixMilli())
	}
	learn := func() {
		if err := peer.Learn(t.Context(), shown, SourceBox+"x"); err != nil {
			t.Fatal(err)
		}
	}
	learn()
	if _, err := key(); err == nil {
		t.Error("a key that no document lists is believed")
	}
	d.cosign()
	shown = must[[]byte](t)(d.ring.Document(d.local))
	learn()
	if pub, err := key(); err != nil || !pub.Equal(publicOf(d.other)) {
		t.Errorf("a key that the document lists: %v", err)
	}
	was := d.local
	d.now = d.now.Add(time.Hour)
	at := d.now.UnixMilli()
	d.local = Local{Server: was.Server, Key: testKey(2), Old: map[string]OldKey{was.Key.ID: {Key: publicOf(was.Key), ExpiredTS: at}, d.other.ID: {Key: publicOf(d.other), ExpiredTS: at}}}
	shown = must[[]byte](t)(d.ring.Document(d.local))
	learn()
	if _, err := key(); err != nil {
		t.Errorf("what was signed before it was taken back: %v", err)
	}
	d.now = d.now.Add(time.Millisecond)
	if _, err := key(); err == nil {
		t.Error("what is signed after it was taken back is believed")
	}
}

func FuzzCosign(f *testing.F) {
	k := testKey(7)
	k.ID = "ed25519:hub_7"
	l := Local{Server: "a.example", Key: testKey(1), Delegated: DelegatedKey{ID: k.ID, Key: publicOf(k)}}
	p, err := NewKeyRing(KeyRingConfig{Locals: Only(l)}).Proposal(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Add([]byte(`{"server_name":"a.example","verify_keys":{},"valid_until_ts":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := Cosign(raw, l.Server, k)
		if err == nil && (CheckDocument(out, l.Server) != nil || !lists(mustDoc(t, out), k)) {
			t.Errorf("signed %s", out)
		}
	})
}

func mustDoc(t *testing.T, raw []byte) (d keyDocument) {
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	return d
}
