// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

func keyStore(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func publicOf(k event.Key) ed25519.PublicKey {
	pub, _ := k.Private.Public().(ed25519.PublicKey)
	return pub
}

func validUntil(t *testing.T, raw []byte) int64 {
	t.Helper()
	var doc keyDocument
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.ValidUntilTS
}

// TestOwnDocumentOutlivesTheClock: a box that restarts in 1970 serves the document that it signed when it knew the time; one that has a new key signs anew,
// for no less long.
func TestOwnDocumentOutlivesTheClock(t *testing.T) {
	db := keyStore(t)
	now, trusted := time.UnixMilli(1_800_000_000_000), true
	config := func(l Local) KeyRingConfig {
		return KeyRingConfig{Locals: Only(l), DB: db, Now: func() time.Time { return now }, ClockTrusted: func() bool { return trusted }}
	}
	old := Local{Server: "a.example", Key: testKey(0)}
	first := must[[]byte](t)(NewKeyRing(config(old)).Document(old))
	if err := db.Do(t.Context(), func(*store.Tx) error { return nil }); err != nil { // carries what is lazy
		t.Fatal(err)
	}
	now, trusted = time.Unix(1000, 0), false
	if got := must[[]byte](t)(NewKeyRing(config(old)).Document(old)); string(got) != string(first) {
		t.Errorf("in 1970 it serves %s, want %s", got, first)
	}
	l := Local{Server: "a.example", Key: testKey(1), Old: map[string]OldKey{old.Key.ID: {Key: publicOf(old.Key), ExpiredTS: 1_800_000_000_001}}}
	rotated := must[[]byte](t)(NewKeyRing(config(l)).Document(l))
	if got, want := validUntil(t, rotated), validUntil(t, first); got != want {
		t.Errorf("with a new key in 1970: valid until %d, want %d", got, want)
	}
	if err := event.VerifyJSON(rotated, l.Server, l.Key.ID, publicOf(l.Key)); err != nil {
		t.Error(err)
	}
	trusted, now = true, time.UnixMilli(1_800_000_000_000).Add(48*time.Hour)
	if got := must[[]byte](t)(NewKeyRing(config(l)).Document(l)); validUntil(t, got) != now.Add(ownValidity).UnixMilli() {
		t.Error("not signed afresh though the time is known again")
	}
}

// TestWhoseWordCounts: a notary neither retires nor replaces a key that a better source has told, renews it when the key itself has signed, and whoever replays an old
// document brings no retired key back.
func TestWhoseWordCounts(t *testing.T) {
	start := time.UnixMilli(1_800_000_000_000)
	const server = "b.example"
	good, thief := Local{Server: server, Key: testKey(1)}, Local{Server: server, Key: testKey(2)}
	day := func(n int) time.Time { return start.Add(time.Duration(n) * 24 * time.Hour) }
	retires := map[string]OldKey{good.Key.ID: {Key: publicOf(good.Key), ExpiredTS: day(2).UnixMilli()}}
	type word struct {
		doc    []byte
		source string
		direct bool
	}
	for _, tc := range []struct {
		what  string
		words []word
		key   event.Key
		at    time.Time
		now   time.Time
		ok    bool
	}{
		{"told by the server itself", []word{{document(t, good, start, nil), SourceTLS, true}}, good.Key, day(6), day(6), true},
		{"a week later", []word{{document(t, good, start, nil), SourceTLS, true}}, good.Key, day(8), day(8), false},
		{"a notary renews what the key has signed", []word{{document(t, good, start, nil), SourceTLS, true}, {document(t, good, day(5), nil), SourceNotary + "n", false}}, good.Key, day(8), day(8), true},
		{"a box renews it with the same document", []word{{document(t, good, start, nil), SourceTLS, true}, {document(t, good, start, nil), SourceBox + "1", false}}, good.Key, day(8), day(8), true},
		{"a notary with a forged document retires nothing", []word{{document(t, good, start, nil), SourceTLS, true}, {document(t, thief, day(9), map[string]OldKey{good.Key.ID: {Key: publicOf(good.Key), ExpiredTS: 1}}), SourceNotary + "n", false}}, good.Key, day(3), day(3), true},
		{"the server retires its key", []word{{document(t, good, start, nil), SourceTLS, true}, {document(t, thief, day(2), retires), SourceTLS, true}}, good.Key, day(3), day(3), false},
		{"and it is good for what came before", []word{{document(t, good, start, nil), SourceTLS, true}, {document(t, thief, day(2), retires), SourceTLS, true}}, good.Key, day(1), day(3), true},
		{"an old document does not bring it back", []word{{document(t, thief, day(2), retires), SourceTLS, true}, {document(t, good, start, nil), SourceBox + "1", false}}, good.Key, day(3), day(3), false},
		{"the server itself may", []word{{document(t, thief, day(2), retires), SourceTLS, true}, {document(t, good, start, nil), SourceTLS, true}}, good.Key, day(3), day(3), true},
	} {
		now := start
		r := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "a.example", Key: testKey(0)}), DB: keyStore(t), Now: func() time.Time { return now }})
		for i, w := range tc.words {
			if i == len(tc.words)-1 && len(tc.words) > 1 {
				now = day(2)
			}
			if err := r.learn(t.Context(), w.doc, w.source, w.direct); err != nil {
				t.Fatal(tc.what, ": ", err)
			}
		}
		now = tc.now
		_, err := r.Key(t.Context(), server, tc.key.ID, tc.at.UnixMilli())
		if got := err == nil; got != tc.ok || err != nil && !errors.Is(err, ErrKeyUnavailable) {
			t.Errorf("%s: %v, want ok %v, or not available", tc.what, err, tc.ok)
		}
	}
}

// TestNotaryFetchesWhatIsAsked: a notary has what it knows renewed when that does not reach far enough, signs it, and tells what it knows when the server is away.
func TestNotaryFetchesWhatIsAsked(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	us, them := Local{Server: "a.example", Key: testKey(0)}, Local{Server: "b.example", Key: testKey(1)}
	fetched, away := 0, false
	ring := NewKeyRing(KeyRingConfig{Locals: Only(us), Now: func() time.Time { return now }, Fetch: func(context.Context, string) ([]byte, error) {
		if fetched++; away {
			return nil, errors.New("away")
		}
		return document(t, them, now, nil), nil
	}})
	h := NewHandler(HandlerConfig{Locals: Only(us), Ring: ring, Now: func() time.Time { return now }}).(*Handler)
	ask := func(until time.Time) []json.RawMessage {
		t.Helper()
		out := must[any](t)(h.notarise(t.Context(), us, map[string]int64{them.Server: until.UnixMilli(), us.Server: 0, "no name": 0}))
		docs, _ := out.(map[string]any)["server_keys"].([]json.RawMessage)
		for _, d := range docs {
			if err := event.VerifyJSON(d, us.Server, us.Key.ID, publicOf(us.Key)); err != nil {
				t.Error("not signed by the notary: ", err)
			}
		}
		return docs
	}
	if got := ask(now); len(got) != 2 || fetched != 1 {
		t.Errorf("%d documents after asking %d times, want 2 after 1", len(got), fetched)
	}
	if ask(now.Add(ownValidity)); fetched != 1 {
		t.Errorf("asked %d times though what is known is good", fetched)
	}
	now = now.Add(time.Hour)
	if ask(now.Add(ownValidity)); fetched != 2 {
		t.Errorf("asked %d times, want 2: what is known is not good for long enough", fetched)
	}
	away, now = true, now.Add(time.Hour)
	if got := ask(now.Add(ownValidity)); len(got) != 2 {
		t.Errorf("%d documents of servers that are away, want 2 as they are known", len(got))
	}
}

func FuzzKeyDocument(f *testing.F) {
	f.Add([]byte(`{"server_name":"a.example","verify_keys":{"ed25519:1":{"key":"AAAA"}},"old_verify_keys":{},"valid_until_ts":1}`))
	doc, err := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "a.example", Key: testKey(0)})}).Document(Local{Server: "a.example", Key: testKey(0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Fuzz(func(t *testing.T, raw []byte) {
		keys, err := readDocument(raw, SourceTLS, 1)
		if err != nil {
			return
		}
		for _, k := range keys {
			if !event.ValidServerName(k.Server) || k.Server != keys[0].Server || len(k.Key) != 32 || k.KeyID == "" {
				t.Fatalf("bad key %+v of %q", k, raw)
			}
		}
		if got := merged(keys, keys, false); len(got) != len(keys) {
			t.Fatalf("a document changes %d of its own %d keys", len(got), len(keys))
		}
	})
}

func FuzzKeyQuery(f *testing.F) {
	f.Add([]byte(`{"server_keys":{"a.example":{"ed25519:1":{"minimum_valid_until_ts":5}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		want, err := readKeyQuery(raw, 7)
		if err != nil {
			return
		}
		for s, until := range want {
			if until < 7 || len(want) > notaryServers {
				t.Fatalf("%q: %s until %d", raw, s, until)
			}
		}
	})
}

// TestDistrusted: what a box has attested counts no longer when nobody believes it any more; what others have told stays.
func TestDistrusted(t *testing.T) {
	self := Local{Server: "a.example", Key: testKey(0)}
	far := Local{Server: "far.example", Key: testKey(1)}
	lost := false
	ring := NewKeyRing(KeyRingConfig{Locals: Only(self), DB: keyStore(t), Distrusted: func(server, source string) bool {
		return lost && server == far.Server && source == SourceBox+"x"
	}})
	doc := must[[]byte](t)(NewKeyRing(KeyRingConfig{Locals: Only(far)}).Document(far))
	if err := ring.Learn(t.Context(), doc, SourceBox+"x"); err != nil {
		t.Fatal(err)
	}
	known := func() bool {
		key, err := ring.Key(t.Context(), far.Server, far.Key.ID, time.Now().UnixMilli())
		return err == nil && key.Equal(publicOf(far.Key))
	}
	if !known() {
		t.Error("a box's word does not count")
	}
	if lost = true; known() {
		t.Error("a lost box's word counts")
	}
	if err := ring.Learn(t.Context(), doc, SourceBox+"y"); err != nil {
		t.Fatal(err)
	}
	if !known() {
		t.Error("another box's word does not count")
	}
}
