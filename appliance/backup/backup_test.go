// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// box is a data directory with what a real one holds; its database is bytes.
type box struct {
	Source
	t      *testing.T
	secret string
	place  string
}

func newBox(t *testing.T) *box {
	public, secret, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := ParseRecipients([]string{public})
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, secret: secret, place: t.TempDir()}
	b.Source = Source{
		Data: t.TempDir(), ServerName: "box7.feuerwehr.example", BoxID: "ABCDEFGHIJKLMNOP", Version: "1", Now: time.Unix(1_790_000_000, 0), Recipients: to, Keep: 3,
		partBytes: 10_000, archive: 20_000,
		Snapshot: func(_ context.Context, path string) error {
			raw, err := os.ReadFile(filepath.Join(b.Data, "hallig.db"))
			return errors.Join(err, os.WriteFile(path, append([]byte("copy of "), raw...), 0o600))
		},
	}
	b.put("hallig.db", random(25_000))
	for _, name := range []string{"hallig.db-wal", "lock", ".renameio-123", "backup/snapshot.db", "media/temp/x", "media/thumb/y", "kept/hallig-backup/x/backup.json", "backup/out/x"} {
		b.put(name, "no part of it")
	}
	b.put("box.key", "the box key")
	b.put("signing.key", "the signing key")
	b.put("tls/ca.pem", "authority")
	b.put("config.json", "{}")
	return b
}

func random(n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rand.Uint32())
	}
	return string(out)
}

func (b *box) put(name, text string) {
	b.t.Helper()
	name = filepath.Join(b.Data, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) upload(text string) string {
	sum := sha256.Sum256([]byte(text))
	name := digest(sum).path()
	b.put(name, text)
	return name
}

func (b *box) backUp() Found {
	b.t.Helper()
	b.Now = b.Now.Add(time.Hour)
	f, err := Make(b.t.Context(), b.place, b.Source)
	if err != nil {
		b.t.Fatal(err)
	}
	if f.Err != nil {
		b.t.Fatal(f.Err)
	}
	return f
}

func (b *box) ids() []age.Identity {
	b.t.Helper()
	ids, err := ParseIdentities("# created by a test\r\n" + strings.ToLower(b.secret[:20]) + " " + b.secret[20:] + "\r\n")
	if err != nil {
		b.t.Fatal(err)
	}
	return ids
}

// same compares a restored directory with the box.
func (b *box) same(data string, media ...string) {
	b.t.Helper()
	want := map[string]string{"restored": "", "hallig.db": "copy of " + b.read(b.Data, "hallig.db")}
	for _, name := range append([]string{"box.key", "signing.key", "tls/ca.pem", "config.json"}, media...) {
		want[name] = b.read(b.Data, name)
	}
	got := map[string]string{}
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(data, path)
		if !strings.HasPrefix(rel, "backup/") {
			got[rel] = b.read(data, rel)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	for name, text := range want {
		if got[name] != text {
			b.t.Errorf("%s came back as %.40q (%d bytes), want %.40q (%d bytes)", name, got[name], len(got[name]), text, len(text))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			b.t.Errorf("%s came back", name)
		}
	}
}

func (b *box) read(dir, name string) string {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	return string(raw)
}

func TestThereAndBack(t *testing.T) {
	b := newBox(t)
	var media []string
	for i := range 6 {
		media = append(media, b.upload(fmt.Sprint(i)+random(9_000)))
	}
	f := b.backUp()
	if len(f.Parts) < 3 || len(f.Media) < 2 || f.Number != 1 {
		t.Errorf("got %d parts, %d media archives, number %d; the small limits must split both", len(f.Parts), len(f.Media), f.Number)
	}
	for _, p := range f.Parts {
		if p.Size > 10_000 {
			t.Errorf("part %s has %d bytes", p.Name, p.Size)
		}
	}
	for _, from := range []string{b.place, filepath.Join(b.place, Folder), f.Home, f.Path, filepath.Join(f.Path, "backup.json")} {
		data := filepath.Join(t.TempDir(), "data")
		r, err := Restore(t.Context(), from, Target{Data: data, Identities: b.ids()})
		if err != nil {
			t.Fatal(err)
		}
		if r.ServerName != b.ServerName || r.BoxID != b.BoxID || r.MediaFiles != 6 || len(r.Missing) > 0 {
			t.Errorf("got %+v", r)
		}
		b.same(data, media...)
		if !JustRestored(data) || Begun(data) != nil || JustRestored(data) {
			t.Error("the mark of the restore does not come and go")
		}
	}
}

// TestNothingReadable: what lies on the stick tells neither keys nor messages nor pictures nor their hashes.
func TestNothingReadable(t *testing.T) {
	b := newBox(t)
	b.put("hallig.db", strings.Repeat("secret message ", 100))
	media := b.upload("secret picture")
	f := b.backUp()
	err := filepath.WalkDir(b.place, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text := b.read("/", path) + path
		for _, secret := range []string{"secret message", "the box key", "the signing key", "authority", "secret picture", filepath.Base(media)} {
			if strings.Contains(text, secret) {
				t.Errorf("%s tells %q", path, secret)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Parts[0].Size > 10_000 {
		t.Errorf("100 equal sentences take %d bytes", f.Parts[0].Size)
	}
}

// TestOnlyNewMedia: a second backup writes only what is new, on each of two sticks, and an archive that nobody needs goes.
func TestOnlyNewMedia(t *testing.T) {
	b := newBox(t)
	first := b.upload(random(5000))
	a1 := b.backUp()
	second := b.upload(random(5000))
	a2 := b.backUp()
	if len(a1.Media) != 1 || len(a2.Media) != 2 {
		t.Fatalf("%d and %d archives, want 1 and 2", len(a1.Media), len(a2.Media))
	}
	stick1 := b.place
	b.place = t.TempDir()
	other := b.backUp()
	if len(other.Media) != 1 || other.Media[0].Size < 10_000 || other.Number != 1 {
		t.Errorf("the other stick has %+v, want both files in one archive", other.Media)
	}
	b.place = stick1
	if a3 := b.backUp(); len(a3.Media) != 2 || a3.Number != 3 {
		t.Errorf("back on the first stick: %d archives, number %d; want 2, 3", len(a3.Media), a3.Number)
	}
	data := filepath.Join(t.TempDir(), "data")
	if _, err := Restore(t.Context(), b.place, Target{Data: data, Identities: b.ids()}); err != nil {
		t.Fatal(err)
	}
	b.same(data, first, second)
	// Most of the media go: the rest is written anew, and the old archives go with the backups that named them.
	for _, name := range []string{first, second} {
		if err := os.Remove(filepath.Join(b.Data, name)); err != nil {
			t.Fatal(err)
		}
	}
	b.upload(random(100))
	for range 3 {
		b.backUp()
	}
	left, err := os.ReadDir(filepath.Join(a1.Home, "media"))
	if err != nil || len(left) != 1 {
		t.Errorf("%d archives are left, want the new one: %v", len(left), err)
	}
}

func TestKeepsTheLast(t *testing.T) {
	b := newBox(t)
	for range 5 {
		b.backUp()
	}
	found, err := List(b.place)
	if err != nil || len(found) != 3 || found[0].Number != 3 || found[2].Number != 5 {
		t.Fatalf("got %+v, %v; want numbers 3 to 5", found, err)
	}
	// A damaged one is not counted for a good one.
	if err := os.Truncate(filepath.Join(found[2].Path, dataFile), 100); err != nil {
		t.Fatal(err)
	}
	b.backUp()
	found, err = List(b.place)
	if err != nil || len(found) != 4 || found[2].Err == nil || found[3].Err != nil {
		t.Errorf("got %d, %v; want three good ones and the damaged one", len(found), err)
	}
}

// TestLittleRoom: older backups make room, the newest good one never does.
func TestLittleRoom(t *testing.T) {
	b := newBox(t)
	for range 3 {
		b.backUp()
	}
	used := func() int64 {
		var n int64
		_ = filepath.WalkDir(b.place, func(_ string, d fs.DirEntry, _ error) error {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				n += info.Size()
			}
			return nil
		})
		return n
	}
	size := used() + 16<<20 + 5_000
	b.Free = func(string) (int64, error) { return size - used(), nil }
	b.backUp()
	if found, _ := List(b.place); len(found) != 3 || found[0].Number != 2 || found[2].Number != 4 {
		t.Errorf("got %+v", found)
	}
	b.Free = func(string) (int64, error) { return 1000, nil }
	_, err := Make(t.Context(), b.place, b.Source)
	var full *Full
	if !errors.As(err, &full) {
		t.Fatalf("got %v, want Full", err)
	}
	if found, _ := List(b.place); len(found) != 1 || found[0].Number != 4 || found[0].Err != nil {
		t.Errorf("what is left: %+v", found)
	}
}

// TestInterrupted: whatever moment a backup stops at, no half one is seen, the one before is good, and the next one clears up.
func TestInterrupted(t *testing.T) {
	b := newBox(t)
	media := b.upload(random(30_000))
	good := b.backUp()
	more := b.upload(random(30_000))
	for at := 1; ; at++ {
		ctx, stop := context.WithCancel(t.Context())
		n := 0
		s := b.Source
		s.Note = func(string, int64, int64) {
			if n++; n == at {
				stop()
			}
		}
		s.Now = s.Now.Add(time.Minute)
		_, err := Make(ctx, b.place, s)
		stop()
		if n < at {
			if err != nil || at < 5 {
				t.Fatalf("not interrupted (%d moments): %v", n, err)
			}
			break
		}
		if err == nil {
			continue // too late to stop it
		}
		found, lerr := List(b.place)
		if lerr != nil || found[len(found)-1].Err != nil {
			t.Fatalf("stopped at %d: %+v, %v", at, found, lerr)
		}
		if found[0].Path != good.Path {
			t.Fatalf("stopped at %d: the good one is gone", at)
		}
		if b.read(b.Data, "backup/snapshot.db") != "" {
			t.Errorf("stopped at %d: the copy of the database stayed", at)
		}
	}
	b.backUp()
	data := filepath.Join(t.TempDir(), "data")
	if _, err := Restore(t.Context(), b.place, Target{Data: data, Identities: b.ids()}); err != nil {
		t.Fatal(err)
	}
	b.same(data, media, more)
	err := filepath.WalkDir(b.place, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, fresh) {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBadMedium: a stick that does not give back what was written to it makes no backup, and the one before stays.
func TestBadMedium(t *testing.T) {
	for _, stage := range []string{"verify", "verify media"} {
		b := newBox(t)
		good := b.backUp()
		b.upload(random(3000))
		spoiled := false
		s := b.Source
		s.Note = func(now string, _, _ int64) {
			if now != stage {
				return
			}
			_ = filepath.WalkDir(b.place, func(path string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() && strings.Contains(path, fresh) && !spoiled {
					spoiled = true
					return flip(path, 2000)
				}
				return err
			})
		}
		_, err := Make(t.Context(), b.place, s)
		if err == nil || !spoiled {
			t.Errorf("%s: a bad medium was not noticed (spoiled %v)", stage, spoiled)
		}
		if found, err := List(b.place); err != nil || len(found) != 1 || found[0].Path != good.Path || found[0].Err != nil {
			t.Errorf("%s: %+v, %v", stage, found, err)
		}
	}
}

// TestChangedPart: who copies without the key still notices what was changed.
func TestChangedPart(t *testing.T) {
	b := newBox(t)
	f := b.backUp()
	to := t.TempDir()
	if c, err := Copy(t.Context(), b.place, b.ServerName, to); err != nil || c.Number != f.Number || c.Err != nil {
		t.Fatalf("copied %+v, %v", c, err)
	}
	if err := flip(filepath.Join(f.Path, "data.age.2"), 100); err != nil {
		t.Fatal(err)
	}
	r := &partReader{dir: f.Path, left: f.Parts}
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "data.age.2 is not what was written") {
		t.Errorf("reading gives %v", err)
	}
	if _, err := Copy(t.Context(), b.place, b.ServerName, t.TempDir()); err == nil {
		t.Error("a changed backup was copied")
	}
}

func TestWrongKey(t *testing.T) {
	b, other := newBox(t), newBox(t)
	b.backUp()
	data := filepath.Join(t.TempDir(), "data")
	_, err := Restore(t.Context(), b.place, Target{Data: data, Identities: other.ids()})
	if !errors.Is(err, ErrWrongKey) {
		t.Errorf("got %v, want the wrong key", err)
	}
	if left, _ := os.ReadDir(data); len(left) != 0 {
		t.Errorf("left in the data directory: %v", left)
	}
}

// TestDamage: every kind of damage to the newest backup is found, and the one before is taken.
func TestDamage(t *testing.T) {
	for name, hurt := range map[string]func(dir string) error{
		"cut":          func(dir string) error { return os.Truncate(filepath.Join(dir, "data.age.2"), 5000) },
		"part gone":    func(dir string) error { return os.Remove(filepath.Join(dir, "data.age.2")) },
		"last gone":    func(dir string) error { return os.Remove(filepath.Join(dir, "data.age.3")) },
		"no manifest":  func(dir string) error { return os.Remove(filepath.Join(dir, "backup.json")) },
		"bad manifest": func(dir string) error { return os.WriteFile(filepath.Join(dir, "backup.json"), []byte("{"), 0o600) },
		"newer form": func(dir string) error {
			return edit(filepath.Join(dir, "backup.json"), `"hallig_backup": 1`, `"hallig_backup": 2`)
		},
		"other name": func(dir string) error { return edit(filepath.Join(dir, "backup.json"), `"box7.`, `"box8.`) },
		"one bit":    func(dir string) error { return flip(filepath.Join(dir, "data.age"), 7000) },
		"header":     func(dir string) error { return flip(filepath.Join(dir, "data.age"), 30) },
		"swapped parts": func(dir string) error {
			a, b := filepath.Join(dir, "data.age"), filepath.Join(dir, "data.age.2")
			return errors.Join(os.Rename(a, a+"x"), os.Rename(b, a), os.Rename(a+"x", b))
		},
	} {
		b := newBox(t)
		b.put("config.json", "older")
		first := b.backUp()
		b.put("config.json", "newer")
		if err := hurt(b.backUp().Path); err != nil {
			t.Fatal(name, err)
		}
		data := filepath.Join(t.TempDir(), "data")
		r, err := Restore(t.Context(), b.place, Target{Data: data, Identities: b.ids()})
		if err != nil || r.Path != first.Path || b.read(data, "config.json") != "older" {
			t.Errorf("%s: took %s, %v", name, r.Path, err)
		}
	}
}

func edit(name, old, with string) error {
	raw, err := os.ReadFile(name)
	if err == nil && !bytes.Contains(raw, []byte(old)) {
		err = errors.New("nothing to edit")
	}
	return errors.Join(err, os.WriteFile(name, bytes.Replace(raw, []byte(old), []byte(with), 1), 0o600))
}

func flip(name string, at int) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	raw[at] ^= 1
	return os.WriteFile(name, raw, 0o600)
}

// TestDamagedMedia: pictures that are lost do not stop the messages from coming back, and are named.
func TestDamagedMedia(t *testing.T) {
	b := newBox(t)
	b.upload("a" + random(1000))
	f := b.backUp()
	kept := b.upload("b" + random(1000))
	b.backUp()
	if err := flip(filepath.Join(f.Home, "media", f.Media[0].Name), 900); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	r, err := Restore(t.Context(), b.place, Target{Data: data, Identities: b.ids()})
	if err != nil || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], f.Media[0].Name) || r.MediaFiles != 1 {
		t.Fatalf("got %+v, %v", r, err)
	}
	b.same(data, kept)
}

// TestLivingBox: nothing is put over a box, unless it is said that nobody uses it.
func TestLivingBox(t *testing.T) {
	b := newBox(t)
	b.backUp()
	data := t.TempDir()
	for name, text := range map[string]string{"hallig.db": "alive", "hallig.db-wal": "alive too", "hallig.db.note": "of another database", "box.key": "k"} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Restore(t.Context(), b.place, Target{Data: data, Identities: b.ids()}); !errors.Is(err, ErrLiving) {
		t.Errorf("got %v, want ErrLiving", err)
	}
	if got := b.read(data, "hallig.db"); got != "alive" {
		t.Errorf("the database is %q", got)
	}
	if _, err := Restore(t.Context(), b.place, Target{Data: data, Identities: b.ids(), Replace: true}); err != nil {
		t.Fatal(err)
	}
	b.same(data) // and no log of the other database lies beside
}

// TestRestoreAndPowerCut: at each step of putting things in place the power goes; Finish goes on, or all is as before.
func TestRestoreAndPowerCut(t *testing.T) {
	b := newBox(t)
	media := b.upload(random(500))
	b.backUp()
	whole := t.TempDir()
	if _, err := Restore(t.Context(), b.place, Target{Data: whole, Identities: b.ids()}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(whole)
	if err != nil {
		t.Fatal(err)
	}
	for moved := range entries {
		data := t.TempDir()
		work := filepath.Join(data, restoring)
		if err := os.CopyFS(filepath.Join(work, "new"), os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(work, "new", "restored")); err != nil {
			t.Fatal(err)
		}
		if moved == 0 { // not complete: taken back
			if err := Finish(data); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(data); len(left) != 0 {
				t.Errorf("left of an incomplete restore: %v", left)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(work, complete), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		inside, _ := os.ReadDir(filepath.Join(work, "new"))
		for _, e := range inside[:min(moved, len(inside))] {
			if err := os.Rename(filepath.Join(work, "new", e.Name()), filepath.Join(data, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := Finish(data); err != nil {
				t.Fatal(err)
			}
		}
		b.same(data, media)
	}
}

func TestSeveralBoxes(t *testing.T) {
	a, b := newBox(t), newBox(t)
	b.ServerName, b.BoxID, b.place, b.Recipients = "box8.feuerwehr.example", "QQQQQQQQ", a.place, a.Recipients
	a.backUp()
	b.backUp()
	if _, err := Restore(t.Context(), a.place, Target{Data: t.TempDir(), Identities: a.ids()}); err == nil || !strings.Contains(err.Error(), "box8.feuerwehr.example-QQQQQQQQ") {
		t.Errorf("got %v, want the names of both", err)
	}
	r, err := Restore(t.Context(), a.place, Target{Data: t.TempDir(), Identities: a.ids(), ServerName: "box8.feuerwehr.example"})
	if err != nil || r.BoxID != "QQQQQQQQ" {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestKeys(t *testing.T) {
	if _, err := ParseIdentities("# only a comment\n"); err == nil {
		t.Error("a file without a key was taken")
	}
	if _, err := ParseIdentities("AGE-SECRET-KEY-1QQ"); err == nil || strings.Contains(err.Error(), "QQ") {
		t.Errorf("got %v, want a sentence without the key", err)
	}
	if _, err := ParseRecipients(nil); err == nil || !strings.Contains(err.Error(), "hallig backup key") {
		t.Errorf("no key: %v", err)
	}
	b := newBox(t)
	if _, err := Make(t.Context(), filepath.Join(b.place, "none"), b.Source); err == nil || !strings.Contains(err.Error(), "stick") {
		t.Errorf("no stick: %v", err)
	}
}

// archived seals a tar stream as it is.
func archived(t testing.TB, plain []byte, id *age.X25519Identity) []byte {
	var out bytes.Buffer
	s, err := seal(&out, []age.Recipient{id.Recipient()}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.closers[1].(io.Writer).Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.closers[1].Close(), s.closers[0].Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzUnpack: whatever somebody who knows the public key puts into a backup, it stays inside the folder where it is unpacked.
func FuzzUnpack(f *testing.F) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	seed := func(files ...string) {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for i := 0; i+1 < len(files); i += 2 {
			if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Typeflag: tar.TypeReg, Mode: 0o600}); err != nil {
				f.Fatal(err)
			}
			if _, err := w.Write([]byte(files[i+1])); err != nil {
				f.Fatal(err)
			}
		}
		w.Close()
		f.Add(out.Bytes())
	}
	inner := `{"hallig_backup":1,"number":1,"server_name":"s","box_id":"b","files":1}`
	seed("hallig-backup.json", inner, "box.key", "k")
	seed("hallig-backup.json", inner, "../box.key", "k")
	seed("hallig-backup.json", inner, "a/../../x", "k")
	seed("hallig-backup.json", inner, ".restore/x", "k")
	seed("box.key", "k")
	f.Fuzz(func(t *testing.T, plain []byte) {
		top := t.TempDir()
		from, into := filepath.Join(top, "from"), filepath.Join(top, "a", "b", "into")
		if err := errors.Join(os.Mkdir(from, 0o700), os.MkdirAll(into, 0o700)); err != nil {
			t.Fatal(err)
		}
		raw := archived(t, plain, id)
		if err := os.WriteFile(filepath.Join(from, dataFile), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		found := Found{Path: from, Manifest: Manifest{ServerName: "s", BoxID: "b", Number: 1, Parts: []Piece{{dataFile, int64(len(raw)), hex.EncodeToString(sum[:])}}}}
		_, _ = unpackData(t.Context(), found, []age.Identity{id}, into)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasPrefix(path, from) && !strings.HasPrefix(path, into) || !d.IsDir() && !d.Type().IsRegular() {
				t.Errorf("%s was written", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"hallig_backup":1,"number":1,"server_name":"s","box_id":"b","media":[{"name":"m000001-00000000.age"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseManifest(raw)
		if err != nil {
			return
		}
		for _, p := range m.Media {
			if filepath.Base(p.Name) != p.Name {
				t.Errorf("the name %q leads elsewhere", p.Name)
			}
		}
	})
}

func FuzzNote(f *testing.F) {
	f.Add(make([]byte, 40+32))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, ok := parseNote("m000001-00000000.age", raw); ok && len(a.files)*32+40 != len(raw) {
			t.Errorf("%d files of %d bytes", len(a.files), len(raw))
		}
	})
}

// TestReadMe: the sections that it sends people to are there.
func TestReadMe(t *testing.T) {
	home := t.TempDir()
	if err := readMe(home, Manifest{ServerName: "box7.feuerwehr.example", BoxID: "ABCD"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(home, "READ-ME.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(doc/\w+\.md), (?:Abschnitt|section) (\d+) \(([^)]+)\)`).FindAllStringSubmatch(string(text), -1) {
		doc, err := os.ReadFile(filepath.Join("../..", m[1]))
		if err != nil || !strings.Contains(string(doc), "\n## "+m[2]+". "+m[3]+"\n") {
			t.Errorf("%s has no section %s, %s: %v", m[1], m[2], m[3], err)
		}
	}
	for _, want := range []string{"doc/betrieb.md, Abschnitt 4", "doc/operation.md, section 4", `"backup"`, "Schlüssel (hallig.json) vom Stick löschen"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}
