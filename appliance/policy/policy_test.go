// SPDX-License-Identifier: EUPL-1.2

package policy

import (
	"bytes"
	"strings"
	"testing"

	"hallig/appliance/signet"
)

const good = `{"serial": 7, "name": "Sommer", "settings": {"upload_limit_bytes": 5000000, "clock_ntp": ["ntp.example.org", "192.0.2.1"], "updates": {"window": "02:00-05:00"}}}`

// What is believed is what the organisation has signed, to the last byte.
func TestSigned(t *testing.T) {
	key, other := signet.Generate("Feuerwehr"), signet.Generate("jemand")
	raw, err := Sign([]byte("\xef\xbb\xbf"+good+"\r\n\n"), key)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Verify(raw, key.Public().Key)
	if err != nil || p.Serial != 7 || *p.Settings.UploadLimitBytes != 5000000 || p.Settings.MediaQuotaBytes != nil || p.Settings.Updates.Window != "02:00-05:00" || len(p.Settings.ClockNTP) != 2 {
		t.Fatalf("%+v %v", p, err)
	}
	if !strings.HasPrefix(string(raw), good+"\n"+word+" ") {
		t.Errorf("people read %s", raw)
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if p, err := Verify(bad, key.Public().Key); err == nil {
			t.Errorf("with another byte at %d (%q): %+v", i, raw[i], p)
		}
	}
	if _, err := Verify(raw, other.Public().Key); err == nil || !strings.Contains(err.Error(), "not by the organisation") {
		t.Errorf("another organisation: %v", err)
	}
	if _, err := Verify(raw, nil); err == nil {
		t.Error("believed without a key")
	}
	again, err := Sign(raw, other)
	if err != nil || bytes.Count(again, []byte(word)) != 1 {
		t.Errorf("signed anew: %s %v", again, err)
	}
	if _, by, err := Read(again); err != nil || !bytes.Equal(by, other.Public().Key) {
		t.Errorf("%v", err)
	}
	if _, _, err := Read([]byte(good)); err == nil || !strings.Contains(err.Error(), "hallig policy sign") {
		t.Errorf("unsigned: %v", err)
	}
	if _, _, err := Read(make([]byte, MaxBytes+1)); err == nil {
		t.Error("endless")
	}
	line := signet.Organisation.Text(key.Public())
	if k, err := signet.Organisation.Parse(line); err != nil || !bytes.Equal(k.Key, key.Public().Key) || k.Name != "Feuerwehr" {
		t.Errorf("%q: %+v %v", line, k, err)
	}
	if s, err := signet.Organisation.ParseFile(signet.Organisation.File(key)); err != nil || !bytes.Equal(s.Public().Key, key.Public().Key) {
		t.Errorf("%v", err)
	}
}

func TestRefused(t *testing.T) {
	key := signet.Generate("")
	for settings, want := range map[string]string{
		`{"serial":0,"settings":{}}`: "serial", `{"settings":{}}`: "serial", `{"serial":1,"settings":{"upload_limit":5}}`: "upload_limit", `{"serial":1,"settings":{"upload_limit_bytes":5}}`: "less than a kB",
		`{"serial":1,"settings":{"media_quota_bytes":-1}}`: "less than a MB", `{"serial":1,"settings":{"updates":{"window":"nachts"}}}`: "02:00-05:00",
		`{"serial":1,"settings":{"clock_ntp":["a b"]}}`: "a b", `{"serial":1,"settings":{}} {}`: "more than one", `{"serial":1.5}`: "serial", `{`: "read policy", `{"serial":1,"name":"` + strings.Repeat("x", 201) + `"}`: "name",
	} {
		if _, err := Sign([]byte(settings), key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", settings, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	key := signet.Generate("")
	raw, err := Sign([]byte(good), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(good))
	f.Add([]byte(word + " a b"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, by, err := Read(raw)
		if err != nil {
			return
		}
		if p.Serial < 1 {
			t.Errorf("%+v", p)
		}
		if _, err := Verify(raw, by); err != nil {
			t.Errorf("read and not verified: %v", err)
		}
	})
}
