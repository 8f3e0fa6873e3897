// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hallig/appliance"
	"hallig/appliance/provision"
)

func runVerb(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String() + e.String()
}

// TestFleet: what the terminal says follows --lang, and a wrong flag gets one line.
func TestFleet(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	dir, stick := t.TempDir(), t.TempDir()
	table, made := filepath.Join(dir, "boxen.csv"), filepath.Join(dir, "out")
	if err := os.WriteFile(table, []byte("label\nBox 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	prepare := []string{"fleet", "prepare", "--csv", table, "--out", made, "--domain", "feuerwehr.example", "--lang", "de", "--lock"}
	english := regexp.MustCompile(`\b(the|is|of|and|there|has)\b`)
	for _, x := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"fleet", "--lang", "de"}, 0, "--backup-recipient"},
		{[]string{"fleet", "--help", "--lang=de"}, 0, "WLAN des Zugangspunkts"},
		{[]string{"fleet", "prepare", "--loock", "--lang", "de"}, 2, "--loock gibt es nicht; hallig fleet nennt alle Schalter"},
		{[]string{"fleet", "prepare", "--lang", "de", "--csv"}, 2, "hinter --csv fehlt etwas"},
		{[]string{"fleet", "prepare", "--lang", "de"}, 2, "hallig fleet prepare --csv"},
		{prepare, 0, "allerersten Start"},
		{prepare, 1, "gibt es schon"},
		{[]string{"fleet", "stick", "--lang", "de", made, "Box-2", stick}, 1, "keine Box"},
		{[]string{"fleet", "stick", "--lang", "de", made, "Box-1", stick}, 0, "ist bereit für Box-1"},
	} {
		code, out := runVerb(t, x.args...)
		if code != x.code || !strings.Contains(out, x.says) || english.MatchString(out) || code != 0 && strings.Count(out, "\n") != 1 {
			t.Errorf("%q: %d, %s", x.args, code, out)
		}
	}
	if code, out := runVerb(t, "fleet"); code != 0 || !strings.Contains(out, "--lock") || !strings.Contains(out, "access point (router)") {
		t.Errorf("%d: %s", code, out)
	}
	if code, out := runVerb(t, "pair", "--nonsense"); code != 2 || strings.Count(out, "\n") != 1 || !strings.Contains(out, "hallig pair --help") {
		t.Errorf("%d: %s", code, out)
	}
	raw, err := os.ReadFile(filepath.Join(stick, "hallig.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := provision.Parse(raw); err != nil || f.Lock.Code == "" {
		t.Errorf("on the stick: %+v, %v", f, err)
	}
}

// TestBackupKey: the file for the spare box has it restore, and make backups under the same key afterwards.
func TestBackupKey(t *testing.T) {
	dir := t.TempDir()
	code, out := runVerb(t, "backup", "key", "--out", filepath.Join(dir, "key.txt"))
	if code != 0 {
		t.Fatal(out)
	}
	cfg, err := appliance.LoadProvisioned(t.TempDir(), filepath.Join(dir, "key.json"))
	if err != nil || cfg.Trouble.En != "" {
		t.Fatal(err, cfg.Trouble)
	}
	if b := cfg.Backup; len(b.Recipients) != 1 || !strings.Contains(out, b.Recipients[0]) || b.To != "stick" || cfg.Provisioned.Restore.Identity == "" {
		t.Errorf("%+v", cfg.Provisioned)
	}
	sheet, err := os.ReadFile(filepath.Join(dir, "key.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{cfg.Backup.Recipients[0], cfg.Provisioned.Restore.Identity[:20], "&#34;backup&#34;", "vom Stick löschen"} {
		if !strings.Contains(string(sheet), want) && !strings.Contains(strings.ReplaceAll(string(sheet), `"`, "&#34;"), want) {
			t.Errorf("the sheet lacks %q", want)
		}
	}
}
