// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func testBox(t testing.TB, seed byte) (ed25519.PrivateKey, Self) {
	t.Helper()
	box := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	public := box.Public().(ed25519.PublicKey)
	statement, err := State(box, Peer{Server: DefaultServer(public), Name: "Lager " + string('A'+rune(seed)), Serial: 1,
		SigningKeys: map[string]ed25519.PublicKey{"ed25519:a_1": public, "ed25519:b": public}})
	if err != nil {
		t.Fatal(err)
	}
	return box, Self{box, statement}
}

// TestID holds ids against go-libp2p's: sync/p2p compares both for random keys; this is one of them.
func TestID(t *testing.T) {
	box, _ := testBox(t, 1)
	public := box.Public().(ed25519.PublicKey)
	id := IDOf(public)
	if want := ID("12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"); id != want {
		t.Errorf("IDOf = %s, want %s", id, want)
	}
	key, err := id.Key()
	if err != nil || !key.Equal(public) {
		t.Errorf("Key = %x, %v, want %x", key, err, public)
	}
	for _, bad := range []ID{"", "12D3KooW", id + "1", id[1:], "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", ID(strings.Repeat("1", 1000)), "0OIl"} {
		if key, err := bad.Key(); err == nil {
			t.Errorf("Key of %q = %x, want an error", bad, key)
		}
	}
	if got := DefaultServer(public); len(got) != 16+len(".hallig.internal") || got != strings.ToLower(got) {
		t.Errorf("DefaultServer = %q", got)
	}
}

func TestStatement(t *testing.T) {
	box, self := testBox(t, 1)
	p, err := ReadStatement(self.Statement)
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != IDOf(p.BoxKey) || p.Server != DefaultServer(p.BoxKey) || p.Name != "Lager B" || len(p.SigningKeys) != 2 || p.Serial != 1 {
		t.Errorf("statement read as %+v", p)
	}
	for i := range self.Statement {
		bad := bytes.Clone(self.Statement)
		bad[i] ^= 1
		if _, err := ReadStatement(bad); err == nil {
			t.Errorf("byte %d changed and nobody saw it", i)
		}
		if _, err := ReadStatement(self.Statement[:i]); err == nil {
			t.Errorf("cut at %d and nobody saw it", i)
		}
	}
	state := func(server string, serial uint64) []byte {
		b, err := State(box, Peer{Server: server, Serial: serial, SigningKeys: p.SigningKeys})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if n, err := p.Renew(state(p.Server, 2)); err != nil || n.Serial != 2 {
		t.Errorf("Renew = %+v, %v", n, err)
	}
	_, other := testBox(t, 2)
	for what, bad := range map[string][]byte{"older": state(p.Server, 0), "other name": state("elsewhere.example", 3), "other box": other.Statement} {
		if _, err := p.Renew(bad); err == nil {
			t.Errorf("Renew took a statement that is %s", what)
		}
	}
	if _, err := State(box, Peer{Server: "no spaces here", SigningKeys: p.SigningKeys}); err == nil {
		t.Error("State took a server name with spaces")
	}
}

func FuzzReadStatement(f *testing.F) {
	_, self := testBox(f, 1)
	f.Add(self.Statement)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ReadStatement(b)
		if err == nil && !bytes.Equal(p.Statement, b) {
			t.Error("a statement came out changed")
		}
	})
}

func TestRoster(t *testing.T) {
	var peers []Peer
	for seed := range byte(3) {
		_, self := testBox(t, seed)
		p, err := ReadStatement(self.Statement)
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, p)
	}
	r := NewRoster(peers[0]).With(peers[1])
	if _, ok := r.ByID(peers[2].ID); ok || r.Len() != 2 {
		t.Error("roster holds whom nobody put in")
	}
	if got, ok := r.ByServer(peers[1].Server); !ok || !got.Equal(peers[1]) {
		t.Errorf("ByServer = %+v, %v", got, ok)
	}
	if got, ok := r.ByBrief(peers[0].ID.Brief()); !ok || got.ID != peers[0].ID {
		t.Errorf("ByBrief = %+v, %v", got, ok)
	}
	without := r.Without(peers[1].ID)
	if _, ok := without.ByServer(peers[1].Server); ok || without.Len() != 1 || r.Len() != 2 {
		t.Error("Without changed the wrong roster")
	}
	taken := peers[2]
	taken.Server = peers[0].Server
	r = r.With(taken)
	if got, _ := r.ByServer(peers[0].Server); got.ID != taken.ID || r.Len() != 2 {
		t.Errorf("two boxes with one server name: %d entries, name leads to %s", r.Len(), got.ID.Short())
	}
	var zero Roster
	if _, ok := zero.ByID(peers[0].ID); ok || zero.Len() != 0 || zero.With(peers[0]).Len() != 1 {
		t.Error("the zero roster is not empty")
	}
}

func TestCode(t *testing.T) {
	box, _ := testBox(t, 1)
	public := box.Public().(ed25519.PublicKey)
	for range 200 {
		c, err := NewCode(public, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !c.MayBe(public) {
			t.Fatal("the code does not hint at its box")
		}
		s := c.String()
		for _, form := range []string{s, strings.ToLower(s), strings.ReplaceAll(s, "-", " "), " " + strings.ReplaceAll(s, "0", "o") + "\n", c.URI()} {
			if got, _, err := ParseCode(form); err != nil || got != c {
				t.Fatalf("ParseCode(%q) = %v, %v", form, got, err)
			}
		}
		for i := range s {
			for _, wrong := range "07AZ" {
				bad := s[:i] + string(wrong) + s[i+1:]
				if got, _, err := ParseCode(bad); err == nil && got != c {
					t.Fatalf("%q passes for %q", bad, s)
				}
			}
			if i+1 < len(s) && s[i] != s[i+1] && s[i] != '-' && s[i+1] != '-' {
				bad := s[:i] + string(s[i+1]) + string(s[i]) + s[i+2:]
				if _, _, err := ParseCode(bad); err == nil {
					t.Fatalf("%q passes for %q", bad, s)
				}
			}
		}
	}
	c, _ := NewCode(public, rand.Reader)
	got, addrs, err := ParseCode(c.URI("/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::1/tcp/4001"))
	if err != nil || got != c || len(addrs) != 2 || addrs[1] != "/ip6/2001:db8::1/tcp/4001" {
		t.Errorf("ParseCode of a URI = %v, %q, %v", got, addrs, err)
	}
}

func FuzzParseCode(f *testing.F) {
	f.Add("K7QM-3XDA-9PTE")
	f.Add("hallig-pair:K7QM3XDA9PTE?a=x")
	f.Fuzz(func(t *testing.T, s string) {
		c, _, err := ParseCode(s)
		if err != nil {
			return
		}
		if again, _, err := ParseCode(c.String()); err != nil || again != c {
			t.Errorf("%q reads as %v, which does not read back: %v", s, c, err)
		}
	})
}

// pair runs a whole exchange; spoil may change the n-th message.
func pair(offer *Offer, code Code, shower, taker Self, now time.Duration, spoil func(n int, msg []byte) []byte) (atShower, atTaker Peer, err error) {
	if spoil == nil {
		spoil = func(_ int, msg []byte) []byte { return msg }
	}
	t, m1, err := Take(code, taker, shower.public(), rand.Reader)
	if err != nil {
		return
	}
	s, m2, err := offer.Answer(shower, taker.public(), spoil(1, m1), now, rand.Reader)
	if err != nil {
		return
	}
	m3, err := t.Answer(spoil(2, m2))
	if err != nil {
		return
	}
	atShower, m4, err := s.Confirm(spoil(3, m3))
	if err != nil {
		return
	}
	atTaker, m5, err := t.Finish(spoil(4, m4))
	if err != nil {
		return
	}
	return atShower, atTaker, s.Done(spoil(5, m5))
}

func TestPairing(t *testing.T) {
	_, a := testBox(t, 1)
	_, b := testBox(t, 2)
	_, c := testBox(t, 3)
	newOffer := func() *Offer {
		o, err := NewOffer(a.public(), 0, time.Minute, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := newOffer()
	atA, atB, err := pair(o, o.Code, a, b, time.Second, nil)
	if err != nil || atA.ID != IDOf(b.public()) || atB.ID != IDOf(a.public()) {
		t.Fatalf("pair: %s, %s, %v", atA.ID, atB.ID, err)
	}
	if _, _, err := pair(o, o.Code, a, b, time.Second, nil); !errors.Is(err, ErrCodeSpent) {
		t.Errorf("a code used twice: %v", err)
	}

	o = newOffer()
	if _, _, err := pair(o, o.Code, a, b, time.Minute, nil); !errors.Is(err, ErrCodeSpent) {
		t.Errorf("an expired code: %v", err)
	}

	o = newOffer()
	wrong, _ := NewCode(a.public(), rand.Reader)
	for range MaxTries {
		if _, _, err := pair(o, wrong, a, b, 0, nil); !errors.Is(err, ErrWrongCode) {
			t.Errorf("a wrong code: %v", err)
		}
	}
	if _, _, err := pair(o, o.Code, a, b, 0, nil); !errors.Is(err, ErrCodeSpent) {
		t.Errorf("the right code after %d wrong tries: %v", MaxTries, err)
	}

	// The line breaks at the last but one message: the same taker may come again, another one not.
	o = newOffer()
	cut := func(n int, msg []byte) []byte {
		if n == 4 {
			return nil
		}
		return msg
	}
	if _, _, err := pair(o, o.Code, a, b, 0, cut); err == nil {
		t.Error("pairing ended without its fourth message")
	}
	if _, _, err := pair(o, o.Code, a, c, 0, nil); !errors.Is(err, ErrCodeSpent) {
		t.Errorf("another taker with a code half taken: %v", err)
	}
	if _, _, err := pair(o, o.Code, a, b, 0, nil); err != nil {
		t.Errorf("the same taker again: %v", err)
	}

	for n := 1; n <= 5; n++ {
		o = newOffer()
		flip := func(at int, msg []byte) []byte {
			if at != n {
				return msg
			}
			bad := bytes.Clone(msg)
			bad[len(bad)-1] ^= 4
			return bad
		}
		if _, _, err := pair(o, o.Code, a, b, 0, flip); err == nil {
			t.Errorf("message %d changed on the way and nobody saw it", n)
		}
	}
	// Somebody in the middle with a key of his own: the contexts differ.
	o = newOffer()
	taking, m1, _ := Take(o.Code, b, c.public(), rand.Reader)
	_, m2, err := o.Answer(a, c.public(), m1, 0, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := taking.Answer(m2); !errors.Is(err, ErrWrongCode) {
		t.Errorf("a relay with another key: %v", err)
	}
}

func TestHandshake(t *testing.T) {
	ka, a := testBox(t, 1)
	kb, b := testBox(t, 2)
	kc, _ := testBox(t, 3)
	start := func(initiator bool, self ed25519.PrivateKey, far ed25519.PublicKey) *Handshake {
		h, err := NewHandshake(initiator, self, far, []byte("test"), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	i, r := start(true, ka, b.public()), start(false, kb, a.public())
	m1, err := i.Write([]byte("hin"))
	if err != nil || len(m1) != 48+3 {
		t.Fatalf("first message of %d bytes, %v", len(m1), err)
	}
	bad := bytes.Clone(m1)
	bad[40] ^= 1
	if _, err := r.Read(bad); err == nil {
		t.Error("a spoilt first message was read")
	}
	if p, err := r.Read(m1); err != nil || string(p) != "hin" {
		t.Errorf("first payload %q, %v", p, err)
	}
	m2, err := r.Write([]byte("her"))
	if err != nil || len(m2) != 48+3 {
		t.Fatalf("second message of %d bytes, %v", len(m2), err)
	}
	if p, err := i.Read(m2); err != nil || string(p) != "her" {
		t.Errorf("second payload %q, %v", p, err)
	}
	ki, ok1 := i.Keys()
	kr, ok2 := r.Keys()
	if !ok1 || !ok2 || ki.Send != kr.Receive || ki.Receive != kr.Send || ki.Send == ki.Receive {
		t.Error("the two sides have no matching keys")
	}

	stranger := start(true, kc, b.public())
	m1, _ = stranger.Write(nil)
	if _, err := start(false, kb, a.public()).Read(m1); err == nil {
		t.Error("a stranger's handshake was taken for a paired box's")
	}
}

// TestDHPublic: the X25519 key that others derive from the public box key is the one the box derives from its secret.
func TestDHPublic(t *testing.T) {
	for range 50 {
		public, box, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		own, err := dhPrivate(box)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := dhPublic(public); err != nil || !bytes.Equal(got, own.Public) {
			t.Fatalf("dhPublic = %x, %v, want %x", got, err, own.Public)
		}
	}
	neutral := make([]byte, 32)
	neutral[0] = 1
	tooLarge := fieldBytes(new(big.Int).Add(fieldPrime(), big.NewInt(2)))
	for _, bad := range [][]byte{neutral, tooLarge, nil, make([]byte, 31)} {
		if got, err := dhPublic(bad); err == nil {
			t.Errorf("dhPublic(%x) = %x", bad, got)
		}
	}
}

func TestBase58(t *testing.T) {
	for want, in := range map[string]string{"": "", "2g": "a", "1": "\x00", "11": "\x00\x00", "StV1DL6CwTryKyV": "hello world", "112": "\x00\x00\x01"} {
		if got := encode58([]byte(in)); got != want {
			t.Errorf("encode58(%q) = %q, want %q", in, got, want)
		}
		if got, err := decode58(want); err != nil || string(got) != in {
			t.Errorf("decode58(%q) = %q, %v", want, got, err)
		}
	}
}
