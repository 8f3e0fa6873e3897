// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func hardware(since int64, macs ...string) fstest.MapFS {
	sys := fstest.MapFS{"class/net/lo/address": {Data: []byte("00:00:00:00:00:00\n")}, "class/net/lo/addr_assign_type": {Data: []byte("0\n")}}
	if since != 0 {
		sys["class/rtc/rtc0/since_epoch"] = &fstest.MapFile{Data: fmt.Appendf(nil, "%d\n", since)}
	}
	for i, m := range macs {
		dir := fmt.Sprintf("class/net/eth%d/", i)
		sys[dir+"address"] = &fstest.MapFile{Data: []byte(m + "\n")}
		sys[dir+"addr_assign_type"] = &fstest.MapFile{Data: []byte("0\n")}
	}
	sys["class/net/tun0/address"] = &fstest.MapFile{Data: []byte("drawn\n")}
	sys["class/net/tun0/addr_assign_type"] = &fstest.MapFile{Data: []byte("1\n")}
	return sys
}

func TestHardwareClock(t *testing.T) {
	set := released.Add(24 * time.Hour)
	floor := set.Add(time.Hour)
	m := RTCMark{Set: set.Unix(), Quality: Exact, Machine: Machine(hardware(1, "aa", "bb"))}
	after := func(d time.Duration) int64 { return set.Add(d).Unix() }
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		sys  fstest.MapFS
		mark RTCMark
		want time.Time // zero: refused
		why  string
	}{
		{"a month later", hardware(after(30*day), "aa", "bb"), m, set.Add(30*day - 259200*time.Millisecond), ""},
		{"the cables swapped", hardware(after(30*day), "bb", "aa"), m, set.Add(30*day - 259200*time.Millisecond), ""},
		{"soon: not before what was known", hardware(floor.Unix(), "aa", "bb"), m, floor, ""},
		{"the battery is empty", hardware(946684800, "aa", "bb"), m, time.Time{}, "battery"},
		{"it stood for a while", hardware(floor.Unix()-10, "aa", "bb"), m, time.Time{}, "battery"},
		{"never set by us: it may run in local time", hardware(after(day), "aa", "bb"), RTCMark{}, time.Time{}, ""},
		{"the disk moved to another machine", hardware(after(day), "cc"), m, time.Time{}, ""},
		{"there is none", hardware(0, "aa", "bb"), m, time.Time{}, ""},
	} {
		r, ok, why := RTC(c.sys, c.mark, floor)
		if ok != !c.want.IsZero() || ok && (!r.Time.Equal(c.want) || r.Quality != Kept) || !strings.Contains(why, c.why) || c.why == "" && why != "" {
			t.Errorf("%s: %v %v %q", c.name, r, ok, why)
		}
	}
	m.Quality = Vouched
	if r, ok, _ := RTC(hardware(after(2*day), "aa", "bb"), m, floor); !ok || r.Quality != Vouched {
		t.Errorf("set by phones, it came back as %+v", r)
	}
}

func TestVouchers(t *testing.T) {
	now := released.Add(time.Hour)
	var v Vouchers
	if _, ok := v.Say("@a:x", false, now, 0); ok {
		t.Error("one user set the clock")
	}
	if _, ok := v.Say("@a:x", false, now.Add(time.Second), time.Second); ok {
		t.Error("one user with two voices set the clock")
	}
	if _, ok := v.Say("@b:x", false, now.Add(time.Hour), 2*time.Second); ok {
		t.Error("two users that differ by an hour set the clock")
	}
	if _, ok := v.Say("@c:x", false, now.Add(voteLife+time.Minute), voteLife+time.Minute); ok {
		t.Error("a word of long ago still counts")
	}
	r, ok := v.Say("@d:x", false, now.Add(voteLife+80*time.Second), voteLife+70*time.Second)
	if want := now.Add(voteLife + 70*time.Second); !ok || !r.Time.Equal(want) || r.Quality != Vouched {
		t.Errorf("got %+v, want the earlier of the two, %v", r, want)
	}
	if r, ok := v.Say("@admin:x", true, now.Add(time.Hour), time.Hour); !ok || r.Quality != Vouched {
		t.Errorf("the administrator's device: %+v %v", r, ok)
	}
	for i := range 1000 {
		v.Say(fmt.Sprint("@u", i), false, now.AddDate(i, 0, 0), time.Hour)
	}
	if len(v.votes) > 100 {
		t.Errorf("%d voices are kept", len(v.votes))
	}
}

// TestRank: the sources, each better than the one before; and what the weak ones may not do.
func TestRank(t *testing.T) {
	up := time.Duration(0)
	k := New(Config{Released: released, Boot: func() int64 { return 1 }, Uptime: func() time.Duration { return up }})
	now := released.AddDate(0, 1, 0)
	for q := Vouched; q <= Satellite; q++ {
		if !k.Set(Reading{Time: now.Add(time.Duration(q) * time.Minute), Quality: q}) {
			t.Errorf("%v was not heard after %v", q, q-1)
		}
		if k.Set(Reading{Time: now, Quality: q - 1}) {
			t.Errorf("%v was heard after %v", q-1, q)
		}
	}
	up = 48 * time.Hour
	if k.Set(Reading{Time: now.AddDate(-1, 0, 0), Quality: Exact}) {
		t.Error("a time before the release was taken")
	}
	for _, q := range []Quality{Vouched, Kept} {
		if k.Set(Reading{Time: now, Quality: q}) {
			t.Errorf("%v turned time back", q)
		}
	}
	if !k.Set(Reading{Time: now, Quality: Told}) {
		t.Error("two days later a box is not heard")
	}
}
