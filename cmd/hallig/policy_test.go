// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/policy"
	"hallig/appliance/signet"
)

// An organisation makes a key, writes a policy and signs it; what no box could do is not signed.
func TestPolicyVerb(t *testing.T) {
	dir := t.TempDir()
	key, doc := filepath.Join(dir, "org.key"), filepath.Join(dir, "policy.json")
	code, out := runVerb(t, "policy", "key", "--out", key, "--name", "Feuerwehr")
	if code != 0 || !strings.Contains(out, "hallig-organisation-1 ") || !strings.Contains(out, " Feuerwehr") {
		t.Fatalf("%d %s", code, out)
	}
	trust, err := signet.Organisation.Parse(strings.TrimSpace(out[strings.Index(out, "hallig-organisation-1 "):]))
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := runVerb(t, "policy", "key", "--out", key); code != 1 {
		t.Error("a key was overwritten")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(doc, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"serial":1,"settings":{"upload_limit":1}}`)
	if code, out := runVerb(t, "policy", "sign", "--key", key, doc); code != 1 || !strings.Contains(out, "upload_limit") {
		t.Errorf("an unknown setting: %d %s", code, out)
	}
	write(`{"serial":3,"name":"Sommer","settings":{"upload_limit_bytes":5000000}}`)
	if code, out := runVerb(t, "policy", "check", doc); code != 1 || !strings.Contains(out, "hallig policy sign") {
		t.Errorf("unsigned: %d %s", code, out)
	}
	if code, out := runVerb(t, "policy", "sign", "--key", key, doc); code != 0 || !strings.Contains(out, "hallig-hub policy set") {
		t.Fatalf("%d %s", code, out)
	}
	if code, out := runVerb(t, "policy", "check", doc); code != 0 || !strings.Contains(out, "policy 3 Sommer") || !strings.Contains(out, `"upload_limit_bytes": 5000000`) {
		t.Errorf("%d %s", code, out)
	}
	raw, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := policy.Verify(raw, trust.Key); err != nil || p.Serial != 3 {
		t.Errorf("%+v %v", p, err)
	}
	if code, _ := runVerb(t, "policy", "sign", doc); code != 2 {
		t.Error("signed without a key")
	}
}
