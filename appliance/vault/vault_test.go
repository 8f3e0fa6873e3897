// SPDX-License-Identifier: EUPL-1.2

package vault

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const typed = "k7mq-2rt9 WXYZ-4D6f"

func mustCode(t *testing.T, s string) Key {
	t.Helper()
	k, err := Code(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newVault makes a vault of 64 MiB in a file.
func newVault(t *testing.T) (name, keyFile string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "partition")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64<<20 + DataStart); err != nil {
		t.Fatal(err)
	}
	id := NewID()
	text, key := NewKeyFile(id)
	if err := Make(f, f.Sync, id, key, mustCode(t, typed)); err != nil {
		t.Fatal(err)
	}
	return name, text
}

func TestWhoOpens(t *testing.T) {
	name, keyFile := newVault(t)
	id, key, err := ParseKeyFile([]byte(keyFile))
	if err != nil {
		t.Fatal(err)
	}
	for what, k := range map[string]Key{"the key file": key, "the code": mustCode(t, typed), "the code, typed carelessly": mustCode(t, "K7MQ2RT9wxyz4d6F")} {
		d, err := Open(name, k)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		d.Close()
	}
	_, other := NewKeyFile(id)
	for what, k := range map[string]Key{"another key": other, "another code": mustCode(t, typed+"1"), "no key": {}} {
		if _, err := Open(name, k); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	if _, err := Code("short-code"); err == nil {
		t.Error("a short code was taken")
	}
	for _, text := range []string{"", "hallig-key-1 x y", strings.Replace(keyFile, "=", "", 1), strings.Replace(keyFile, "hallig-key-1", "hallig-key-2", 1)} {
		if _, _, err := ParseKeyFile([]byte(text)); err == nil {
			t.Errorf("key file %q was taken", text)
		}
	}
}

// TestSectors writes and reads through an opened vault, and looks for the plain text below.
func TestSectors(t *testing.T) {
	name, _ := newVault(t)
	d, err := Open(name, mustCode(t, typed))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	scratch, _ := newBuffer(maxIO)
	defer scratch.free()
	secret := bytes.Repeat([]byte("Moin, die Deichkrone bricht bei Kilometer 12. "), 1500)[:maxIO/2]
	for _, off := range []int64{0, 4096, 1 << 20, d.Size() - int64(len(secret))} {
		if err := d.write(secret, scratch.bytes, off); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(secret))
		b, _ := newBuffer(maxIO)
		if err := d.read(b.bytes[:len(got)], off); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.bytes[:len(got)], secret) {
			t.Errorf("at %d: what was read is not what was written", off)
		}
		b.free()
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("Deichkrone")) {
		t.Error("plain text lies on the disk")
	}
	a, b := raw[DataStart:DataStart+sectorSize], raw[DataStart+4096:DataStart+4096+sectorSize]
	if bytes.Equal(a, b) {
		t.Error("the same text in two places looks the same")
	}
	for _, bad := range []struct {
		n   int
		off int64
	}{{512, d.Size()}, {512, -512}, {100, 0}, {512, 100}} {
		if err := d.write(make([]byte, bad.n), scratch.bytes, bad.off); err == nil {
			t.Errorf("%d bytes at %d were written", bad.n, bad.off)
		}
	}
}

// TestHeaderCut cuts the power in the middle of each write of a header: the vault opens with the old one or the new one.
func TestHeaderCut(t *testing.T) {
	old := Header{ID: NewID(), Generation: 1, Cipher: cipherName}
	master := bytes.Repeat([]byte{7}, masterSize)
	_, key := NewKeyFile(old.ID)
	s, err := key.slot(old.ID, master)
	if err != nil {
		t.Fatal(err)
	}
	old.Slots = []Slot{s}
	disk := memory(make([]byte, DataStart))
	if err := old.write(disk, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	next := old
	next.Generation, next.Slots = 2, append(next.Slots, s)
	raw, err := next.encode()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	seen := map[uint64]int{}
	for range 500 {
		d := memory(bytes.Clone(disk))
		at := rng.IntN(2) * headerSize // the first copy is cut, or the second after the first was flushed
		if at == headerSize {
			copy(d, raw)
		}
		for i := 0; i < headerSize; i += sectorSize { // any of the sectors may have been written
			if rng.IntN(2) == 0 {
				copy(d[at+i:], raw[i:i+sectorSize])
			}
		}
		h, err := ReadHeader(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := h.unseal(key); err != nil || !bytes.Equal(got, master) {
			t.Fatalf("generation %d: %v", h.Generation, err)
		}
		seen[h.Generation]++
	}
	if seen[1] == 0 || seen[2] == 0 {
		t.Errorf("generations after the cuts: %v; want both", seen)
	}
	if _, err := ReadHeader(memory(make([]byte, DataStart))); !errors.Is(err, ErrNone) {
		t.Errorf("an empty partition: %v, want ErrNone", err)
	}
}

type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// TestMounted puts a real file system on a real device, and finds its file again after all was closed.
func TestMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for FUSE and loop devices")
	}
	for _, need := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(need); err != nil {
			t.Skipf("this machine has no %s", need)
		}
	}
	name, keyFile := newVault(t)
	_, key, _ := ParseKeyFile([]byte(keyFile))
	mnt := t.TempDir()
	for round := range 2 {
		d, err := Open(name, key)
		if err != nil {
			t.Fatal(err)
		}
		v, err := d.Attach(filepath.Join(t.TempDir(), "fuse"))
		if err != nil {
			t.Skipf("this machine does not let us attach: %v", err)
		}
		if round == 0 {
			if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", v.Path).CombinedOutput(); err != nil {
				v.Detach()
				t.Skipf("no file system to try with: %v %s", err, out)
			}
		}
		if err := unix.Mount(v.Path, mnt, "ext4", unix.MS_NODEV, ""); err != nil {
			v.Detach()
			t.Fatalf("round %d: mount: %v", round, err)
		}
		file := filepath.Join(mnt, "Lage.txt")
		if round == 0 {
			err = os.WriteFile(file, []byte(strings.Repeat("Pegel Husum 4,2 m\n", 10_000)), 0o600)
		} else {
			var got []byte
			if got, err = os.ReadFile(file); err == nil && string(got) != strings.Repeat("Pegel Husum 4,2 m\n", 10_000) {
				t.Error("the file is another one")
			}
		}
		if err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Fatal(err)
		}
		if err := v.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, plain := range []string{"Pegel Husum", "Lage.txt"} {
		if bytes.Contains(raw, []byte(plain)) {
			t.Errorf("%q can be read on the disk", plain)
		}
	}
}

func FuzzHeader(f *testing.F) {
	h := Header{ID: NewID(), Generation: 3, Cipher: cipherName, Slots: []Slot{{Kind: "file", Salt: make([]byte, 16), Sealed: make([]byte, 104)}}}
	raw, err := h.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < headerSize {
			b = append(b, make([]byte, headerSize-len(b))...)
		}
		got, err := decode(b[:headerSize])
		if err != nil {
			return
		}
		again, err := got.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decode(again); err != nil || back.Generation != got.Generation {
			t.Errorf("a header that was read cannot be written: %v", err)
		}
	})
}
