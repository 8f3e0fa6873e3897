// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// A request that was kept on its way counts by the key that was good when it came in; one that comes now does not.
func TestKeptRequestOutlivesItsKey(t *testing.T) {
	b := newTestBox(t, testCA(t))
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	gone := Local{Server: "gone.test", Key: event.Key{ID: "ed25519:gone", Private: private}}
	then := time.Now().Add(-ownValidity - 30*24*time.Hour) // its document ended a month ago
	doc := must[[]byte](t)(NewKeyRing(KeyRingConfig{Locals: Only(gone), Now: func() time.Time { return then }}).Document(gone))
	if err := b.ring.Learn(t.Context(), doc, SourceBox+"hub"); err != nil {
		t.Fatal(err)
	}
	const uri = "/_matrix/federation/v1/send/1"
	body := []byte(`{"pdus":[]}`)
	a := must[Authorization](t)(SignRequest(gone, b.name, "PUT", uri, body))
	ask := func(ctx context.Context) int {
		r := httptest.NewRequestWithContext(ctx, "PUT", uri, bytes.NewReader(body))
		r.Header.Set("Authorization", a.String())
		w := httptest.NewRecorder()
		b.handler.ServeHTTP(w, r)
		return w.Code
	}
	if code := ask(t.Context()); code != http.StatusUnauthorized {
		t.Errorf("a request that comes now: %d", code)
	}
	if code := ask(WithReceived(t.Context(), then.Add(time.Hour))); code != http.StatusOK {
		t.Errorf("a request that came then: %d", code)
	}
	if code := ask(WithReceived(t.Context(), time.Now().Add(-time.Hour))); code != http.StatusUnauthorized {
		t.Errorf("a request that came after the key had ended: %d", code)
	}
}

// When a server does not show its keys, somebody else who may be believed is asked, and only then.
func TestNotaryStandsIn(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	far := Local{Server: "far.test", Key: event.Key{ID: "ed25519:far", Private: private}}
	doc := must[[]byte](t)(NewKeyRing(KeyRingConfig{Locals: Only(far)}).Document(far))
	for _, away := range []bool{false, true} {
		var ring *KeyRing
		asked := 0
		ring = NewKeyRing(KeyRingConfig{
			Locals: Only(Local{Server: "box.test"}),
			Fetch: func(context.Context, string) ([]byte, error) {
				if away {
					return nil, errors.New("no way there")
				}
				return doc, nil
			},
			Notary: func(ctx context.Context, server string) error {
				asked++
				if server != "far.test" {
					return errors.New("unknown")
				}
				return ring.Learn(ctx, doc, SourceBox+"hub")
			},
		})
		key, err := ring.Key(t.Context(), "far.test", "ed25519:far", time.Now().UnixMilli())
		if err != nil || !key.Equal(private.Public()) || (asked == 1) != away {
			t.Errorf("away %v: %v, the notary was asked %d times", away, err, asked)
		}
		if _, err := ring.Key(t.Context(), "other.test", "ed25519:x", 0); !away && err == nil || away && !errors.Is(err, ErrKeyUnavailable) {
			t.Errorf("a server that nobody knows: %v", err)
		}
	}
}

// A server that was set up anew does not list its old key any more; who kept what it signed has the old document, and is asked once.
func TestNotaryHasTheOldKey(t *testing.T) {
	old, fresh := newLocal(t, "far.test", "ed25519:old"), newLocal(t, "far.test", "ed25519:new")
	docOf := func(l Local) []byte {
		return must[[]byte](t)(NewKeyRing(KeyRingConfig{Locals: Only(l)}).Document(l))
	}
	before, now := docOf(old), docOf(fresh)
	var ring *KeyRing
	asked := 0
	ring = NewKeyRing(KeyRingConfig{
		Locals: Only(Local{Server: "box.test"}),
		Fetch:  func(context.Context, string) ([]byte, error) { return now, nil },
		Notary: func(ctx context.Context, _ string) error {
			asked++
			return ring.Learn(ctx, before, SourceBox+"hub")
		},
	})
	key, err := ring.Key(t.Context(), "far.test", "ed25519:old", time.Now().UnixMilli())
	if err != nil || !key.Equal(old.Key.Private.Public()) {
		t.Errorf("the old key: %v", err)
	}
	for range 3 {
		if _, err := ring.Key(t.Context(), "far.test", "ed25519:other", time.Now().UnixMilli()); err == nil {
			t.Error("a key that nobody has")
		}
	}
	if asked != 2 { // for the old one, and once for the other
		t.Errorf("the notary was asked %d times", asked)
	}
}

func newLocal(t *testing.T, server, keyID string) Local {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Local{Server: server, Key: event.Key{ID: keyID, Private: private}}
}

// A key is known by the way that its document came: what a hub or a notary tells of another server is no word of that server.
func TestKeysAreKnownByTheirWay(t *testing.T) {
	far, noted, us := newLocal(t, "far.test", "ed25519:far"), newLocal(t, "noted.test", "ed25519:noted"), newLocal(t, "box.test", "ed25519:box")
	docOf := func(l Local, at time.Time) []byte {
		return must[[]byte](t)(NewKeyRing(KeyRingConfig{Locals: Only(l), Now: func() time.Time { return at }}).Document(l))
	}
	newer, older := docOf(far, time.Now()), docOf(far, time.Now().AddDate(0, 0, -3))
	theirs := NewKeyRing(KeyRingConfig{Locals: Only(noted)})
	if err := theirs.Learn(t.Context(), newer, SourceTLS); err != nil {
		t.Fatal(err)
	}
	notary := both{NewNotary(HandlerConfig{Locals: Only(noted), Ring: theirs})}
	for name, tt := range map[string]struct {
		by         func(context.Context)
		fetched    string // the source of what the server showed
		told       string // and of what noted.test told, reached by the same way
		takesOlder bool
	}{
		"itself":          {func(context.Context) {}, SourceTLS, SourceNotary + "noted.test", true},
		"a paired box":    {func(ctx context.Context) { CameBy(ctx, SourceBox+"b", true) }, SourceBox + "b", SourceBox + "b", true},
		"by the hub":      {func(ctx context.Context) { CameBy(ctx, SourceBox+"hub", false) }, SourceBox + "hub", SourceNotary + "noted.test", false},
		"the last counts": {func(ctx context.Context) { CameBy(ctx, SourceBox+"hub", false); CameBy(ctx, SourceTLS, true) }, SourceTLS, SourceNotary + "noted.test", true},
	} {
		t.Run(name, func(t *testing.T) {
			doc := newer
			ring := func() *KeyRing {
				return NewKeyRing(KeyRingConfig{Locals: Only(us), Fetch: func(ctx context.Context, _ string) ([]byte, error) {
					tt.by(ctx)
					return doc, nil
				}})
			}
			row := func(r *KeyRing) store.ServerKey {
				t.Helper()
				rows, err := r.known(t.Context(), "far.test")
				if err != nil || len(rows) != 1 {
					t.Fatalf("%d rows, %v", len(rows), err)
				}
				return rows[0]
			}
			r := ring()
			if err := r.fetch(t.Context(), "far.test"); err != nil {
				t.Fatal(err)
			}
			until := row(r).ValidUntil
			if got := row(r).Source; got != tt.fetched {
				t.Errorf("fetched: from %q, want %q", got, tt.fetched)
			}
			doc = older
			if err := r.fetch(t.Context(), "far.test"); err != nil {
				t.Fatal(err)
			}
			if took := row(r).ValidUntil < until; took != tt.takesOlder {
				t.Errorf("an older document was taken: %v", took)
			}
			r = ring()
			if err := r.Learn(t.Context(), docOf(noted, time.Now()), SourceTLS); err != nil {
				t.Fatal(err)
			}
			c := NewClient(ClientConfig{Local: us, Ring: r, Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				tt.by(req.Context())
				return notary.RoundTrip(req)
			})})
			if err := c.LearnFrom(t.Context(), "noted.test", "far.test"); err != nil {
				t.Fatal(err)
			}
			if got := row(r).Source; got != tt.told {
				t.Errorf("told: from %q, want %q", got, tt.told)
			}
		})
	}
}

// On a box whose clock lags by more than a key is believed for, what others date now is held and not refused: it counts as soon as the clock is right. What is dated after the key's own end is
// refused as ever.
func TestLaggingClockHoldsEvents(t *testing.T) {
	far := newLocal(t, "far.test", "ed25519:far")
	truth := time.Now()
	now := truth.AddDate(0, 0, -10)
	fetched := 0
	db := must[*store.DB](t)(store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1}))
	defer db.Close()
	local := Local{Server: "box.test", Key: testKey(0)}
	ring := NewKeyRing(KeyRingConfig{Locals: Only(local), DB: db, Now: func() time.Time { return now }, Fetch: func(context.Context, string) ([]byte, error) {
		fetched++
		return NewKeyRing(KeyRingConfig{Locals: Only(far), Now: func() time.Time { return truth }}).Document(far)
	}})
	key := func(at time.Time) error {
		_, err := ring.Key(t.Context(), "far.test", "ed25519:far", millis(at))
		return err
	}
	for range 3 {
		if err := key(truth); !errors.Is(err, ErrKeyUnavailable) || !strings.Contains(err.Error(), "240h0m0s ahead of this clock") {
			t.Fatalf("dated now, ten days ahead of the clock: %v", err)
		}
	}
	if fetched != 1 {
		t.Errorf("the document was fetched %d times", fetched)
	}
	if err := key(truth.AddDate(2, 0, 0)); err == nil || errors.Is(err, ErrKeyUnavailable) {
		t.Errorf("dated after the key's end: %v", err)
	}
	if err := key(truth.AddDate(0, 0, -5)); err != nil {
		t.Errorf("dated within a week of the clock: %v", err)
	}

	rooms := room.New(db, room.Identity{Server: local.Server, Key: local.Key}, room.Options{})
	client := NewClient(ClientConfig{Local: local, Ring: ring, Rooms: rooms, Transport: refusing{}})
	in := NewIntake(IntakeConfig{Local: local, DB: db, Rooms: rooms, Client: client})
	v, _ := event.Lookup("11")
	p := must[*event.PDU](t)(event.Build(v, event.Proto{RoomID: "!r:far.test", Sender: "@u:far.test", Type: "m.room.message", Content: json.RawMessage(`{}`), Prev: []event.ID{"$x"},
		Auth: []event.ID{"$y"}, Depth: 2, TS: millis(truth)}, "far.test", far.Key))
	if errs := in.TakeAll(t.Context(), "far.test", []*event.PDU{p}); errs[0] != nil {
		t.Errorf("the event: %v", errs[0])
	}
	if err := db.View(t.Context(), func(r *store.Read) error {
		n, err := r.StagedCount("!r:far.test")
		if n != 1 {
			t.Errorf("%d events are kept", n)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	now = truth
	if err := client.VerifyPDU(t.Context(), p); err != nil {
		t.Errorf("when the clock is right: %v", err)
	}
}
