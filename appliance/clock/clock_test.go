// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"testing"
	"time"
)

// machine is a computer whose uptime and start are moved by hand.
type machine struct {
	boot int64
	up   time.Duration
}

func (m *machine) clock(mark Mark) *Clock {
	return New(Config{Released: released, Mark: mark, Boot: func() int64 { return m.boot }, Uptime: func() time.Duration { return m.up }})
}

func (m *machine) restart() { m.boot, m.up = m.boot+1, 0 }

var (
	released = time.UnixMilli(1_790_000_000_000)
	truth    = released.Add(100 * 24 * time.Hour)
)

func TestNobodyVouches(t *testing.T) {
	m := &machine{boot: 1}
	k := m.clock(Mark{})
	m.up = time.Hour
	if got, want := k.Now(), released.Add(time.Hour); !got.Equal(want) || k.Trusted() {
		t.Errorf("a new box: %v, trusted %v; want %v, untrusted", got, k.Trusted(), want)
	}
	mark := k.Mark()
	m.restart()
	m.up = time.Minute
	k = m.clock(mark)
	m.up += time.Minute
	if got, want := k.Now(), released.Add(time.Hour+time.Minute); !got.Equal(want) || k.Trusted() {
		t.Errorf("after a restart: %v, trusted %v; want %v, untrusted", got, k.Trusted(), want)
	}
	if k.Set(Reading{Time: released.Add(-time.Second), Quality: Exact}) {
		t.Error("a time before the program's release was believed")
	}
	if k.Set(Reading{Time: truth}) {
		t.Error("a reading that nobody vouches for was taken")
	}
}

// TestNeverLeads: whatever happens between restarts, time is never above what was vouched for and the time since.
func TestNeverLeads(t *testing.T) {
	m := &machine{boot: 1, up: time.Second}
	k := m.clock(Mark{})
	if !k.Set(Reading{Time: truth, Quality: Exact, Source: "NTP"}) {
		t.Fatal("NTP was not heard")
	}
	now := truth
	for range 50 { // restarts in quick succession, with a mark that is stored each time
		m.up += 30 * time.Second
		now = now.Add(30 * time.Second)
		mark := k.Mark()
		m.restart()
		now = now.Add(time.Hour) // the machine was off
		k = m.clock(mark)
		if k.Now().After(now) {
			t.Fatalf("%v is ahead of %v", k.Now(), now)
		}
		if k.Trusted() {
			t.Fatal("trusted after the machine was off")
		}
	}
	if lag := now.Sub(k.Now()); lag > 51*time.Hour {
		t.Errorf("lags %v behind", lag)
	}
}

func TestRestartOfTheProgram(t *testing.T) {
	m := &machine{boot: 7, up: time.Hour}
	k := m.clock(Mark{})
	k.Set(Reading{Time: truth, Quality: Entered, Source: "operator"})
	mark := k.Mark()
	m.up += 10 * time.Minute // a crash: the mark is old
	k = m.clock(mark)
	if got, want := k.Now(), truth.Add(10*time.Minute); !got.Equal(want) || !k.Trusted() {
		t.Errorf("%v, trusted %v; want %v and the trust from before", got, k.Trusted(), want)
	}
	mark.Uptime = (m.up + time.Hour).Milliseconds() // another machine with the same id, or nonsense
	if k = m.clock(mark); k.Trusted() || k.Now().After(truth) {
		t.Errorf("an uptime that ran backwards is taken for the same run: %v", k.State())
	}
}

func TestSources(t *testing.T) {
	m := &machine{boot: 1}
	k := m.clock(Mark{})
	for _, tc := range []struct {
		what  string
		after time.Duration
		r     Reading
		taken bool
	}{
		{"a box", 0, Reading{Time: truth, Quality: Told}, true},
		{"NTP", time.Minute, Reading{Time: truth, Quality: Exact}, true},
		{"a box after NTP", time.Minute, Reading{Time: truth.Add(time.Hour), Quality: Told}, false},
		{"an operator after NTP", time.Minute, Reading{Time: truth.Add(time.Hour), Quality: Entered}, false},
		{"NTP again, a year back", time.Minute, Reading{Time: truth.Add(-90 * 24 * time.Hour), Quality: Exact}, true},
		{"a box, when NTP was silent for long", 25 * time.Hour, Reading{Time: truth, Quality: Told, Source: "box b.test"}, false},
		{"another box that agrees", 0, Reading{Time: truth, Quality: Told, Source: "box c.test"}, true},
	} {
		m.up += tc.after
		before := k.Now()
		if got := k.Set(tc.r); got != tc.taken {
			t.Errorf("%s: taken %v, want %v", tc.what, got, tc.taken)
		}
		if want := tc.r.Time; tc.taken && !k.Now().Equal(want) {
			t.Errorf("%s: now %v, want %v", tc.what, k.Now(), want)
		} else if !tc.taken && !k.Now().Equal(before) {
			t.Errorf("%s: moved the clock from %v to %v", tc.what, before, k.Now())
		}
	}
}

// TestNetworkDoesNotLead: a time server that the network names sets a clock that nobody vouched for, and mends one that drifts; it does not put a
// known time forward by years.
func TestNetworkDoesNotLead(t *testing.T) {
	for _, known := range []Quality{Vouched, Kept, Told} {
		m := &machine{boot: 1}
		k := m.clock(Mark{})
		k.Set(Reading{Time: truth, Quality: known, Source: "somebody"})
		if k.Set(Reading{Time: truth.AddDate(3, 0, 0), Quality: Named, Source: "DHCP"}) || !k.Now().Equal(truth) {
			t.Errorf("%v: the network leads the clock to %v", known, k.Now())
		}
		for _, step := range []time.Duration{20 * time.Minute, -5 * time.Hour} { // the second is Named over Named: back is always allowed
			if !k.Set(Reading{Time: truth.Add(step), Quality: Named, Source: "DHCP"}) {
				t.Errorf("%v: a step of %v is not taken", known, step)
			}
		}
		m.up += 10 * time.Hour
		now := k.Now()
		if k.Set(Reading{Time: now.Add(50 * time.Minute), Quality: Named, Source: "DHCP"}) {
			t.Errorf("%v: the network leads the clock away in steps, to %v", known, k.Now())
		}
		if !k.Set(Reading{Time: now.Add(30 * time.Second), Quality: Named, Source: "DHCP"}) {
			t.Errorf("%v: a drift is not mended", known)
		}
	}
	k := (&machine{boot: 1}).clock(Mark{})
	if !k.Set(Reading{Time: truth, Quality: Named, Source: "DHCP"}) || !k.Now().Equal(truth) {
		t.Errorf("a clock that nobody knew stays at %v", k.Now())
	}
}

// A hub, or another box, that says 2099 does not lead a clock there: neither one that is known nor one that nobody vouches for. A box that comes out of a cupboard believes it, or two that agree.
func TestToldDoesNotLead(t *testing.T) {
	const day = 24 * time.Hour
	start := func(known Quality) (*machine, *Clock) {
		m := &machine{boot: 1}
		k := m.clock(Mark{})
		if known > Untrusted {
			k.Set(Reading{Time: truth, Quality: known, Source: "somebody"})
		}
		return m, k
	}
	for _, tc := range []struct {
		known Quality
		later time.Duration // after it was heard
		ahead time.Duration // of the clock by then
		taken bool
	}{
		{Untrusted, 0, 399 * day, true}, {Untrusted, 0, 401 * day, false}, {Untrusted, 0, 70 * 365 * day, false},
		{Kept, 0, 6 * day, true}, {Kept, 0, 8 * day, false}, {Vouched, 0, 8 * day, false},
		{Told, time.Hour, time.Minute, true}, {Told, time.Hour, 10 * time.Minute, false}, {Told, time.Hour, -day, true},
		{Exact, 25 * time.Hour, 59 * time.Minute, true}, {Exact, 25 * time.Hour, 2 * time.Hour, false}, {Exact, 25 * time.Hour, 73 * 365 * day, false}, {Exact, 25 * time.Hour, -day, true},
	} {
		m, k := start(tc.known)
		m.up += tc.later
		before := k.Now()
		if got := k.Set(Reading{Time: before.Add(tc.ahead), Quality: Told, Source: "hub h.test"}); got != tc.taken {
			t.Errorf("%v, and %v later a hub says %v more: taken %v", tc.known, tc.later, tc.ahead, got)
		}
	}
	// Two that agree, within ten minutes: the earlier counts.
	m, k := start(Untrusted)
	far := truth.AddDate(3, 0, 0)
	for _, said := range []struct {
		who   string
		at    time.Duration
		taken bool
	}{{"hub h.test", 0, false}, {"hub h.test", 0, false}, {"box b.test", 5 * day, false}, {"box c.test", 30 * time.Second, true}} {
		if got := k.Set(Reading{Time: far.Add(said.at), Quality: Told, Source: said.who}); got != said.taken {
			t.Errorf("%s at +%v: taken %v", said.who, said.at, got)
		}
		m.up += time.Second
	}
	if got := k.Now(); got.Before(far) || got.After(far.Add(10*time.Second)) {
		t.Errorf("two said %v and a little later, and it is %v", far, got)
	}
	_, k = start(Untrusted)
	for _, who := range []string{"hub h.test", "box b.test"} {
		if k.Set(Reading{Time: truth.AddDate(70, 0, 0), Quality: Told, Source: who}) {
			t.Errorf("%s leads the clock 70 years ahead", who)
		}
	}
	for quality, taken := range map[Quality]bool{Named: false, Vouched: false, Entered: true} {
		_, k = start(Untrusted)
		if k.Set(Reading{Time: truth.AddDate(70, 0, 0), Quality: quality}) != taken {
			t.Errorf("%v, 70 years ahead: taken %v", quality, !taken)
		}
	}
}

func TestSmallStepsBackAreWaitedOut(t *testing.T) {
	m := &machine{boot: 1}
	k := m.clock(Mark{})
	k.Set(Reading{Time: truth, Quality: Exact})
	before := k.Now()
	k.Set(Reading{Time: truth.Add(-2 * time.Second), Quality: Exact})
	if got := k.Now(); !got.Equal(before) {
		t.Errorf("time went from %v to %v", before, got)
	}
	m.up += 3 * time.Second
	if got, want := k.Now(), truth.Add(time.Second); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMarksAreRare(t *testing.T) {
	m := &machine{boot: 1}
	k := m.clock(Mark{})
	marks := 0
	for range 3600 {
		m.up += time.Second
		if _, due := k.Due(); due {
			marks++
		}
	}
	if marks != 60 {
		t.Errorf("%d marks in an hour, want 60", marks)
	}
}

func TestThisMachine(t *testing.T) {
	a := uptime()
	if b := uptime(); a <= 0 || b < a {
		t.Errorf("uptime %v, then %v", a, b)
	}
	if r, ok := System(); ok && (r.Quality != Exact || time.Since(r.Time) > time.Minute) {
		t.Errorf("reading %+v", r)
	}
}
