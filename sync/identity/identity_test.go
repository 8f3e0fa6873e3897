// SPDX-License-Identifier: EUPL-1.2

package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/sync/federation"
)

func TestIdentityIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := Load(dir, "", false)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(first.Server, ".hallig.internal") || len(first.Server) != 16+len(".hallig.internal") {
		t.Errorf("default name is %q, want 16 characters under .hallig.internal", first.Server)
	}
	again, err := Load(dir, "", true)
	if err != nil {
		t.Fatal(err)
	}
	if again.Server != first.Server || again.Key.ID != first.Key.ID || !again.Box.Equal(first.Box) || !again.Key.Private.Equal(first.Key.Private) {
		t.Errorf("second start is another box: %s %s, first %s %s", again.Server, again.Key.ID, first.Server, first.Key.ID)
	}
	for _, name := range []string{BoxKeyFile, SigningKeyFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode().Perm())
		}
	}
}

func TestNameIsFixedWithTheFirstAccount(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir, "", false); err != nil {
		t.Fatal(err)
	}
	id, err := Load(dir, "box1.example", false)
	if err != nil || id.Server != "box1.example" {
		t.Fatalf("rename before the first account: got %q, %v", id.Server, err)
	}
	if id, err = Load(dir, "", true); err != nil || id.Server != "box1.example" {
		t.Errorf("start without --name: got %q, %v; want the name that was given", id.Server, err)
	}
	if _, err = Load(dir, "box2.example", true); err == nil || !strings.Contains(err.Error(), "box1.example") {
		t.Errorf("rename with accounts: got %v, want a refusal that names the box", err)
	}
}

func TestDamagedIdentity(t *testing.T) {
	for _, tt := range []struct{ file, content string }{
		{BoxKeyFile, "rubbish"}, {BoxKeyFile, ""},
		{SigningKeyFile, "hallig-signing-key 2 a.example ed25519:a AAAA"}, {SigningKeyFile, "x"},
		{SigningKeyFile, "hallig-signing-key 1 a.example ed25519:a AAAA"},
	} {
		dir := t.TempDir()
		if _, err := Load(dir, "", false); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir, "", true); err == nil || !strings.Contains(err.Error(), "restore it from the backup") {
			t.Errorf("%s %q: got %v, want the next step", tt.file, tt.content, err)
		}
		kept, err := os.ReadFile(filepath.Join(dir, tt.file))
		if err != nil || string(kept) != tt.content {
			t.Errorf("%s was overwritten: %q, %v", tt.file, kept, err)
		}
	}
	dir := t.TempDir()
	if _, err := Load(dir, "", false); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, SigningKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir, "", true); err == nil {
		t.Error("a lost signing key was replaced although accounts exist under its name")
	}
}

func FuzzSigningKey(f *testing.F) {
	f.Add("hallig-signing-key 1 a.example ed25519:a " + strings.Repeat("A", 43) + "=\nold ed25519:b " + strings.Repeat("A", 43) + "= 5\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := parseSigningKey(text)
		if !ok {
			return
		}
		name := filepath.Join(t.TempDir(), "k")
		if err := WriteSigning(name, s); err != nil {
			t.Fatal(err)
		}
		again, err := ReadSigning(name)
		if err != nil || again.Server != s.Server || again.Key.ID != s.Key.ID || len(again.Old) != len(s.Old) {
			t.Fatalf("%q reads as %+v, written and read again as %+v, %v", text, s, again, err)
		}
	})
}

// TestDelegatedFile: who holds a second key is written and read, forgotten, and never guessed from a damaged file.
func TestDelegatedFile(t *testing.T) {
	dir := t.TempDir()
	if d, err := ReadDelegated(dir); err != nil || d.ID != "" {
		t.Errorf("without a file: %+v, %v", d, err)
	}
	k, err := NewKeyCalled("hub_")
	if err != nil || !strings.HasPrefix(k.ID, "ed25519:hub_") || !event.ValidKeyID(k.ID) {
		t.Fatalf("key %q, %v", k.ID, err)
	}
	want := Delegated{DelegatedKey: federation.DelegatedKey{ID: k.ID, Key: publicKey(k.Private)}, Holder: "hub.example:8448"}
	if err := WriteDelegated(dir, want); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadDelegated(dir); err != nil || got.Holder != want.Holder || got.ID != want.ID || !got.Key.Equal(want.Key) {
		t.Errorf("read %+v, %v; want %+v", got, err, want)
	}
	for range 2 {
		if err := WriteDelegated(dir, Delegated{}); err != nil {
			t.Error(err)
		}
	}
	if d, err := ReadDelegated(dir); err != nil || d.ID != "" {
		t.Errorf("after it was forgotten: %+v, %v", d, err)
	}
	for _, text := range []string{"", "hallig-delegated-key 2 h.example ed25519:a " + strings.Repeat("A", 43) + "=", "hallig-delegated-key 1 h.example rsa:a " + strings.Repeat("A", 43) + "=",
		"hallig-delegated-key 1 h.example ed25519:a AAAA", "hallig-delegated-key 1 h/x ed25519:a " + strings.Repeat("A", 43) + "="} {
		if err := os.WriteFile(filepath.Join(dir, DelegatedFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := ReadDelegated(dir); err == nil || d.ID != "" {
			t.Errorf("%q reads as %+v", text, d)
		}
	}
}
