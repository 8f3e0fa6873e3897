// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"hallig/tools/imagetest/pcap"
	"hallig/tools/imagetest/vm"
)

// idleFor is how long the box idles, by its own clock.
const idleFor = 24 * time.Hour

// egress lets a box idle in virtual time, which jumps from timer to timer, and reads everything that it sent.
func egress(r *run) error {
	disk, err := r.newDisk(vm.BIOS, "idle")
	if err != nil {
		return err
	}
	// it is set up as it will be in the cellar: first boot and first administrator in real time, then it is left alone
	c := vm.Config{Dir: r.path("idle"), Disk: disk}
	b, err := r.power(c, firstBoot)
	if err != nil {
		return err
	}
	if err := b.enrol("antje"); err != nil {
		return err
	}
	b.Kill()
	c.Virtual, c.Dump, c.MAC, c.Ports = true, r.path("idle.pcap"), "52:54:00:68:61:6c", []int{}
	began := time.Now()
	if b, err = r.switchOn(c); err != nil {
		return err
	}
	start, err := b.rtc()
	if err != nil {
		return err
	}
	var idle time.Duration
	for idle < idleFor {
		select {
		case <-r.Done():
			return fmt.Errorf("only %v of virtual time in %v: %w", idle, time.Since(began), r.Err())
		case <-b.Gone():
			return errors.New("the machine has ended")
		case <-time.After(2 * time.Second):
		}
		now, err := b.rtc()
		if err != nil {
			return err
		}
		idle = now.Sub(start)
	}
	b.Kill()
	r.say("%.1f hours of the box's time passed in %.0f s", idle.Hours(), time.Since(began).Seconds())
	r.add(&r.boots, 1)
	return r.readDump(c.Dump, c.MAC)
}

// rtc reads the board's clock.
func (b *box) rtc() (time.Time, error) {
	var t struct{ Sec, Min, Hour, Mday, Mon, Year int }
	raw := map[string]int{}
	if err := b.Do("qom-get", map[string]any{"path": "/machine", "property": "rtc-time"}, &raw); err != nil {
		return time.Time{}, err
	}
	t.Sec, t.Min, t.Hour, t.Mday, t.Mon, t.Year = raw["tm_sec"], raw["tm_min"], raw["tm_hour"], raw["tm_mday"], raw["tm_mon"], raw["tm_year"]
	return time.Date(1900+t.Year, time.Month(1+t.Mon), t.Mday, t.Hour, t.Min, t.Sec, 0, time.UTC), nil
}

// readDump counts what the box sent and names what it should not have.
func (r *run) readDump(dump, mac string) error {
	f, err := os.Open(dump)
	if err != nil {
		return err
	}
	defer f.Close()
	count, bytes := map[pcap.Kind]int{}, 0
	strange := map[string]int{}
	var last time.Time
	var first time.Time
	err = pcap.Read(f, func(fr pcap.Frame) error {
		if fr.From.String() != mac {
			return nil
		}
		if first.IsZero() {
			first = fr.At
		}
		last = fr.At
		count[fr.Kind]++
		bytes += fr.Size
		if fr.Kind == pcap.Other {
			strange[fr.Text]++
		}
		return nil
	})
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	var kinds []string
	for k, n := range count {
		kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(kinds)
	r.say("sent: %s; %d bytes; the last frame %.1f h after the first", strings.Join(kinds, ", "), bytes, last.Sub(first).Hours())
	r.note("idle egress over %v of virtual time: %s; %d bytes in all", idleFor, strings.Join(kinds, ", "), bytes)
	// A recording in which nothing happens would prove nothing.
	r.check(count[pcap.DHCP] > 0 && count[pcap.MDNS] > 0, "the recording holds no DHCP or no mDNS: %v", count)
	for text, n := range strange {
		r.check(false, "an idle box sent %d frames of: %s", n, text)
	}
	return nil
}
