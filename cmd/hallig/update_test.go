// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/update"
)

func runUpdate(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"update"}, args...), &o, &e)
	return code, o.String() + e.String()
}

// Two people release: each has a key, both sign, and a box that demands both takes the file.
func TestReleaseByTwo(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	var keys []update.PrivateKey
	for _, who := range []string{"anna", "bert"} {
		code, out := runUpdate(t, "key", "--out", at(who), "--name", who)
		if code != 0 || !strings.Contains(out, "hallig-update-1 ") {
			t.Fatalf("%d: %s", code, out)
		}
		if code, out := runUpdate(t, "key", "--out", at(who)); code != 1 {
			t.Errorf("a key is written over: %d, %s", code, out)
		}
		raw, err := os.ReadFile(at(who))
		if err != nil {
			t.Fatal(err)
		}
		k, err := update.ParsePrivateKey(raw)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	trust := `{"threshold":2,"keys":["` + keys[0].Public().String() + `","` + keys[1].Public().String() + `"]}`
	if err := os.WriteFile(at("update.json"), []byte(trust), 0o600); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	root := bytes.NewReader([]byte("a root"))
	m := update.Manifest{Product: update.Product, Board: "amd64", Version: "1.2.3", Release: 7, Schema: 8}
	if _, err := update.Write(&file, m, []update.Source{{File: update.RootPart, Data: root, Size: root.Size()}}, keys[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("x.hallig-update"), file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := runUpdate(t, "check", at("x.hallig-update"), "--keys", at("update.json")); code != 1 || !strings.Contains(out, "1 of the 2 signatures") {
		t.Errorf("one signature: %d, %s", code, out)
	}
	if code, out := runUpdate(t, "sign", "--key", at("bert"), at("x.hallig-update")); code != 0 || !strings.Contains(out, "bert") {
		t.Fatalf("%d: %s", code, out)
	}
	if code, out := runUpdate(t, "check", at("x.hallig-update"), "--keys", at("update.json")); code != 0 || !strings.Contains(out, "1.2.3") || !strings.Contains(out, "takes it") {
		t.Errorf("both signatures: %d, %s", code, out)
	}
	raw, err := os.ReadFile(at("x.hallig-update"))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(at("x.hallig-update"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	if code, out := runUpdate(t, "check", at("x.hallig-update")); code != 1 || !strings.Contains(out, "beschädigt") {
		t.Errorf("an altered file: %d, %s", code, out)
	}
}

func TestUpdateUsage(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	none := filepath.Join(t.TempDir(), "no.sock")
	for name, x := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":               {nil, 2, "hallig update FILE"},
		"two files":             {[]string{"a", "b"}, 2, "hallig update FILE"},
		"sign without key":      {[]string{"sign", "x"}, 2, "--key"},
		"no image":              {[]string{"status", "--steward", none}, 1, "there is no steward"},
		"no such file":          {[]string{"/no/such/file", "--steward", none}, 1, "no such file"},
		"nothing to go back to": {[]string{"back", "--steward", none, "--data", t.TempDir()}, 1, "no copy of the database"},
	} {
		if code, out := runUpdate(t, x.args...); code != x.code || !strings.Contains(out, x.says) {
			t.Errorf("%s: %d, %s", name, code, out)
		}
	}
}
