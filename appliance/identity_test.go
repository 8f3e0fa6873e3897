// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIdentityIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := loadIdentity(dir, "", false)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(first.server, ".hallig.internal") || len(first.server) != 16+len(".hallig.internal") {
		t.Errorf("default name is %q, want 16 characters under .hallig.internal", first.server)
	}
	again, err := loadIdentity(dir, "", true)
	if err != nil {
		t.Fatal(err)
	}
	if again.server != first.server || again.key.ID != first.key.ID || !again.box.Equal(first.box) || !again.key.Private.Equal(first.key.Private) {
		t.Errorf("second start is another box: %s %s, first %s %s", again.server, again.key.ID, first.server, first.key.ID)
	}
	for _, name := range []string{boxKeyFile, signingKeyFile} {
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
	if _, err := loadIdentity(dir, "", false); err != nil {
		t.Fatal(err)
	}
	id, err := loadIdentity(dir, "box1.example", false)
	if err != nil || id.server != "box1.example" {
		t.Fatalf("rename before the first account: got %q, %v", id.server, err)
	}
	if id, err = loadIdentity(dir, "", true); err != nil || id.server != "box1.example" {
		t.Errorf("start without --name: got %q, %v; want the name that was given", id.server, err)
	}
	if _, err = loadIdentity(dir, "box2.example", true); err == nil || !strings.Contains(err.Error(), "box1.example") {
		t.Errorf("rename with accounts: got %v, want a refusal that names the box", err)
	}
}

func TestDamagedIdentity(t *testing.T) {
	for _, tt := range []struct{ file, content string }{
		{boxKeyFile, "rubbish"}, {boxKeyFile, ""},
		{signingKeyFile, "hallig-signing-key 2 a.example ed25519:a AAAA"}, {signingKeyFile, "x"},
		{signingKeyFile, "hallig-signing-key 1 a.example ed25519:a AAAA"},
	} {
		dir := t.TempDir()
		if _, err := loadIdentity(dir, "", false); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, tt.file), []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadIdentity(dir, "", true); err == nil || !strings.Contains(err.Error(), "restore it from the backup") {
			t.Errorf("%s %q: got %v, want the next step", tt.file, tt.content, err)
		}
		kept, err := os.ReadFile(filepath.Join(dir, tt.file))
		if err != nil || string(kept) != tt.content {
			t.Errorf("%s was overwritten: %q, %v", tt.file, kept, err)
		}
	}
	dir := t.TempDir()
	if _, err := loadIdentity(dir, "", false); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, signingKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(dir, "", true); err == nil {
		t.Error("a lost signing key was replaced although accounts exist under its name")
	}
}
