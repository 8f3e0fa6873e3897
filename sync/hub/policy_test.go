// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/policy"
	"hallig/appliance/signet"
)

// signedPolicy makes one.
func signedPolicy(t *testing.T, key signet.Secret, text string) []byte {
	t.Helper()
	raw, err := policy.Sign([]byte(text), key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// A policy is handed to boxes that lack it and belong to an organisation; older ones and those of strangers are refused, and nothing is changed by them.
func TestPolicy(t *testing.T) {
	key, stranger := signet.Generate("org"), signet.Generate("x")
	w := newWorldWith(t, func(c *Config) { c.OrganisationKey = signet.Organisation.Text(key.Public()) })
	b := w.newBox("box1.test")
	told := func(serial int64, known bool) []byte {
		t.Helper()
		c := b.contact()
		if known {
			c.Policy = &serial
		}
		status, a := b.deposit(c)
		if status != 200 {
			t.Fatal(status)
		}
		return a.Policy
	}
	if got := told(0, true); got != nil {
		t.Errorf("before there is one: %s", got)
	}
	set := func(raw []byte) error { return Ask(t.Context(), w.dir, "POST", "/policy", bytes.NewReader(raw), nil) }
	third := signedPolicy(t, key, `{"serial":3,"name":"Sommer","settings":{"upload_limit_bytes":5000000}}`)
	if err := set(third); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"the same": {third, "Number 3 is here already"}, "older": {signedPolicy(t, key, `{"serial":2,"settings":{}}`), "Number 3"}, "a stranger's": {signedPolicy(t, stranger, `{"serial":9,"settings":{}}`), "not by the organisation"},
		"unsigned": {[]byte(`{"serial":9,"settings":{}}`), "hallig policy sign"}, "changed": {bytes.Replace(third, []byte("5000000"), []byte("6000000"), 1), "changed after"}, "endless": {make([]byte, policy.MaxBytes+10), "longer than"},
	} {
		if err := set(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	w.stop()
	w.start()
	w.await("the box to be back", func() bool { return w.hub.p2p.InReach("box1.test") })
	if got := told(2, true); !bytes.Equal(got, third) {
		t.Errorf("told %s", got)
	}
	if got := told(3, true); got != nil {
		t.Errorf("who has it is told %s", got)
	}
	if got := told(0, false); got != nil {
		t.Errorf("who belongs to nobody is told %s", got)
	}
	c := b.contact()
	serial := int64(2)
	c.Policy, c.PolicyRefused = &serial, "signed by somebody else"
	b.deposit(c)
	var s Status
	if err := Ask(t.Context(), w.dir, "GET", "/status", nil, &s); err != nil || s.Policy == nil || s.Policy.Serial != 3 || !s.Policy.Trusted || *s.Boxes[0].Said.Policy != 2 || s.Boxes[0].Troubles[0].Kind != "policy" {
		t.Errorf("%+v %+v %v", s.Policy, s.Boxes, err)
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(w.dir, policyFile), signedPolicy(t, stranger, `{"serial":9,"settings":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &Hub{cfg: w.hub.cfg}
	if err := h.openPolicy(); err == nil || h.policy.Load() != nil {
		t.Errorf("a stranger's on the disk: %v", err)
	}
	if err := (&Config{Spool: w.spool, OrganisationKey: "hallig-update-1 x"}).check(); err == nil || !strings.Contains(err.Error(), "organisation_key") {
		t.Errorf("%v", err)
	}
}
