// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"hallig/appliance/store"
)

func document(t *testing.T, l Local, now time.Time, old map[string]OldKey) []byte {
	t.Helper()
	l.Old = old
	doc, err := NewKeyRing(KeyRingConfig{Locals: Only(l), Now: func() time.Time { return now }}).Document(l)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestDocumentIsSignedAfreshDaily(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	trusted := true
	l := Local{Server: "a.example", Key: testKey(0)}
	r := NewKeyRing(KeyRingConfig{Locals: Only(l), Now: func() time.Time { return now }, ClockTrusted: func() bool { return trusted }})
	until := func() int64 {
		raw, err := r.Document(l)
		if err != nil {
			t.Fatal(err)
		}
		var doc keyDocument
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		return doc.ValidUntilTS
	}
	first := until()
	if got, want := first, now.Add(365*24*time.Hour).UnixMilli(); got != want {
		t.Errorf("valid until %d, want %d", got, want)
	}
	now = now.Add(23 * time.Hour)
	if until() != first {
		t.Error("signed again within a day")
	}
	trusted = false
	now = now.Add(48 * time.Hour)
	if until() != first {
		t.Error("signed again by an untrusted clock")
	}
	trusted = true
	if until() == first {
		t.Error("not signed again")
	}
}

func TestKeysOfOthers(t *testing.T) {
	start := time.UnixMilli(1_800_000_000_000)
	now := start
	trusted := true
	them := Local{Server: "b.example", Key: testKey(1)}
	pub := them.Key.Private.Public().(ed25519.PublicKey)
	fetched := 0
	var answer []byte
	r := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "a.example", Key: testKey(0)}), Now: func() time.Time { return now }, ClockTrusted: func() bool { return trusted },
		Fetch: func(context.Context, string) ([]byte, error) {
			fetched++
			if answer == nil {
				return nil, errors.New("away")
			}
			return answer, nil
		}})
	ctx := t.Context()
	if _, err := r.Key(ctx, them.Server, them.Key.ID, now.UnixMilli()); !errors.Is(err, ErrKeyUnavailable) {
		t.Errorf("a server that is away: %v", err)
	}
	if _, err := r.Key(ctx, them.Server, them.Key.ID, now.UnixMilli()); !errors.Is(err, ErrKeyUnavailable) || fetched != 1 {
		t.Errorf("asked %d times in a row, %v", fetched, err)
	}
	retired := testKey(2)
	answer = document(t, them, now, map[string]OldKey{retired.ID: {Key: retired.Private.Public().(ed25519.PublicKey), ExpiredTS: now.UnixMilli() - 1000}})
	r.Reachable(them.Server)
	got, err := r.Key(ctx, them.Server, them.Key.ID, now.UnixMilli())
	if err != nil || !got.Equal(pub) {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := r.Key(ctx, them.Server, retired.ID, now.UnixMilli()-2000); err != nil {
		t.Errorf("a retired key and an older event: %v", err)
	}
	if _, err := r.Key(ctx, them.Server, retired.ID, now.UnixMilli()); err == nil || errors.Is(err, ErrKeyUnavailable) {
		t.Errorf("a retired key and a newer event: %v", err)
	}
	if _, err := r.Key(ctx, them.Server, "ed25519:none", 0); err == nil {
		t.Error("an unknown key was given")
	}

	// The specification's cap: seven days after the last attestation.
	answer = nil
	now = start.Add(8 * 24 * time.Hour)
	if _, err := r.Key(ctx, them.Server, them.Key.ID, now.UnixMilli()); !errors.Is(err, ErrKeyUnavailable) {
		t.Errorf("after eight days, server away: %v", err)
	}
	if _, err := r.Key(ctx, them.Server, them.Key.ID, start.UnixMilli()); err != nil {
		t.Errorf("an old event: %v", err)
	}
	trusted = false
	if _, err := r.Key(ctx, them.Server, them.Key.ID, now.UnixMilli()); err != nil {
		t.Errorf("nothing expires while the clock is untrusted: %v", err)
	}
	trusted = true
	if err := r.Learn(ctx, document(t, them, start, nil), SourceBox+"12D3"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Key(ctx, them.Server, them.Key.ID, now.UnixMilli()); err != nil {
		t.Errorf("attested again by a paired box: %v", err)
	}
}

func TestLearnRefusesWhatIsNotSigned(t *testing.T) {
	now := time.UnixMilli(1_800_000_000_000)
	r := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "a.example", Key: testKey(0)}), Now: func() time.Time { return now }})
	good := document(t, Local{Server: "b.example", Key: testKey(1)}, now, nil)
	var doc map[string]any
	if err := json.Unmarshal(good, &doc); err != nil {
		t.Fatal(err)
	}
	doc["valid_until_ts"] = 1_900_000_000_000
	changed, _ := json.Marshal(doc)
	for name, raw := range map[string][]byte{
		"changed": changed, "no JSON": []byte("x"), "empty": []byte("{}"), "our own name": document(t, Local{Server: "a.example", Key: testKey(1)}, now, nil),
	} {
		if err := r.Learn(t.Context(), raw, SourceTLS); err == nil {
			t.Errorf("%s: learnt", name)
		}
	}
	if err := r.Learn(t.Context(), good, SourceTLS); err != nil {
		t.Error(err)
	}
}

// TestNamesOfStrangersAreBounded: anybody can put any name into X-Matrix, and no table may grow by that for ever.
func TestNamesOfStrangersAreBounded(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "a.example", Key: testKey(0)}), DB: db,
		Fetch: func(context.Context, string) ([]byte, error) { return nil, errors.New("away") }})
	d := NewDiscovery(DiscoveryConfig{})
	for i := range maxRemembered + 100 {
		name := fmt.Sprintf("192.0.2.%d:%d", i%250, 1+i/250)
		if _, err := r.Key(t.Context(), name, "ed25519:1", 0); !errors.Is(err, ErrKeyUnavailable) {
			t.Fatalf("key of %s: %v", name, err)
		}
		if _, err := d.place(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for what, n := range map[string]int{"keys": len(r.cache), "absent servers": len(r.notNow), "places": len(d.found)} {
		if n == 0 || n > maxRemembered {
			t.Errorf("%d %s are remembered, want at most %d", n, what, maxRemembered)
		}
	}
}

// A look-up that read the database before a document came must not cover it afterwards, as happened when several asked for a
// new server's key at the same moment.
func TestOldReadingDoesNotCoverNewKeys(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	far := Local{Server: "far.test", Key: testKey(1)}
	r := NewKeyRing(KeyRingConfig{Locals: Only(Local{Server: "near.test", Key: testKey(2)}), DB: db})
	before := r.learnt // the slow look-up starts here and finds nothing
	if err := r.Learn(t.Context(), document(t, far, time.Now(), nil), SourceTLS); err != nil {
		t.Fatal(err)
	}
	r.remember(far.Server, nil, before) // and ends here
	if _, err := r.Key(t.Context(), far.Server, far.Key.ID, 0); err != nil {
		t.Errorf("got %v, want the key that was learnt meanwhile", err)
	}
}
