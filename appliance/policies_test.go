// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/clock"
	"hallig/appliance/policy"
	"hallig/appliance/provision"
	"hallig/appliance/signet"
	"hallig/sync/hub"
	"hallig/tools/testpeer"
)

func signedPolicy(t *testing.T, key signet.Secret, text string) []byte {
	t.Helper()
	raw, err := policy.Sign([]byte(text), key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestPolicy: what the organisation has signed holds at once and over a restart, where the box itself says nothing; and nothing else changes anything.
func TestPolicy(t *testing.T) {
	key, stranger := signet.Generate("org"), signet.Generate("x")
	cfg := Config{Data: t.TempDir(), ServerName: "box1.test", OrganisationKey: signet.Organisation.Text(key.Public()), MediaQuotaBytes: 3 << 30, P2P: P2PConfig{Off: true}}
	b := startWith(t, cfg)
	if p := b.policyStatus(); p == nil || p.Serial != 0 {
		t.Errorf("before: %+v", p)
	}
	first := signedPolicy(t, key, `{"serial":3,"name":"Sommer","settings":{"upload_limit_bytes":5000,"media_quota_bytes":2000000,"clock_ntp":["ntp.test"],"updates":{"automatic":true,"window":"02:00-05:00"}}}`)
	if err := b.takePolicy(first); err != nil {
		t.Fatal(err)
	}
	holds := func(when string) {
		t.Helper()
		if got := b.media.MaxUpload(); got != 5000 {
			t.Errorf("%s: uploads of %d", when, got)
		}
		if _, quota := b.mediaLimits(); quota != 3<<30 {
			t.Errorf("%s: the box's own word is %d", when, quota)
		}
		if u := b.updating(); !u.Automatic || u.Window != "02:00-05:00" {
			t.Errorf("%s: updates %+v", when, u)
		}
		if s, q := b.timeServers(); !slices.Equal(s, []string{"ntp.test"}) || q != clock.Exact {
			t.Errorf("%s: time servers %v %v", when, s, q)
		}
	}
	holds("at once")
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"the same": {first, "not above"}, "older": {signedPolicy(t, key, `{"serial":2,"settings":{"upload_limit_bytes":9000}}`), "not above"}, "a stranger's": {signedPolicy(t, stranger, `{"serial":9,"settings":{"upload_limit_bytes":9000}}`), "not by the organisation"},
		"changed": {bytes.Replace(first, []byte("5000"), []byte("9000"), 1), "changed after"}, "nothing": {nil, "no signature"},
	} {
		if err := b.takePolicy(tt.raw); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(b.policyStatus().Refused, tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		holds(name)
	}
	b.end()
	b = startWith(t, cfg)
	holds("after a restart")
	var s admin.Status
	if err := Ask(t.Context(), cfg.Data, "GET", "/status", nil, &s); err != nil || s.Policy == nil || s.Policy.Serial != 3 || s.Policy.Name != "Sommer" || len(s.Policy.Settings) != 4 {
		t.Fatalf("%+v %v", s.Policy, err)
	}
	for _, x := range s.Policy.Settings {
		if x.Own != (x.Name == "media_quota_bytes") {
			t.Errorf("%+v", x)
		}
	}
	b.cfg.Provisioned.Updates = &provision.Updates{} // hallig.json says {"automatic": false}
	if b.updating().Automatic {
		t.Error("the box's own hallig.json does not come first")
	}
	b.end()
	if err := os.WriteFile(filepath.Join(cfg.Data, policyFile), signedPolicy(t, stranger, `{"serial":9,"settings":{"upload_limit_bytes":9000}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if b = startWith(t, cfg); b.policyStatus().Serial != 0 || b.media.MaxUpload() != 50<<20 {
		t.Errorf("a stranger's on the disk holds: %+v", b.policyStatus())
	}
	if err := (&Config{OrganisationKey: "x"}).check(); err == nil || !strings.Contains(err.Error(), "organisation_key") {
		t.Errorf("%v", err)
	}
}

// TestPolicyFromTheHub: the box hears of it at contact, and the hub where it holds.
func TestPolicyFromTheHub(t *testing.T) {
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key := signet.Generate("org")
	h, dir, _ := startHub(t, ca, nil)
	cfg := Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"},
		Provisioned: provision.File{Organisation: provision.Organisation{Key: signet.Organisation.Text(key.Public())}}}
	b := startWith(t, cfg)
	var code hub.Code
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "the contact", func() bool { return b.hubStatus().InReach && !b.hubStatus().Heard.IsZero() })
	said := func() hub.BoxStatus {
		t.Helper()
		var s hub.Status
		if err := hub.Ask(t.Context(), dir, "GET", "/status", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s.Boxes[0]
	}
	knows := func(serial int64) bool { p := said().Said.Policy; return p != nil && int64(*p) == serial }
	awaitHub(t, "the hub to know that there is none", func() bool { return knows(0) })
	if err := hub.Ask(t.Context(), dir, "POST", "/policy", bytes.NewReader(signedPolicy(t, key, `{"serial":3,"settings":{"upload_limit_bytes":5000}}`)), nil); err != nil {
		t.Fatal(err)
	}
	contactNow(t, b)
	awaitHub(t, "the policy", func() bool { return b.media.MaxUpload() == 5000 && knows(3) })
	if err := hub.Ask(t.Context(), dir, "POST", "/policy", bytes.NewReader(signedPolicy(t, signet.Generate("x"), `{"serial":4,"settings":{"upload_limit_bytes":9000}}`)), nil); err != nil {
		t.Fatal(err) // this hub was not told whose key it is
	}
	contactNow(t, b)
	contactNow(t, b) // now it tells why
	awaitHub(t, "the hub to hear why", func() bool { return strings.Contains(said().Said.PolicyRefused, "not by the organisation") })
	if b.media.MaxUpload() != 5000 || !knows(3) {
		t.Errorf("a stranger's: uploads of %d, %+v", b.media.MaxUpload(), said().Said)
	}
}

// TestContactAgain: a box that learns the time from its hub says so at once, and is not shown as a box with a wrong clock until its next contact.
func TestContactAgain(t *testing.T) {
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h, dir, _ := startHub(t, ca, nil)
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"},
		Released: time.Now().AddDate(-1, 0, 0), system: func() (clock.Reading, bool) { return clock.Reading{}, false }})
	if b.clock.Trusted() {
		t.Fatal("the box knows the time already")
	}
	var code hub.Code
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "the hub to hear that the box knows the time", func() bool {
		var s hub.Status
		if err := hub.Ask(t.Context(), dir, "GET", "/status", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s.Boxes[0].Said.ClockGood && s.Boxes[0].Off().Abs() < time.Minute
	})
}
