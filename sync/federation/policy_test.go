// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// policyServer stands before a server and signs what does not speak of spam.
type policyServer struct {
	key     event.Key
	name    string
	version *event.Version
	next    http.Handler
}

func (s *policyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/_matrix/policy/v1/sign" {
		s.next.ServeHTTP(w, r)
		return
	}
	raw, _ := io.ReadAll(r.Body)
	p, err := event.Parse(s.version, raw)
	if err != nil || r.Method != http.MethodPost || bytes.Contains(raw, []byte("spam")) {
		answer(w, http.StatusBadRequest, errorBody{"M_FORBIDDEN", "that is spam"})
		return
	}
	p, err = p.Sign(s.name, s.key)
	if err != nil {
		panic(err)
	}
	var e struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(p.JSON(), &e); err != nil {
		panic(err)
	}
	answer(w, http.StatusOK, map[string]any{s.name: e.Signatures[s.name]})
}

func TestPolicyServer(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	must[string](t)(cora.Join(t.Context(), id, a.name))
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	police := &policyServer{key: event.Key{ID: policyKey, Private: private}, name: c.name, version: event.Default(), next: c.handler}
	c.seen.mu.Lock()
	c.seen.next = police
	c.seen.mu.Unlock()
	c.sender.silent.Store(true)
	_, err = anna.SetState(t.Context(), id, "m.room.policy", "", map[string]any{"via": c.name,
		"public_keys": map[string]string{"ed25519": base64.RawStdEncoding.EncodeToString(public)}})
	if err != nil {
		t.Fatal(err)
	}
	b.await("the policy", func() bool {
		p, err := b.rooms.Policy(t.Context(), event.RoomID(id))
		return err == nil && p != nil
	})

	good := say(t, anna, id, 1, "gut")
	b.await("what the policy server recommends", func() bool { return b.has(id, good) })
	for _, box := range []*testBox{a, b} {
		p, _, err := box.rooms.Event(t.Context(), event.ID(good[0]))
		if err != nil || p.VerifySignature(c.name, policyKey, public) != nil {
			t.Errorf("%s holds it without the policy server's signature: %v", box.name, err)
		}
	}

	_, err = anna.SendText(t.Context(), id, "spam")
	if err == nil || !strings.Contains(err.Error(), "M_FORBIDDEN") || !strings.Contains(err.Error(), "that is spam") {
		t.Errorf("spam of our own user: %v", err)
	}
	// What comes in by other doors is shown to the policy server too: invites of others' users, joins through us.
	spam := map[string]any{"user_id": "@berta:" + b.name, "reason": "spam"}
	b.user("berta")
	if err := anna.Do(t.Context(), "POST", matrixclient.Path("rooms", id, "invite"), spam, nil); matrixclient.Code(err) != "M_FORBIDDEN" {
		t.Errorf("a spam invite: %v", err)
	}
	d := newTestBox(t, ca)
	dora := d.user("dora")
	join := func(reason string) error {
		return dora.Do(t.Context(), "POST", matrixclient.Path("join", id)+"?server_name="+a.name, map[string]any{"reason": reason}, nil)
	}
	if err := join("spam"); matrixclient.Code(err) != "M_FORBIDDEN" {
		t.Errorf("a spam join: %v", err)
	}
	if err := join("moin"); err != nil {
		t.Errorf("a good join: %v", err)
	}
	b.lax.Store(true) // a server that does not ask
	bad := must[string](t)(bert.SendText(t.Context(), id, "spam"))
	a.await("the refusal", func() bool {
		_, meta, err := a.rooms.Event(t.Context(), event.ID(bad))
		return err == nil && meta.SoftFailed && strings.HasPrefix(meta.Reason, "policy server: ")
	})
	if a.has(id, []string{bad}) {
		t.Error("what the policy server refuses is shown")
	}
	b.lax.Store(false)

	c.link.Cut() // an island: people write on, and read each other
	island := append(say(t, anna, id, 2, "ohne"), say(t, bert, id, 2, "auch ohne")...)
	a.await("all on the island", func() bool { return a.has(id, island) && b.has(id, island) })
}
