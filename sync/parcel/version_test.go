// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"hallig/appliance/event"
)

var writeGolden = flag.Bool("write-golden", false, "write testdata anew; only for a form that no box has been shipped with")

// golden are messages of one session, as boxes of a version wrote them, each behind its length.
func golden(t *testing.T, file string, two bool) {
	c := testCodec(t)
	r, _, _ := lifeOf(t, "11", 9, 10)
	if *writeGolden {
		near := c.Session(1, 2)
		near.UseModel(true)
		near.UseVersion2(two)
		var out []byte
		for _, ev := range r.events {
			msg, _, ticket, err := near.Encode(MaxMessage, ev)
			if err != nil {
				t.Fatal(err)
			}
			near.Arrived(ticket)
			out = append(binary.AppendUvarint(out, uint64(len(msg))), msg...)
		}
		if err := os.WriteFile(file, out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	far := c.Session(2, 1)
	for _, ev := range r.events {
		n, m := binary.Uvarint(b)
		got, err := far.Decode(b[m : m+int(n)])
		if err != nil {
			t.Fatal(err)
		}
		sameEvent(t, got[0], ev)
		b = b[m+int(n):]
	}
}

// TestFormsStayReadable: what boxes of earlier versions wrote is read for ever.
func TestFormsStayReadable(t *testing.T) {
	t.Run("version 1", func(t *testing.T) { golden(t, "testdata/version1.bin", false) })
	t.Run("version 2", func(t *testing.T) { golden(t, "testdata/version2.bin", true) })
}

// TestNewestShared: to a box that has not said that it reads version 2 nothing is written in it, whatever it writes itself.
func TestNewestShared(t *testing.T) {
	r, _, _ := lifeOf(t, "12", 10, 50)
	e := newExchange(t, 0)
	e.ends[0].UseVersion2(false) // the far end is an old one
	parcels := []Parcel{}
	for _, ev := range r.events {
		parcels = append(parcels, ev)
	}
	for _, p := range r.queue() {
		parcels = append(parcels, p)
	}
	body := smallBody(t, "12")
	second := 0
	for i, p := range parcels {
		for end := range 2 {
			msg, _, ticket, err := e.ends[end].Encode(MaxMessage, p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.ends[1-end].Decode(msg); err != nil {
				t.Fatal(err)
			}
			e.ends[end].Arrived(ticket)
			form := msg[1] & 7
			isNew := p.Kind() == KindEvent && form == formSecond || p.Kind() == KindEDU && form == formShaped || p.Kind() != KindEvent && p.Kind() != KindEDU && form == formHTTP
			if isNew && end == 0 {
				t.Fatalf("parcel %d of kind %d goes in form %d to an old box", i, p.Kind(), form)
			}
			if isNew {
				second++
			}
		}
	}
	if second < len(parcels)/2 {
		t.Errorf("only %d of %d parcels go in forms of version 2 to a new box", second, len(parcels))
	}
	if e.ends[0].Pack(body)[0] == methodEvents || e.ends[1].Pack(body)[0] != methodEvents {
		t.Error("bodies are packed in a version that their reader does not have")
	}
}

// FuzzShapes: JSON of any kind is taken apart and put together again, or left alone; and what is no message of ours does no harm.
func FuzzShapes(f *testing.F) {
	c := testCodec(f)
	r := newLife(f, "12", 1)
	for _, p := range r.queue() {
		f.Add(contentOf(p))
	}
	for _, ev := range r.events {
		f.Add([]byte(ev.PDU.Content))
	}
	for _, s := range []string{`[[],{},[{}],""]`, `{"a":-0,"b":1e5,"c":01}`, ` {"a" : 1}`, "{\"a\":[1,2],\n\"b\":{}}", `{"@a:b":{"@c:d":1},"":2}`, `{"a":"\u00e4\/","b":[1,"x",null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s := c.Session(1, 2)
		s.UseModel(true)
		s.UseVersion2(true)
		w := &writer{s: s, two: true}
		if len(text) < 1<<15 && w.writeJSON(logName{}, "x", text) {
			r := &reader{b: w.b, s: s.mirror(), two: true}
			if _, got := r.readJSON(logName{}, 1<<16); r.err != nil || !bytes.Equal(got, text) {
				t.Errorf("%q came out as %q, %v", text, got, r.err)
			}
		}
		r := &reader{b: text, s: c.Session(2, 1), two: true}
		if _, got := r.readJSON(logName{}, 1<<12); len(got) > 1<<12 {
			t.Errorf("%d bytes, want at most %d", len(got), 1<<12)
		}
	})
}

// TestLanguages: the text model pays in both languages, on texts that it has never seen.
func TestLanguages(t *testing.T) {
	c := testCodec(t)
	for _, l := range []struct {
		file string
		most float64
	}{{"sentences_de.txt", 0.36}, {"sentences_en.txt", 0.50}} {
		chars, size := 0, 0
		for _, s := range sentencesOf(t, l.file) {
			code, ok := c.text.encode(s, len(s))
			if !ok {
				t.Errorf("%q is not shortened", s)
				continue
			}
			back, err := c.text.decode(code, maxModelText)
			if err != nil || back != s {
				t.Fatalf("%q came out as %q, %v", s, back, err)
			}
			chars, size = chars+len([]rune(s)), size+len(code)
		}
		t.Logf("%s: %.3f bytes a character", l.file, float64(size)/float64(chars))
		if float64(size) > l.most*float64(chars) {
			t.Errorf("%s: %.3f bytes a character, want at most %.2f", l.file, float64(size)/float64(chars), l.most)
		}
	}
}

// TestManyTexts: what a hostile user can put into one event takes no time that matters, at either end.
func TestManyTexts(t *testing.T) {
	r := newRoom(t, "12", 1)
	e := newExchange(t, 0)
	for _, sep := range []string{"", "x", strings.Repeat("wort ", 3)} {
		var list []string
		for i, size := 0, 0; size < 50<<10; i++ {
			list = append(list, fmt.Sprintf(`"%s%d"`, sep, i))
			size += len(list[i]) + 1
		}
		for _, content := range []string{`{"a":[` + strings.Join(list, ",") + `]}`, `{` + strings.Join(list[:len(list)*3/4], ":0,") + `:0}`,
			`{"a":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`} {
			raw, err := event.Canonical([]byte(content))
			if err != nil {
				continue // deeper than an event may be
			}
			r.add(0, "anna", "org.example.many", nil, string(raw), nil)
			ev := r.events[len(r.events)-1]
			got, n := e.send(0, ev)
			sameEvent(t, got[0], ev)
			t.Logf("%d texts: %d bytes of %d", len(list), n, len(ev.PDU.JSON()))
		}
	}
}

// TestTextsAreBounded: a message of few bytes cannot make its reader work for minutes.
func TestTextsAreBounded(t *testing.T) {
	c := testCodec(t)
	s := c.Session(1, 2)
	var code []byte // of the text that unfolds best
	for _, word := range []string{" ", ".", "e", "-", "und ", "der ", "in der ", "nicht ", "the ", "Sandsäcke ", "Pegel Nord ", "Deichwache "} {
		b, ok := c.text.model.Encode(strings.Repeat(word, 4000/len(word)), 4000)
		if ok && (code == nil || len(b) < len(code)) {
			code = b
		}
	}
	t.Logf("%d bytes unfold to 4,000 letters", len(code))
	parcels, letters := 0, 0
	msg := []byte{s.tag}
	for len(msg)+len(code)+20 < MaxMessage {
		w := &writer{s: c.Bare(), inline: true, two: true}
		w.uvarint(1)
		w.name("x")
		w.name("")
		w.uvarint(shapeNamed)
		w.uvarint(1)
		w.name("")
		w.block(c.Pack([]byte("{\"a\":\x01}")))
		w.uvarint(uint64(len(code))<<3 | wayModel)
		w.raw(code)
		p := writer{b: []byte{byte(KindEDU)<<4 | formShaped}}
		p.block(w.b)
		msg = append(msg, p.b...)
	}
	msg = append(msg, byte(KindBye)<<4|lastBit, 0)
	got, err := s.Decode(msg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		if e, ok := p.(*EDU); ok {
			parcels, letters = parcels+1, letters+len(e.Content)
		}
	}
	if parcels == 0 || parcels == len(got)-1 || letters > maxLetters+1<<12 {
		t.Errorf("%d of %d texts with %d letters were read of a message of %d bytes", parcels, len(got), letters, len(msg))
	}
}
