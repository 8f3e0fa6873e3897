// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/signet"
	"hallig/sync/peer"
)

// TestFleetRoster: from the key to a roster that revokes, each step by its verb.
func TestFleetRoster(t *testing.T) {
	t.Setenv("LC_ALL", "C")
	dir := t.TempDir()
	key, roster, lines := filepath.Join(dir, "root.key"), filepath.Join(dir, "fleet.roster"), filepath.Join(dir, "lines")
	call := func(want int, args ...string) string {
		t.Helper()
		var out, errOut bytes.Buffer
		if got := run(t.Context(), append([]string{"fleet"}, args...), &out, &errOut); got != want {
			t.Errorf("%s: exit %d, want %d: %s", strings.Join(args, " "), got, want, errOut.String())
		}
		return out.String() + errOut.String()
	}
	secret := signet.Generate("Feuerwehr")
	public := secret.Public().Key
	if err := os.WriteFile(key, signet.Organisation.File(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	line := func(name string, serial uint64) string {
		seed := bytes.Repeat([]byte(name), 32)[:32]
		box := ed25519.NewKeyFromSeed(seed)
		raw, err := peer.State(box, peer.Peer{Server: name + ".test", Serial: serial, SigningKeys: map[string]ed25519.PublicKey{"ed25519:1": box.Public().(ed25519.PublicKey)}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := peer.ReadStatement(raw)
		if err != nil {
			t.Fatal(err)
		}
		return peer.FormatMember(peer.Member{Peer: p, Label: "Box " + name}) + "\n"
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(lines, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func() peer.Fleet {
		t.Helper()
		raw, err := os.ReadFile(roster)
		if err != nil {
			t.Fatal(err)
		}
		f, err := peer.ReadFleet(raw, public)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	names := func(f peer.Fleet) (in, out string) {
		for _, m := range f.Boxes {
			in += m.Server[:1]
		}
		for _, r := range f.Revoked {
			out += r.Server[:1] + "=" + r.Reason
		}
		return in, out
	}
	sign := func(want int, args ...string) string {
		return call(want, append([]string{"roster", "sign", roster, "--key", key}, args...)...)
	}
	sign(1, "--revoke", "a.test", "--reason", "stolen") // there is no roster yet
	write("# two boxes\n" + line("a", 5) + "\n" + line("b", 1))
	sign(0, "--boxes", lines)
	first := read()
	if in, out := names(first); len(in) != 2 || !strings.Contains(in, "a") || out != "" || first.Serial == 0 {
		t.Errorf("boxes %q, revoked %q, serial %d", in, out, first.Serial)
	}
	write(line("a", 4) + line("c", 1))
	sign(0, "--boxes", lines)
	if f := read(); f.Serial <= first.Serial || len(f.Boxes) != 3 {
		t.Errorf("serial %d after %d, %d boxes", f.Serial, first.Serial, len(f.Boxes))
	} else {
		for _, m := range f.Boxes {
			if m.Server == "a.test" && (m.Peer.Serial != 5 || m.Label != "Box a") {
				t.Errorf("a has statement %d", m.Peer.Serial)
			}
		}
	}
	if said := sign(2, "--revoke", "b.test"); !strings.Contains(said, "lacks --reason") {
		t.Errorf("no reason: %s", said)
	}
	sign(0, "--revoke", "b.test", "--reason", "stolen")
	if in, out := names(read()); len(in) != 2 || out != "b=stolen" {
		t.Errorf("boxes %q, revoked %q", in, out)
	}
	write(line("b", 2))
	if said := sign(1, "--boxes", lines); !strings.Contains(said, "--readmit b.test") {
		t.Errorf("a revoked box joins: %s", said)
	}
	sign(0, "--readmit", "b.test", "--boxes", lines)
	sign(0, "--remove", "c.test")
	if in, out := names(read()); len(in) != 2 || !strings.Contains(in, "b") || out != "" {
		t.Errorf("boxes %q, revoked %q", in, out)
	}
	for _, bad := range []string{"nonsense", line("d", 1)[:60], strings.Replace(line("d", 1), "d.test", "e.test", 1)} {
		write(bad)
		if said := sign(1, "--boxes", lines); !strings.Contains(said, "line 1") {
			t.Errorf("%.20q: %s", bad, said)
		}
	}
	other := filepath.Join(dir, "other.key")
	if err := os.WriteFile(other, signet.Organisation.File(signet.Generate("")), 0o600); err != nil {
		t.Fatal(err)
	}
	write(line("d", 1))
	if said := call(1, "roster", "sign", roster, "--key", other, "--boxes", lines); !strings.Contains(said, "another root") {
		t.Errorf("another root goes on: %s", said)
	}
	if said := call(0, "roster", "show", roster); !strings.Contains(said, "a.test  Box a") || !strings.Contains(said, signet.Organisation.Text(signet.Key{Key: public})) {
		t.Error(said)
	}
	if said := call(0, "roster", "show", roster, "--json"); !strings.Contains(said, `"server_name": "b.test"`) {
		t.Error(said)
	}
	call(2, "roster", "draw")
}
