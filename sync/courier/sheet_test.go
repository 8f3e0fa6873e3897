// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"rsc.io/qr"

	"hallig/appliance/event"
)

func TestSheet(t *testing.T) {
	_, a, b, id := pair(t)
	ctx := t.Context()
	says := chatter(t, rand.New(rand.NewPCG(3, 3)))
	var ids []event.ID
	for range 60 {
		ids = append(ids, a.say(id, says()))
	}
	due := a.pending(b)
	texts, n, left, err := a.courier.Sheet(ctx, b.peer, id, 2, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) != 2 || n < 15 || !left {
		t.Errorf("%d codes with %d messages, more: %v", len(texts), n, left)
	}
	t.Logf("%d messages of 100 letters on 2 codes, %d letters", n, len(strings.Join(texts, "")))
	for _, text := range texts {
		code, err := qr.Encode(text, qr.L)
		if err != nil || code.Size > 125 {
			t.Errorf("no code for paper: %v", err)
		}
	}
	if _, err := b.courier.ReadSheet(ctx, texts[1]); !errors.As(err, new(*MissingPart)) {
		t.Errorf("half a sheet: %v", err)
	}
	typed := "Liebe Kollegen,\n" + strings.ToLower(texts[1]) + "\n\n  " + texts[0] + " \n" + texts[0] + "\nGruß"
	r, err := b.courier.ReadSheet(ctx, typed)
	if err != nil || of(r, a).Refused > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	got := b.texts(id)
	if len(got) < n-1 || !slices.Equal(got, ids[:len(got)]) { // the join of b may be one of them
		t.Errorf("%d of %d messages came, or in another order", len(got), n)
	}
	if r, err := b.courier.ReadSheet(ctx, typed); err != nil || of(r, a).Known != 1 {
		t.Errorf("the same once more: %+v, %v", r, err)
	}
	if a.pending(b) != due {
		t.Error("a sheet moved a cursor")
	}
	b.has(id, ids[:len(got)]...)
	// The rest by stick: nothing comes twice.
	d := openStick(t, t.TempDir())
	a.export(d)
	b.imports(d)
	b.has(id, ids...)
}

func TestForgedSheets(t *testing.T) {
	w, a, b, id := pair(t)
	ctx := t.Context()
	c := w.box("c.test")
	says(a, id, 3)
	texts, _, left, err := a.courier.Sheet(ctx, b.peer, id, 4, true)
	if err != nil || len(texts) != 1 || left {
		t.Fatal(texts, left, err)
	}
	if _, _, _, err := a.courier.Sheet(ctx, c.peer, id, 1, false); !errors.Is(err, ErrNothingDue) {
		t.Errorf("a sheet for a box that is not in the room: %v", err)
	}
	before := state(a, b)
	flip := []byte(texts[0])
	flip[len(flip)/2] ^= 3
	for what, text := range map[string]string{
		"nothing": "", "prose": "Guten Morgen", "cut": texts[0][:len(texts[0])-9], "flipped": string(flip), "empty": "HALLIG:1/1:AAAA:",
		"many": "HALLIG:1/99:AAAA:AAAA", "zero": "HALLIG:0/1:AAAA:AAAA", "short": "HALLIG:1/1:AAAA:AAAAAAAA", "no letters": "HALLIG:1/1:AAAA:ÄÖÜ", "negative": "HALLIG:-1/-1:AAAA:AA",
	} {
		if _, err := b.courier.ReadSheet(ctx, text); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	if _, err := c.courier.ReadSheet(ctx, texts[0]); !errors.Is(err, ErrForged) {
		t.Errorf("somebody else's sheet: %v", err)
	}
	if got := state(a, b); got != before || len(b.texts(id)) != 0 {
		t.Errorf("something changed: %s, before %s", got, before)
	}
}

func FuzzGather(f *testing.F) {
	f.Add("HALLIG:1/2:ABCD:AAAA HALLIG:2/2:ABCD:BBBB")
	f.Add(strings.Join(split(make([]byte, 3000)), "\n"))
	f.Fuzz(func(t *testing.T, text string) {
		sealed, err := gather(text)
		if err == nil && len(sealed) == 0 {
			t.Error("nothing was taken for a sheet")
		}
	})
}
