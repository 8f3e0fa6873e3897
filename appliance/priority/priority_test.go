// SPDX-License-Identifier: EUPL-1.2

package priority

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		content string
		change  func(*Policy)
		wrong   bool
	}{
		{`{}`, func(*Policy) {}, false},
		{`{"default":"flash","power":{"flash":0},"quiet_min":0}`, func(p *Policy) { p.Default, p.Power[Flash], p.Quiet = Flash, 0, 0 }, false},
		{`{"per_10_min":{"flash":0,"immediate":3},"lifetime_min":{"priority":5}}`,
			func(p *Policy) { p.Most[Flash], p.Most[Immediate], p.Lifetime[Priority] = 0, 3, 5*time.Minute }, false},
		{`{"default":"urgent","power":{"immediate":10}}`, func(p *Policy) { p.Power[Immediate] = 10 }, true},
		{`{"default":null}`, func(*Policy) {}, true},
		{`{"power":{"bulk":0}}`, func(*Policy) {}, true},
		{`{"power":{"flash":"0"}}`, func(*Policy) {}, true},
		{`{"power":{"flash":null}}`, func(*Policy) {}, true},
		{`{"power":[1]}`, func(*Policy) {}, true},
		{`{"power":null}`, func(*Policy) {}, true},
		{`{"per_10_min":{"flash":-1}}`, func(*Policy) {}, true},
		{`{"lifetime_min":{"flash":100000000}}`, func(*Policy) {}, true},
		{`{"quiet_min":31}`, func(*Policy) {}, true},
		{`{"quiet_min":1.5}`, func(*Policy) {}, true},
		{`[]`, func(*Policy) {}, true},
		{`{"something":"else"}`, func(*Policy) {}, false},
	} {
		want := Unset()
		tt.change(&want)
		got, err := Parse([]byte(tt.content))
		if got != want || (err != nil) != tt.wrong {
			t.Errorf("%s: got %+v, %v; want %+v, error %v", tt.content, got, err, want, tt.wrong)
		}
	}
}

func TestAsked(t *testing.T) {
	for _, tt := range []struct {
		content string
		want    Level
		said    bool
		wrong   bool
	}{
		{`{"body":"x"}`, Routine, false, false},
		{`{"org.hallig.priority":"flash"}`, Flash, true, false},
		{`{"org.hallig.priority":"bulk","body":"x"}`, Bulk, true, false},
		{`{"org.hallig.priority":"FLASH"}`, Routine, true, true},
		{`{"org.hallig.priority":0}`, Routine, true, true},
		{`{"m.new_content":{"org.hallig.priority":"flash"}}`, Routine, false, false}, // only at the top
		{`nonsense`, Routine, false, false},
	} {
		l, said, err := Asked([]byte(tt.content))
		if l != tt.want || said != tt.said || (err != nil) != tt.wrong {
			t.Errorf("%s: got %v %v %v, want %v %v error %v", tt.content, l, said, err, tt.want, tt.said, tt.wrong)
		}
	}
}

func TestMay(t *testing.T) {
	unset := Unset()
	strict, _ := Parse([]byte(`{"power":{"flash":100,"immediate":50,"priority":25}}`))
	odd, _ := Parse([]byte(`{"power":{"flash":0,"immediate":100}}`))
	for _, tt := range []struct {
		p     *Policy
		asked Level
		power int64
		want  Level
	}{
		{&unset, Flash, 100, Flash}, {&unset, Flash, 50, Flash}, {&unset, Flash, 49, Priority}, {&unset, Immediate, 0, Priority},
		{&unset, Flash, -1, Routine}, {&unset, Bulk, -1, Bulk}, {&unset, Routine, 100, Routine},
		{&strict, Flash, 99, Immediate}, {&strict, Flash, 49, Priority}, {&strict, Flash, 24, Routine}, {&strict, Flash, math.MaxInt64, Flash},
		{&odd, Flash, 0, Flash}, {&odd, Immediate, 0, Priority},
		{&unset, -7, 0, Priority}, {&unset, 99, 100, Bulk},
	} {
		if got := tt.p.May(tt.asked, tt.power); got != tt.want {
			t.Errorf("asked %v with power %d: got %v, want %v", tt.asked, tt.power, got, tt.want)
		}
	}
}

// A sender has so many in ten minutes; further ones go one level lower; others are not touched by it, and after the ten minutes it begins anew.
func TestMeter(t *testing.T) {
	var m Meter
	p := Unset()
	p.Most = [Routine]int{Flash: 2, Immediate: 1, Priority: 1}
	now := time.Unix(1000, 0)
	take := func(sender string, after time.Duration) Level {
		return m.Take(now.Add(after), "!r", sender, &p, Flash, 100)
	}
	for i, want := range []Level{Flash, Flash, Immediate, Priority, Routine, Routine} {
		if got := take("@a", time.Duration(i)*time.Second); got != want {
			t.Errorf("message %d of @a: got %v, want %v", i+1, got, want)
		}
	}
	if got := take("@b", time.Minute); got != Flash {
		t.Errorf("@b: got %v, want flash", got)
	}
	if got := take("@a", Window-time.Millisecond); got != Routine {
		t.Errorf("@a just before the window's end: got %v, want routine", got)
	}
	if got := take("@a", Window); got != Flash {
		t.Errorf("@a after the window's end: got %v, want flash", got)
	}
	p.Most = [Routine]int{}
	for range 100 {
		if got := take("@c", 0); got != Flash {
			t.Fatalf("without limits: got %v, want flash", got)
		}
	}
}

// Very many senders do not make the meter grow without end.
func TestMeterIsBounded(t *testing.T) {
	var m Meter
	p := Unset()
	for i := range 3 * maxMetered {
		m.Take(time.Unix(0, 0), "!r", fmt.Sprint(i), &p, Flash, 100)
		if len(m.had) > maxMetered {
			t.Fatalf("%d senders are remembered", len(m.had))
		}
	}
}

func TestLeft(t *testing.T) {
	p := Unset()
	for _, tt := range []struct {
		l         Level
		age, want time.Duration
	}{
		{Flash, 0, time.Hour}, {Flash, 59 * time.Minute, time.Minute}, {Flash, time.Hour, 0}, {Flash, 2 * time.Hour, 0}, {Flash, -time.Hour, time.Hour},
		{Routine, 1000 * time.Hour, math.MaxInt64}, {Bulk, 0, math.MaxInt64},
	} {
		if got := p.Left(tt.l, tt.age); got != tt.want {
			t.Errorf("%v after %v: %v left, want %v", tt.l, tt.age, got, tt.want)
		}
	}
}

// Whatever the content, the policy that holds stays within bounds, and no message gets more than its sender may have.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"default":"flash","power":{"flash":0},"per_10_min":{"flash":1},"lifetime_min":{"flash":1},"quiet_min":5}`), []byte(`{"org.hallig.priority":"flash"}`), int64(50))
	f.Add([]byte(`{"power":{"flash":-9223372036854775808}}`), []byte(`{"org.hallig.priority":null}`), int64(-1))
	f.Fuzz(func(t *testing.T, policy, content []byte, power int64) {
		p, err := Parse(policy)
		if p.Quiet < 0 || p.Quiet > maxQuiet || p.Default < Flash || p.Default > Bulk {
			t.Fatalf("policy out of bounds: %+v", p)
		}
		for l := range Routine {
			if p.Lifetime[l] <= 0 || p.Lifetime[l] > maxLifetime || p.Most[l] < 0 || p.Most[l] > maxMost {
				t.Fatalf("policy out of bounds: %+v", p)
			}
		}
		if err == nil && !json.Valid(policy) {
			t.Fatal("no error for what is no JSON")
		}
		asked, said, err := Asked(content)
		if !said && (asked != Routine || err != nil) {
			t.Fatalf("nothing was asked: %v %v", asked, err)
		}
		if may := p.May(asked, power); may < asked || may < Routine && power < p.Power[may] {
			t.Fatalf("asked %v with power %d, may %v", asked, power, may)
		}
	})
}
