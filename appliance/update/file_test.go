// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// noise is n bytes that do not compress; text is n that do.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func text(seed uint64, n int) []byte {
	b := noise(seed, n)
	for i := range b {
		b[i] = "0123456789abcdef"[b[i]&15]
	}
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// system is what a slot holds: made up, but of the right shape.
type system struct {
	kernel, root []byte
	cmdline      string
}

func makeSystem(seed uint64) system {
	return system{
		kernel:  text(seed, 2*BlockSize+1234),
		root:    append(noise(seed+1, BlockSize+777), text(seed+2, BlockSize)...),
		cmdline: "root=PARTUUID=60c24cc1-f3f9-427a-8199-000000000001/PARTNROFF=1 ro init=/gokrazy/init panic=10",
	}
}

func (s system) sources() []Source {
	list := []Source{
		{File: RootPart, Data: bytes.NewReader(s.root), Size: int64(len(s.root))},
		{File: KernelFile, Data: bytes.NewReader(s.kernel), Size: int64(len(s.kernel))},
	}
	cmdline := must(PadCmdline(s.cmdline))
	entry := must(PadText("title Hallig\nlinux /vmlinuz-a\noptions "+s.cmdline, SmallFile))
	for _, slot := range []Slot{SlotA, SlotB} {
		for _, f := range []struct {
			name string
			b    []byte
		}{{CmdlineFile, cmdline}, {EntryFile, entry}} {
			list = append(list, Source{File: f.name, Slot: slot, Data: bytes.NewReader(ForSlot(f.b, slot)), Size: SmallFile})
		}
	}
	return list
}

var testKey = must(ParsePrivateKey([]byte("# a key for tests\nhallig-update-secret-1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= test\n")))

func makeFile(t *testing.T, release int64, s system, keys ...PrivateKey) ([]byte, Manifest) {
	t.Helper()
	if keys == nil {
		keys = []PrivateKey{testKey}
	}
	var b bytes.Buffer
	m, err := Write(&b, Manifest{Product: Product, Board: "amd64", Version: "1." + string(rune('0'+release)), Release: release, Schema: 8}, s.sources(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m
}

func running(release int64, keys ...PublicKey) Running {
	if keys == nil {
		keys = []PublicKey{testKey.Public()}
	}
	return Running{Board: "amd64", Version: "1.0", Release: release, Keys: Keys{Threshold: 1, Keys: keys}}
}

func TestFileRoundTrip(t *testing.T) {
	s := makeSystem(1)
	file, want := makeFile(t, 2, s)
	again, _ := makeFile(t, 2, s)
	if !bytes.Equal(file, again) {
		t.Error("the same input gives two files")
	}
	r, err := Open(bytes.NewReader(file), running(1))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make(map[string][]byte)
	err = r.Each(func(p Part, offset int64, b []byte) error {
		name := p.File + p.Slot.String()
		if int64(len(got[name])) != offset {
			t.Errorf("%s: offset %d after %d bytes", name, offset, len(got[name]))
		}
		got[name] = append(got[name], b...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[RootPart], s.root) || !bytes.Equal(got[KernelFile], s.kernel) {
		t.Error("root or kernel came out otherwise than it went in")
	}
	if c := string(got[CmdlineFile+"b"]); !strings.HasPrefix(c, strings.Replace(s.cmdline, "PARTNROFF=1", "PARTNROFF=2", 1)+"\n\x00") {
		t.Errorf("command line of slot b: %.120q", c)
	}
	if m := r.Manifest(); m.Version != want.Version || len(m.Parts) != len(want.Parts) {
		t.Errorf("manifest %+v", m)
	}
}

// Every byte of a file is altered, a few with each of several patterns: none of these files is taken.
func TestFileAltered(t *testing.T) {
	s := system{kernel: text(1, 600), root: noise(2, 300), cmdline: makeSystem(1).cmdline}
	file, _ := makeFile(t, 2, s)
	if _, err := Verify(bytes.NewReader(file), running(1)); err != nil {
		t.Fatal(err)
	}
	for at := range file {
		bad := bytes.Clone(file)
		bad[at] ^= 1 << (at % 8)
		if _, err := Verify(bytes.NewReader(bad), running(1)); err == nil {
			t.Fatalf("byte %d of %d altered, and taken", at, len(file))
		} else if r := (*Refusal)(nil); !errors.As(err, &r) || r.De == "" {
			t.Fatalf("byte %d altered: %v is no sentence", at, err)
		}
	}
	for n := 0; n < len(file); n += 1 + n/50 {
		if _, err := Verify(bytes.NewReader(file[:n]), running(1)); err == nil {
			t.Fatalf("the first %d bytes of %d are taken", n, len(file))
		}
	}
	if _, err := Verify(bytes.NewReader(append(bytes.Clone(file), 0)), running(1)); err == nil {
		t.Error("a byte more at the end is taken")
	}
}

func TestWhoMaySign(t *testing.T) {
	s := system{kernel: text(1, 500), root: noise(2, 300), cmdline: "root=/PARTNROFF=1"}
	a, b, c := GenerateKey("a"), GenerateKey("b"), GenerateKey("c")
	two := Running{Board: "amd64", Release: 1, Keys: Keys{Threshold: 2, Keys: []PublicKey{a.Public(), b.Public(), a.Public()}}}
	for _, x := range []struct {
		what string
		by   []PrivateKey
		ok   bool
	}{
		{"both", []PrivateKey{a, b}, true},
		{"both and a stranger", []PrivateKey{c, b, a}, true},
		{"one", []PrivateKey{a}, false},
		{"one, twice", []PrivateKey{a, a}, false},
		{"one and a stranger", []PrivateKey{a, c}, false},
		{"nobody", []PrivateKey{}, false},
	} {
		file, _ := makeFile(t, 2, s, x.by...)
		if _, err := Verify(bytes.NewReader(file), two); (err == nil) != x.ok {
			t.Errorf("%s: %v", x.what, err)
		}
	}
	// the second signature is added later
	file, _ := makeFile(t, 2, s, a)
	var both bytes.Buffer
	if err := Sign(&both, bytes.NewReader(file), b); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(bytes.NewReader(both.Bytes()), two); err != nil {
		t.Error(err)
	}
	if m, by, err := Inspect(bytes.NewReader(both.Bytes())); err != nil || len(by) != 2 || m.Release != 2 {
		t.Errorf("inspect: %v, %v, %v", m.Release, by, err)
	}
	for _, k := range []Keys{{}, {Threshold: 0, Keys: []PublicKey{a.Public()}}, {Threshold: 2, Keys: []PublicKey{a.Public(), a.Public()}}} {
		if _, err := Verify(bytes.NewReader(both.Bytes()), Running{Board: "amd64", Release: 1, Keys: k}); err == nil {
			t.Errorf("%+v takes anything", k)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	s := system{kernel: text(1, 500), root: noise(2, 300), cmdline: "root=/PARTNROFF=1"}
	file, _ := makeFile(t, 5, s)
	for _, x := range []struct {
		what string
		now  Running
		says string
	}{
		{"newer", running(4), ""},
		{"the same", running(5), "already runs"},
		{"older", running(6), "older"},
		{"another board", Running{Board: "rpi", Release: 1, Keys: running(1).Keys}, "for amd64"},
		{"another key", running(4, GenerateKey("x").Public()), "not validly signed"},
	} {
		_, err := Verify(bytes.NewReader(file), x.now)
		if x.says == "" && err != nil || x.says != "" && (err == nil || !strings.Contains(err.Error(), x.says)) {
			t.Errorf("%s: %v", x.what, err)
		}
	}
	if _, err := Verify(strings.NewReader("PK\x03\x04 something else entirely"), running(1)); err == nil || !strings.Contains(err.Error(), "not an update file") {
		t.Errorf("a strange file: %v", err)
	}
}

func TestManifestBounds(t *testing.T) {
	s := system{kernel: text(1, 500), root: noise(2, 300), cmdline: "root=/PARTNROFF=1"}
	for what, change := range map[string]func(*Manifest, []Source) []Source{
		"no root":           func(_ *Manifest, l []Source) []Source { return l[1:] },
		"a part twice":      func(_ *Manifest, l []Source) []Source { return append(l, l[0]) },
		"no slot in a path": func(_ *Manifest, l []Source) []Source { l[1].File = "vmlinuz"; return l },
		"a path upwards":    func(_ *Manifest, l []Source) []Source { l[1].File = "../{slot}"; return l[:2] },
		"an absolute path":  func(_ *Manifest, l []Source) []Source { l[1].File = "/vmlinuz-{slot}"; return l },
		"an empty part":     func(_ *Manifest, l []Source) []Source { l[1].Size = 0; return l },
		"another product":   func(m *Manifest, l []Source) []Source { m.Product = "x"; return l },
		"no release":        func(m *Manifest, l []Source) []Source { m.Release = 0; return l },
		"long words":        func(m *Manifest, l []Source) []Source { m.De = strings.Repeat("x", 5000); return l },
	} {
		m := Manifest{Product: Product, Board: "amd64", Version: "1", Release: 1}
		l := change(&m, s.sources())
		if _, err := Write(new(bytes.Buffer), m, l, testKey); err == nil && what != "a path upwards" {
			t.Errorf("%s: written", what)
		}
	}
}

func TestKeyTexts(t *testing.T) {
	k := GenerateKey("release 2026")
	again, err := ParsePrivateKey(k.File())
	if err != nil || again.Public().String() != k.Public().String() || !strings.HasSuffix(k.Public().String(), " release 2026") {
		t.Errorf("%v, %v, %v", k.Public(), again.Public(), err)
	}
	if _, err := ParsePublicKey(k.Public().String()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "hallig-update-1", "hallig-update-1 AAAA", "hallig-update-secret-1 " + strings.Fields(k.Public().String())[1], "hallig-update-1 !" + strings.Fields(k.Public().String())[1]} {
		if _, err := ParsePublicKey(bad); err == nil {
			t.Errorf("%q is taken for a key", bad)
		}
	}
	keys, err := ParseKeys([]byte(`{"threshold":1,"keys":["` + k.Public().String() + `"]}`))
	if err != nil || len(keys.Keys) != 1 {
		t.Errorf("%+v, %v", keys, err)
	}
	for _, bad := range []string{`{}`, `{"threshold":2,"keys":["` + k.Public().String() + `"]}`, `{"threshold":1,"keys":[],"more":1}`, `{"threshold":1,"keys":["x"]}`} {
		if _, err := ParseKeys([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func FuzzFile(f *testing.F) {
	s := system{kernel: text(1, 900), root: noise(2, 300), cmdline: "root=/PARTNROFF=1"}
	var b bytes.Buffer
	if _, err := Write(&b, Manifest{Product: Product, Board: "amd64", Version: "1", Release: 2}, s.sources(), testKey); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:200])
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := Verify(bytes.NewReader(file), running(1))
		if err == nil && !bytes.Equal(file, b.Bytes()) {
			t.Fatalf("a file that was not signed is taken: %+v", m)
		}
		if _, _, err := Inspect(bytes.NewReader(file)); err == nil { // whoever signed: it must be able to go through Sign
			var out bytes.Buffer
			if err := Sign(&out, bytes.NewReader(file), testKey); err != nil {
				t.Fatal(err)
			}
		}
	})
}
