// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/health"
)

var now = time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)

// well is a box with which nothing is wrong.
func well() Box {
	return Box{Server: "box1.test", Mode: "sealed", Connected: true, Seen: now.Add(-time.Minute), Version: "1.2.0", KeyUntil: now.Add(300 * day), CertificateUntil: now.Add(60 * day),
		Said: Said{State: health.OK, Sentence: "All is well.", SentenceDE: "Alles in Ordnung.", Clock: now.Add(-time.Minute).UnixMilli(), ClockGood: true}}
}

func TestJudge(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Box)
		state  health.State
		want   []string // what is said, the worst first
	}{
		"well": {func(*Box) {}, health.OK, nil},
		"away for a day": {func(b *Box) {
			b.Connected, b.Seen, b.Said.Clock = false, now.Add(-30*time.Hour), now.Add(-30*time.Hour).UnixMilli()
		}, health.OK, nil},
		"away for 9 days":       {func(b *Box) { b.Connected, b.Seen, b.Said = false, now.Add(-9*day-time.Hour), Said{} }, health.Look, []string{"Not heard for 9 days."}},
		"away for a month":      {func(b *Box) { b.Connected, b.Seen, b.Said = false, now.Add(-30*day), Said{} }, health.Trouble, []string{"Not heard for 30 days."}},
		"connected for a month": {func(b *Box) { b.Seen, b.Said = now.Add(-30*day), Said{} }, health.OK, nil},
		"never here":            {func(b *Box) { b.Connected, b.Seen, b.Said = false, time.Time{}, Said{} }, health.Look, []string{"never been in contact"}},
		"clock leads":           {func(b *Box) { b.Said.Clock += (3 * time.Hour).Milliseconds() }, health.Trouble, []string{"clock is 3 hours fast"}},
		"clock lags, and says so": {func(b *Box) { b.Said.Clock -= (10 * time.Minute).Milliseconds(); b.Said.ClockGood = false }, health.Look,
			[]string{"clock is 10 minutes slow"}},
		"clock of 1970":        {func(b *Box) { b.Said.Clock, b.Said.ClockGood = 1, false }, health.Trouble, []string{"days slow"}},
		"clock not sure":       {func(b *Box) { b.Said.ClockGood = false }, health.Look, []string{"not sure of the time"}},
		"two versions behind":  {func(b *Box) { b.Behind = 2 }, health.Look, []string{"2 versions behind (1.2.0)"}},
		"one version behind":   {func(b *Box) { b.Behind = 1 }, health.OK, nil},
		"certificate":          {func(b *Box) { b.CertificateUntil = now.Add(5*day + time.Hour) }, health.Look, []string{"ends in 5 days"}},
		"certificate tomorrow": {func(b *Box) { b.CertificateUntil = now.Add(day + time.Hour) }, health.Trouble, []string{"ends in a day"}},
		"certificate ended":    {func(b *Box) { b.CertificateUntil = now.Add(-time.Hour) }, health.Trouble, []string{"has ended"}},
		"minted anew":          {func(b *Box) { b.CertificateUntil = time.Time{} }, health.OK, nil},
		"no certificate":       {func(b *Box) { b.NoCertificate = true }, health.Trouble, []string{"no certificate"}},
		"key document":         {func(b *Box) { b.KeyUntil = now.Add(3 * day) }, health.Trouble, []string{"key document ends in 3 days"}},
		"key document ended":   {func(b *Box) { b.KeyUntil = now.Add(-time.Hour) }, health.Trouble, []string{"key document has ended"}},
		"room":                 {func(b *Box) { b.Full = 0.8 }, health.Look, []string{"80 % full"}},
		"no room":              {func(b *Box) { b.Full = 0.96 }, health.Trouble, []string{"96 % full"}},
		"keys used up": {func(b *Box) { b.Connected, b.Keys = false, Stock{Given: 3} }, health.Look,
			[]string{"used up"}},
		"keys are left": {func(b *Box) { b.Connected, b.Keys = false, Stock{Given: 3, Left: 1} }, health.OK, nil},
		"its own word":  {func(b *Box) { b.Said.State, b.Said.Sentence = health.Trouble, "No network: plug in the cable." }, health.Trouble, []string{"plug in the cable"}},
		"odd word":      {func(b *Box) { b.Said.State = "<odd>" }, health.OK, nil},
		"policy":        {func(b *Box) { b.Said.PolicyRefused = "signed by x" }, health.Look, []string{"signed by x"}},
		"several":       {func(b *Box) { b.Behind, b.NoCertificate = 3, true }, health.Trouble, []string{"no certificate", "3 versions"}},
		"turned away":   {func(b *Box) { b.Revoked, b.NoCertificate = "stolen", true }, health.OK, nil},
	} {
		b := well()
		tt.change(&b)
		s := State{Boxes: []Box{b}}
		Judge(&s, now)
		got := s.Boxes[0]
		if got.State != tt.state || len(got.Troubles) != len(tt.want) {
			t.Errorf("%s: %s %+v, want %s %q", name, got.State, got.Troubles, tt.state, tt.want)
			continue
		}
		for i, tr := range got.Troubles {
			if !slices.Contains(Kinds, tr.Kind) {
				t.Errorf("%s: %q is not one of Kinds", name, tr.Kind)
			}
			if !strings.Contains(tr.What.EN, tt.want[i]) || tr.What.DE == "" || tr.Next.EN == "" || tr.Next.DE == "" {
				t.Errorf("%s: %+v, want %q", name, tr, tt.want[i])
			}
		}
	}
}

func TestOrder(t *testing.T) {
	make := func(name string, change func(*Box)) Box {
		b := well()
		b.Server = name
		change(&b)
		return b
	}
	s := State{Hub: Hub{DiskFree: 5, DiskSize: 100}, Boxes: []Box{
		make("a", func(b *Box) { b.Revoked = "stolen" }), make("b", func(*Box) {}), make("d", func(b *Box) { b.Full = 1 }), make("c", func(b *Box) { b.Full = 1 }), make("e", func(b *Box) { b.Full = 0.9 }),
	}}
	Judge(&s, now)
	order := ""
	for _, b := range s.Boxes {
		order += b.Server
	}
	if order != "cdeba" {
		t.Errorf("order %s, want the worst first and those that were turned away last", order)
	}
	if len(s.Hub.Troubles) != 1 || s.Hub.Troubles[0].State != health.Look || !strings.Contains(s.Hub.Troubles[0].What.EN, "95 % full") {
		t.Errorf("%+v", s.Hub.Troubles)
	}
	s.Hub.Copies.Full = true
	if Judge(&s, now); len(s.Hub.Troubles) != 2 || s.Hub.Troubles[1].Kind != "copies" || s.Hub.Troubles[1].Next.DE == "" {
		t.Errorf("with nothing copied any more: %+v", s.Hub.Troubles)
	}
	s.Hub.Copies.Full, s.Hub.Files.Full = false, true
	if Judge(&s, now); len(s.Hub.Troubles) != 2 || s.Hub.Troubles[1].Kind != "copies" || !strings.Contains(s.Hub.Troubles[1].Next.DE, "Fotos") {
		t.Errorf("with no file kept any more: %+v", s.Hub.Troubles)
	}
}

// What a box says of itself may be anything.
func FuzzSaid(f *testing.F) {
	f.Add([]byte(`{"state":"ok","clock":1764212400000,"clock_good":true,"board":"amd64","release":3}`), int64(1764212400))
	f.Add([]byte(`{"clock":-9223372036854775808}`), int64(0))
	f.Add([]byte(`[]`), int64(-1))
	f.Fuzz(func(t *testing.T, raw []byte, seen int64) {
		s := State{Boxes: []Box{{Said: ReadSaid(raw), Seen: time.Unix(seen, 0)}}}
		Judge(&s, now)
		if _, err := json.Marshal(s.Boxes[0].Troubles); err != nil {
			t.Error(err)
		}
		for _, tr := range s.Boxes[0].Troubles {
			if tr.What.Empty() && tr.Kind != "health" || tr.Next.Empty() {
				t.Errorf("%+v", tr)
			}
		}
	})
}
