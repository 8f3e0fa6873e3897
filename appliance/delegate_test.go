// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub"
	"hallig/sync/hub/api"
	"hallig/sync/identity"
	"hallig/tools/testpeer"
)

// listed are the keys of a box's key document, current and old.
func (r *running) listed() (current, old []string) {
	r.t.Helper()
	raw, err := r.fed.ring.Document(r.local())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := federation.CheckDocument(raw, r.id.Server); err != nil {
		r.t.Errorf("others refuse the document: %v", err)
	}
	var doc struct {
		Keys map[string]json.RawMessage `json:"verify_keys"`
		Old  map[string]json.RawMessage `json:"old_verify_keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		r.t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(doc.Keys)), slices.Sorted(maps.Keys(doc.Old))
}

// TestDelegateMode: the hub's key gets into the key document of a box that wants it, is there after a restart, and is taken back with the box's own key when that is rotated and when the
// box is sealed again.
func TestDelegateMode(t *testing.T) {
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h, dir, _ := startHub(t, ca, nil)
	cfg := Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test", Peers: h.Addrs()[:1], Mode: "delegate"}}
	b := startWith(t, cfg)
	own := b.id.Key.ID
	if current, _ := b.listed(); !slices.Equal(current, []string{own}) || b.hubStatus().Mode != api.Delegate || b.hubStatus().Key != "" {
		t.Errorf("before the pairing: %q, %+v", current, b.hubStatus())
	}
	var code hub.Code
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	atHub := func() hub.BoxStatus {
		var s hub.Status
		if err := hub.Ask(t.Context(), dir, "GET", "/status", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s.Boxes[0]
	}
	agreed := func(what string) (key string) {
		t.Helper()
		awaitHub(t, what+": the hub's key to be listed", func() bool {
			current, _ := b.listed()
			key = b.hubStatus().Key
			return key != "" && slices.Contains(current, key) && slices.Contains(current, b.id.Key.ID) && atHub().Key == key
		})
		if s := b.hubStatus(); s.Trouble != "" || s.ModeTrouble != "" || s.Mode != api.Delegate {
			t.Errorf("%s: %+v", what, s)
		}
		return key
	}
	first := agreed("paired")
	again := func(cfg Config) {
		t.Helper()
		b.end()
		b = startWith(t, cfg)
	}
	again(cfg)
	if current, _ := b.listed(); !slices.Contains(current, first) || b.id.Key.ID != own {
		t.Errorf("after a restart the document lists %q", current)
	}
	if got := agreed("after a restart"); got != first {
		t.Errorf("after a restart the hub holds %s, want %s", got, first)
	}

	b.end()
	if _, err := RotateKey(t.Context(), cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	b = startWith(t, cfg)
	second := agreed("after a rotation")
	if _, old := b.listed(); second == first || !slices.Contains(old, first) || !slices.Contains(old, own) {
		t.Errorf("after a rotation the hub holds %s, and old are %q; want another one than %s", second, old, first)
	}

	own = b.id.Key.ID
	sealed := cfg
	sealed.Hub.Mode = ""
	again(sealed)
	current, old := b.listed()
	if !slices.Equal(current, []string{b.id.Key.ID}) || b.id.Key.ID == own || !slices.Contains(old, second) || !slices.Contains(old, own) {
		t.Errorf("sealed again the document lists %q, old %q", current, old)
	}
	awaitHub(t, "the hub to forget its key", func() bool { s := atHub(); return s.Key == "" && s.Mode == api.Sealed })
	if d, err := identity.ReadDelegated(cfg.Data); d.ID != "" || err != nil {
		t.Errorf("it is still written down that the hub holds %s, %v", d.ID, err)
	}
	key := b.id.Key.ID
	again(sealed)
	if b.id.Key.ID != key {
		t.Error("the key is rotated with every start")
	}

	again(cfg)
	agreed("once more")
	if err := b.forgetPeer(t.Context(), "hub.test"); err != nil {
		t.Fatal(err)
	}
	select {
	case err = <-b.done:
	case <-time.After(inTime):
		t.Fatal("the box does not stop to take the key back with the pairing")
	}
	if err != ErrRotate {
		t.Errorf("ended with %v, want ErrRotate", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	b.stop()
	b.stop = nil
}

// TestHubIsForgotten: with the pairing goes the key.
func TestHubIsForgotten(t *testing.T) {
	dir := t.TempDir()
	held := identity.Delegated{DelegatedKey: federation.DelegatedKey{ID: "ed25519:hub_a", Key: make([]byte, ed25519.PublicKeySize)}, Holder: "hub.test"}
	cfg := Config{Data: dir, ServerName: "box1.test", P2P: P2PConfig{Off: true}, Hub: HubConfig{Server: "hub.test", Mode: "delegate"}}
	start := func(cfg Config, want string, old bool) {
		t.Helper()
		b := startWith(t, cfg)
		if _, retired := b.id.Old[held.ID]; b.local().Delegated.ID != want || retired != old {
			t.Errorf("with %+v the hub holds %q, retired %v; want %q, %v", cfg.Hub, b.local().Delegated.ID, retired, want, old)
		}
		b.end()
	}
	start(cfg, "", false)
	if err := identity.WriteDelegated(dir, held); err != nil {
		t.Fatal(err)
	}
	start(cfg, held.ID, false)
	other := cfg
	other.Hub.Server = "hub2.test"
	start(other, "", true)
	if err := identity.WriteDelegated(dir, held); err != nil { // the end came between the two files
		t.Fatal(err)
	}
	start(cfg, "", true)
	if _, err := os.Stat(filepath.Join(dir, identity.DelegatedFile)); err == nil {
		t.Error("the file is still there")
	}
}

// TestHostileHubOffersKeys: a hub gets one key into the box's document, in the mode that the box was given, and none that is the box's own.
func TestHostileHubOffersKeys(t *testing.T) {
	start := func(mode string) *running {
		return startWith(t, Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Off: true}, Hub: HubConfig{Server: "hub.test", Mode: mode}})
	}
	pub := func(n byte) []byte {
		key, _ := ed25519.NewKeyFromSeed(append(make([]byte, 31), n)).Public().(ed25519.PublicKey)
		return key
	}
	offer := func(b *running, id string, key []byte, doc string) (bool, error) {
		a := &api.Answer{Mode: api.Delegate, Delegated: &api.Delegated{ID: id, Key: key}}
		if doc != "" {
			a.Delegated.Document = json.RawMessage(doc)
		}
		proposal, err := b.proposal()
		if err != nil {
			t.Fatal(err)
		}
		return b.hearDelegated(a, proposal)
	}
	b := start("")
	if again, err := offer(b, "ed25519:hub_1", pub(1), ""); err == nil || again || b.local().Delegated.ID != "" {
		t.Errorf("a sealed box takes a key: %v", err)
	}
	b = start("delegate")
	b.fed.local.Old = map[string]federation.OldKey{"ed25519:old": {Key: pub(5), ExpiredTS: 1}}
	own := b.id.Key.ID
	for name, tt := range map[string]struct {
		id  string
		key []byte
	}{
		"own id": {own, pub(1)}, "own key": {"ed25519:hub_1", publicKey(b.id.Key.Private)}, "old id": {"ed25519:old", pub(1)}, "old key": {"ed25519:hub_1", pub(5)},
	} {
		if again, err := offer(b, tt.id, tt.key, ""); err == nil || again {
			t.Errorf("%s: was taken", name)
		}
	}
	if _, err := b.hearDelegated(&api.Answer{Mode: api.Sealed}, nil); err == nil {
		t.Error("that the hub does not want a key goes without a word")
	}
	if again, err := offer(b, "ed25519:hub_1", pub(1), ""); err != nil || !again {
		t.Fatalf("a good offer: %v", err)
	}
	for name, try := range map[string]func() error{
		"another id":  func() error { _, err := offer(b, "ed25519:hub_2", pub(1), ""); return err },
		"another key": func() error { _, err := offer(b, "ed25519:hub_1", pub(2), ""); return err },
		"a document that the box did not propose": func() error {
			_, err := offer(b, "ed25519:hub_1", pub(1), `{"server_name":"box1.test","verify_keys":{}}`)
			return err
		},
	} {
		if try() == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	if got := b.local().Delegated; got.ID != "ed25519:hub_1" || !slices.Equal(got.Key, pub(1)) {
		t.Errorf("the hub holds %+v", got)
	}
	if current, _ := b.listed(); !slices.Equal(current, []string{own}) {
		t.Errorf("the document lists %q", current)
	}
	if d, err := identity.ReadDelegated(b.cfg.Data); err != nil || d.ID != "ed25519:hub_1" || d.Holder != "hub.test" {
		t.Errorf("written down is %+v, %v", d, err)
	}
}

func TestHubMode(t *testing.T) {
	for mode, ok := range map[string]bool{"": true, "sealed": true, "delegate": true, "Delegate": false, "open": false} {
		if err := (&Config{Hub: HubConfig{Server: "hub.test", Mode: mode}}).check(); (err == nil) != ok {
			t.Errorf("mode %q: %v", mode, err)
		}
	}
}
