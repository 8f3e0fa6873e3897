// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/airtime"
	"hallig/radio/ether"
)

// The book of air time outlives the process: ended in order it says what was used, cut off it says no less.
func TestBookOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		b := newBed(t, ether.Config{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, Seed: 1}, func(c *Config) {
			c.Band, c.AirtimeFile = "eu868-10", filepath.Join(dir, c.Name)
		})
		until(t, time.Minute, "contact", b.up)
		done := 0
		for range 20 {
			b.s[0].port.Send(b.s[0].port.Addr(), 3, make([]byte, 400), func(error) { done++ })
		}
		until(t, 10*time.Minute, "messages", func() bool { return done == 20 })
		st := b.s[0].port.Stats()
		if !st.AirLimited || st.AirLimit != 6*time.Minute || st.AirLeft > 324*time.Second-st.Airtime+time.Second || st.AirLeft <= 0 {
			t.Errorf("after %v on the air: %+v", st.Airtime, st)
		}
		path := filepath.Join(dir, "p0")
		// The machine dies now. The next one reads the file as it is.
		again := New(Config{Name: "again", BitsPerSecond: 1200, Band: "eu868-10", AirtimeFile: path})
		again.openBook()
		if used := 324*time.Second - again.Stats().AirLeft; used < st.Airtime {
			t.Errorf("after a crash %v count as used, want at least the %v that were", used, st.Airtime)
		}
		// Ended in order, nothing is leased.
		b.s[0].port.closeBook()
		orderly := New(Config{Name: "orderly", BitsPerSecond: 1200, Band: "eu868-10", AirtimeFile: path})
		orderly.openBook()
		if flash := orderly.budget.Left(time.Now(), airtime.Flash); flash != 0 {
			t.Errorf("%v may be sent before anything is leased", flash)
		}
		orderly.lease()
		if used := orderly.budget.Clone().Left(time.Now(), 0); used > 6*time.Minute-st.Airtime || used < 6*time.Minute-st.Airtime-time.Second {
			t.Errorf("after an orderly end %v are left for flash, want %v less", used, st.Airtime)
		}
		// A damaged file counts as a full hour.
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		damaged := New(Config{Name: "damaged", BitsPerSecond: 1200, Band: "eu868-10", AirtimeFile: path})
		damaged.openBook()
		damaged.lease()
		if left := damaged.budget.Clone().Left(time.Now(), 0); left != 0 {
			t.Errorf("with a damaged book %v are left", left)
		}
		// So does one that somebody has taken away; a port that never sent is another matter.
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		gone := New(Config{Name: "gone", BitsPerSecond: 1200, Band: "eu868-10", AirtimeFile: path})
		gone.openBook()
		gone.lease()
		if left := gone.budget.Clone().Left(time.Now(), 0); left != 0 {
			t.Errorf("with a book taken away %v are left", left)
		}
		fresh := New(Config{Name: "fresh", BitsPerSecond: 1200, Band: "eu868-10", AirtimeFile: filepath.Join(dir, "fresh.json")})
		fresh.openBook()
		fresh.lease()
		if left := fresh.budget.Clone().Left(time.Now(), 0); left != 6*time.Minute {
			t.Errorf("a port that never sent has %v left", left)
		}
	})
}

func TestUnknownBand(t *testing.T) {
	p := New(Config{Name: "x", Band: "nonsense", Open: func(context.Context) (io.ReadWriteCloser, error) { return nil, io.EOF }})
	if err := p.Serve(context.Background(), nil, nil, nil, nil); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("an unknown band: %v", err)
	}
}
