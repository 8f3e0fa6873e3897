// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

const server = "box.test"

// house is a database on disk with its accounts; reopen gives what a restart gives.
type house struct {
	*Accounts
	t    testing.TB
	path string
	db   *store.DB
	now  time.Time
}

func newHouse(t testing.TB) *house {
	h := &house{t: t, path: filepath.Join(t.TempDir(), "hallig.db"), now: time.UnixMilli(1_800_000_000_000)}
	h.open()
	t.Cleanup(func() { h.db.Close() })
	return h
}

func (h *house) open() {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), h.path, store.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.db = db
	h.Accounts = New(db, server, Options{Now: func() time.Time { return h.now }, Cost: Cost{MemoryKiB: 64, Passes: 1},
		SharedServers: func(*store.Read, event.UserID) ([]string, error) { return []string{"far.test"}, nil }})
}

func (h *house) restart() {
	h.t.Helper()
	if err := h.db.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.open()
}

func (h *house) register(name string) Session {
	h.t.Helper()
	s, err := h.Register(h.t.Context(), RegisterRequest{Username: name, Password: "secret of " + name})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// code is the Matrix error code of an error, "" for nil.
func code(err error) string {
	var e *room.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return "not tellable: " + err.Error()
}

func wantCode(t testing.TB, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRegisterAndLogin(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("Anna")
	if s.User != "@anna:box.test" || s.Device == "" || s.AccessToken == "" {
		t.Fatalf("session %+v", s)
	}
	_, err := h.Register(ctx, RegisterRequest{Username: "anna"})
	wantCode(t, err, "M_USER_IN_USE")
	for _, bad := range []string{"", "an na", "ä", "a:b", strings.Repeat("a", 250)} {
		if bad == "" {
			continue // made up by the box
		}
		_, err := h.Register(ctx, RegisterRequest{Username: bad})
		wantCode(t, err, "M_INVALID_USERNAME")
	}
	_, err = h.Login(ctx, LoginRequest{User: "anna", Password: "wrong"})
	wantCode(t, err, "M_FORBIDDEN")
	_, err = h.Login(ctx, LoginRequest{User: "nobody", Password: "wrong"})
	wantCode(t, err, "M_FORBIDDEN")
	s2, err := h.Login(ctx, LoginRequest{User: "@anna:box.test", Password: "secret of Anna", Device: "PHONE", DeviceName: "Phone"})
	ok(t, err)
	if s2.Device != "PHONE" {
		t.Fatalf("device %q", s2.Device)
	}
	h.restart()
	got, err := h.Auth(ctx, s2.AccessToken)
	ok(t, err)
	if got.User != s.User || got.Device != "PHONE" {
		t.Fatalf("auth gave %+v", got)
	}
	_, err = h.Auth(ctx, "")
	wantCode(t, err, "M_MISSING_TOKEN")
	_, err = h.Auth(ctx, s2.AccessToken+"x")
	wantCode(t, err, "M_UNKNOWN_TOKEN")

	// The same device again: the old token is gone.
	s3, err := h.Login(ctx, LoginRequest{User: "anna", Password: "secret of Anna", Device: "PHONE"})
	ok(t, err)
	_, err = h.Auth(ctx, s2.AccessToken)
	wantCode(t, err, "M_UNKNOWN_TOKEN")
	ok(t, h.Logout(ctx, s3))
	_, err = h.Auth(ctx, s3.AccessToken)
	wantCode(t, err, "M_UNKNOWN_TOKEN")
	devices, err := h.Devices(ctx, s.User)
	ok(t, err)
	if len(devices) != 1 || devices[0].ID != s.Device {
		t.Fatalf("devices %+v", devices)
	}
}

func TestTokensAreNotKept(t *testing.T) {
	h := newHouse(t)
	s := h.register("anna")
	err := h.db.View(t.Context(), func(r *store.Read) error {
		row, err := r.Account(s.User)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(row.Password, "$argon2id$") || strings.Contains(row.Password, "secret") {
			t.Errorf("password column %q", row.Password)
		}
		tok, err := r.Token(tokenHash(s.AccessToken))
		if tok == nil {
			t.Error("token is not found by its hash")
		}
		return err
	})
	ok(t, err)
}

// TestEnrolmentCodeOnPaper: a code that was printed beforehand counts, once, also on a box that had shown another one.
func TestEnrolmentCodeOnPaper(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	first, err := h.EnrolmentCode(ctx, "")
	ok(t, err)
	for range 2 {
		code, err := h.EnrolmentCode(ctx, "k7mq-2fxv-9tdp")
		ok(t, err)
		if code != "k7mq-2fxv-9tdp" {
			t.Fatalf("got %q, want the one on paper", code)
		}
		h.restart()
	}
	_, err = h.Register(ctx, RegisterRequest{Username: "thief", Token: first})
	wantCode(t, err, "M_FORBIDDEN")
	admin, err := h.Register(ctx, RegisterRequest{Username: "chief", Password: "x", Token: "K7MQ 2FXV 9TDP"})
	ok(t, err)
	if !admin.Admin {
		t.Error("the code on paper made no administrator")
	}
	if code, err := h.EnrolmentCode(ctx, "k7mq-2fxv-9tdp"); err != nil || code != "" {
		t.Fatalf("a second administrator by the same paper: %q, %v", code, err)
	}
	ok(t, h.Deactivate(ctx, admin.User))
	if code, err := h.EnrolmentCode(ctx, "k7mq-2fxv-9tdp"); err != nil || code == "" || code == "k7mq-2fxv-9tdp" {
		t.Fatalf("with no administrator left the used code is %q, %v; want a new one", code, err)
	}
}

func TestRegistrationTokens(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	enrol, err := h.EnrolmentCode(ctx, "")
	ok(t, err)
	h.restart()
	again, err := h.EnrolmentCode(ctx, "bad grammar")
	ok(t, err)
	if enrol == "" || again != enrol {
		t.Fatalf("enrolment codes %q, %q", enrol, again)
	}
	admin, err := h.Register(ctx, RegisterRequest{Username: "chief", Password: "x", Token: enrol})
	ok(t, err)
	if !admin.Admin {
		t.Error("the first administrator is none")
	}
	_, err = h.Register(ctx, RegisterRequest{Username: "second", Token: enrol})
	wantCode(t, err, "M_FORBIDDEN")
	if c, err := h.EnrolmentCode(ctx, ""); c != "" || err != nil {
		t.Fatalf("a code for a second first administrator: %q %v", c, err)
	}
	tok, err := h.CreateRegistrationToken(ctx, RegistrationToken{Uses: 2, Expires: h.now.Add(time.Hour)})
	ok(t, err)
	_, err = h.Register(ctx, RegisterRequest{Username: "a", Token: tok.Token})
	ok(t, err)
	_, err = h.Register(ctx, RegisterRequest{Username: "a", Token: tok.Token})
	wantCode(t, err, "M_USER_IN_USE") // and the use is not counted
	h.now = h.now.Add(2 * time.Hour)
	if valid, _ := h.RegistrationTokenValid(ctx, tok.Token); valid {
		t.Error("an expired token is valid")
	}
	h.now = h.now.Add(-2 * time.Hour)
	b, err := h.Register(ctx, RegisterRequest{Username: "b", Token: tok.Token})
	ok(t, err)
	if b.Admin {
		t.Error("a plain token made an administrator")
	}
	_, err = h.Register(ctx, RegisterRequest{Username: "c", Token: tok.Token})
	wantCode(t, err, "M_FORBIDDEN")
}

func TestRefresh(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	h.register("anna")
	s, err := h.Login(ctx, LoginRequest{User: "anna", Password: "secret of anna", Refresh: true})
	ok(t, err)
	h.now = h.now.Add(2 * time.Hour)
	_, err = h.Auth(ctx, s.AccessToken)
	if !errors.Is(err, ErrSoftLogout) {
		t.Fatalf("expired token: %v", err)
	}
	lost, err := h.Refresh(ctx, s.RefreshToken) // this answer is lost
	ok(t, err)
	s2, err := h.Refresh(ctx, s.RefreshToken)
	ok(t, err)
	_, err = h.Auth(ctx, s2.AccessToken)
	ok(t, err)
	_, err = h.Auth(ctx, lost.AccessToken)
	wantCode(t, err, "M_UNKNOWN_TOKEN")
	_, err = h.Refresh(ctx, s2.RefreshToken)
	ok(t, err)
	_, err = h.Refresh(ctx, s.RefreshToken)
	wantCode(t, err, "M_UNKNOWN_TOKEN")
}

func TestPasswordAndDeactivation(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	s2, err := h.Login(ctx, LoginRequest{User: "anna", Password: "secret of anna"})
	ok(t, err)
	ok(t, h.SetPusher(ctx, s2, json.RawMessage(`{"kind":"http","app_id":"a","pushkey":"k","data":{}}`)))
	ok(t, h.ChangePassword(ctx, s, "new secret", true))
	_, err = h.Auth(ctx, s2.AccessToken)
	wantCode(t, err, "M_UNKNOWN_TOKEN")
	_, err = h.Auth(ctx, s.AccessToken)
	ok(t, err)
	if p, _ := h.Pushers(ctx, s.User); len(p) != 0 {
		t.Errorf("the pusher of an ended session is still there: %s", p)
	}
	wantCode(t, h.VerifyPassword(ctx, s.User, "secret of anna"), "M_FORBIDDEN")
	ok(t, h.VerifyPassword(ctx, s.User, "new secret"))
	ok(t, h.Deactivate(ctx, s.User))
	_, err = h.Auth(ctx, s.AccessToken)
	wantCode(t, err, "M_UNKNOWN_TOKEN")
	_, err = h.Login(ctx, LoginRequest{User: "anna", Password: "new secret"})
	wantCode(t, err, "M_USER_DEACTIVATED")
	_, err = h.CheckUsername(ctx, "anna")
	wantCode(t, err, "M_USER_IN_USE")
}

func TestProfileAndData(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	ok(t, h.SetProfileField(ctx, s.User, "displayname", json.RawMessage(`"Änna"`)))
	ok(t, h.SetProfileField(ctx, s.User, "m.tz", json.RawMessage(`"Europe/Berlin"`)))
	wantCode(t, h.SetProfileField(ctx, s.User, "displayname", json.RawMessage(`7`)), "M_BAD_JSON")
	wantCode(t, h.SetProfileField(ctx, s.User, "m.big", json.RawMessage(`"`+strings.Repeat("x", maxProfile)+`"`)), "M_PROFILE_TOO_LARGE")
	if name, _ := h.DisplayName(ctx, s.User); name != "Änna" {
		t.Errorf("name %q", name)
	}
	u, err := h.User(ctx, s.User)
	ok(t, err)
	if u.DisplayName != "Änna" {
		t.Errorf("user %+v", u)
	}
	ok(t, h.SetProfileField(ctx, s.User, "m.tz", nil))
	_, err = h.ProfileField(ctx, s.User, "m.tz")
	wantCode(t, err, "M_NOT_FOUND")

	ok(t, h.SetAccountData(ctx, s.User, "!r:box.test", "org.test", json.RawMessage(`{"a":1}`)))
	wantCode(t, h.SetAccountData(ctx, s.User, "", "m.push_rules", json.RawMessage(`{}`)), "M_BAD_JSON")
	wantCode(t, h.SetAccountData(ctx, s.User, "", "x", json.RawMessage(`[]`)), "M_BAD_JSON")
	ok(t, h.SetTag(ctx, s.User, "!r:box.test", "u.work", json.RawMessage(`{"order":0.5}`)))
	ok(t, h.SetTag(ctx, s.User, "!r:box.test", "m.favourite", json.RawMessage(`{}`)))
	ok(t, h.SetTag(ctx, s.User, "!r:box.test", "m.favourite", nil))
	h.restart()
	got, err := h.AccountData(ctx, s.User, "!r:box.test", "org.test")
	ok(t, err)
	if string(got) != `{"a":1}` {
		t.Errorf("account data %s", got)
	}
	tags, err := h.Tags(ctx, s.User, "!r:box.test")
	ok(t, err)
	if len(tags) != 1 || string(tags["u.work"]) != `{"order":0.5}` {
		t.Errorf("tags %v", tags)
	}
	id, err := h.SaveFilter(ctx, s.User, json.RawMessage(`{"room":{}}`))
	ok(t, err)
	id2, err := h.SaveFilter(ctx, s.User, json.RawMessage(`{"room":{}}`))
	ok(t, err)
	if id != id2 {
		t.Errorf("equal filters got %q and %q", id, id2)
	}
	_, err = h.Filter(ctx, s.User, "9")
	wantCode(t, err, "M_NOT_FOUND")
}

func TestPushRules(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	rule := json.RawMessage(`{"actions":["notify"],"pattern":"hochwasser"}`)
	ok(t, h.SetPushRule(ctx, s.User, "content", "flood", rule, "", ""))
	ok(t, h.SetPushRule(ctx, s.User, "content", "ebb", json.RawMessage(`{"actions":[],"pattern":"ebbe"}`), "flood", ""))
	wantCode(t, h.SetPushRule(ctx, s.User, "content", ".m.x", rule, "", ""), "M_INVALID_PARAM")
	wantCode(t, h.SetPushRule(ctx, s.User, "content", "y", rule, "nothing", ""), "M_NOT_FOUND")
	wantCode(t, h.DeletePushRule(ctx, s.User, "override", ".m.rule.master"), "M_UNKNOWN")
	ok(t, h.SetPushRuleAttr(ctx, s.User, "override", ".m.rule.master", "enabled", json.RawMessage(`{"enabled":true}`)))
	raw, err := h.PushRules(ctx, s.User)
	ok(t, err)
	var c pushContent
	ok(t, json.Unmarshal(raw, &c))
	if !c.Global.Override[0].Enabled || c.Global.Content[0].ID != "ebb" || c.Global.Content[1].ID != "flood" || c.Global.Content[2].Pattern != "anna" {
		t.Errorf("rules %s", raw)
	}
	got, err := h.PushRuleAttr(ctx, s.User, "content", "flood", "actions")
	ok(t, err)
	if string(got) != `{"actions":["notify"]}` {
		t.Errorf("actions %s", got)
	}
	ok(t, h.DeletePushRule(ctx, s.User, "content", "ebb"))
	_, err = h.PushRule(ctx, s.User, "content", "ebb")
	wantCode(t, err, "M_NOT_FOUND")
}

func TestPasswordHashes(t *testing.T) {
	a := &Accounts{opt: Options{Cost: Cost{MemoryKiB: 64, Passes: 1}}, hashing: make(chan struct{}, 1)}
	a.dummy = a.hashPassword("dummy") // a dummy with a known password must not open anything either
	good := a.hashPassword("hello")
	for _, c := range []struct {
		hash, password string
		want           bool
	}{
		{good, "hello", true}, {good, "hellp", false}, {"", "dummy", false}, {"$argon2id$", "x", false},
		{strings.Replace(good, "m=64", "m=99999999", 1), "hello", false},
		{good, strings.Repeat("x", maxPassword+1), false},
	} {
		if got := a.checkPassword(c.hash, c.password); got != c.want {
			t.Errorf("check %q against %q: got %v", c.password, c.hash, got)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA")
	f.Add("$argon2id$v=19$m=64,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		_, memory, passes, _, sum, ok := parsePHC(s)
		if ok && (memory > 1<<18 || passes == 0 || passes > 64 || len(sum) < 16) {
			t.Fatalf("took %q", s)
		}
	})
}

// A name that the box keeps for itself cannot be registered, and nobody is told that it is free.
func TestReservedName(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a := New(db, "b", Options{Reserved: []string{"hallig"}})
	if _, err := a.CheckUsername(t.Context(), "Hallig"); err == nil {
		t.Error("said to be free")
	}
	if _, err := a.Register(t.Context(), RegisterRequest{Username: "@hallig:b", InhibitLogin: true}); err == nil {
		t.Error("registered")
	}
	if _, err := a.Register(t.Context(), RegisterRequest{Username: "hallig2", InhibitLogin: true}); err != nil {
		t.Error(err)
	}
}
