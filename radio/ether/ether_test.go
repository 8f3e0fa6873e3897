// SPDX-License-Identifier: EUPL-1.2

package ether

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func bytesOf(a []Arrival) (out []byte) {
	for _, x := range a {
		out = append(out, x.Bytes...)
	}
	return out
}

func TestRateAndTurn(t *testing.T) {
	now := time.Unix(1, 0)
	a := NewAir(Config{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, Delay: 10 * time.Millisecond})
	first := a.Send(now, 0, make([]byte, 120))
	if got, want := first[len(first)-1].End.Sub(now).Round(time.Millisecond), 1310*time.Millisecond; got != want {
		t.Errorf("120 bytes at 1200 bit/s after 300 ms: there after %v, want %v", got, want)
	}
	second := a.Send(now.Add(time.Second), 0, make([]byte, 12)) // still sending: no new turn-around
	if got, want := second[len(second)-1].End.Sub(now).Round(time.Millisecond), 1410*time.Millisecond; got != want {
		t.Errorf("12 bytes behind them: there after %v, want %v", got, want)
	}
	third := a.Send(now.Add(time.Minute), 0, []byte{1})
	if got := third[0].End.Sub(now.Add(time.Minute)); got <= 300*time.Millisecond {
		t.Errorf("a new transmission took %v, want the turn-around again", got)
	}
}

func TestLoss(t *testing.T) {
	frame := append(bytes.Repeat([]byte{7}, 50), 0)
	for _, as := range []Loss{Vanish, Damage} {
		a := NewAir(Config{FrameLoss: 0.2, LossAs: as, Seed: 1})
		whole := 0
		const n = 2000
		for i := range n {
			got := bytesOf(a.Send(time.Unix(int64(i), 0), 0, frame))
			switch {
			case bytes.Equal(got, frame):
				whole++
			case as == Vanish && len(got) != 0:
				t.Fatalf("a vanished frame left %x", got)
			case as == Damage && len(got) != len(frame):
				t.Fatalf("a damaged frame has %d bytes, want %d", len(got), len(frame))
			}
		}
		if share := float64(whole) / n; share < 0.77 || share > 0.83 {
			t.Errorf("loss %d: %.3f of the frames came through, want 0.80", as, share)
		}
		if c := a.Counters(0); c.Frames != n || c.Lost != uint64(n-whole) || c.Bytes != n*51 {
			t.Errorf("loss %d: counters %+v", as, c)
		}
	}
}

func TestBitErrorsAndSeed(t *testing.T) {
	send := func(seed uint64) []byte {
		a := NewAir(Config{BitErrors: 0.01, Seed: seed})
		return bytesOf(a.Send(time.Unix(1, 0), 0, make([]byte, 10_000)))
	}
	one := send(1)
	flipped := 0
	for _, c := range one {
		for ; c != 0; c &= c - 1 {
			flipped++
		}
	}
	if flipped < 650 || flipped > 950 {
		t.Errorf("%d of 80,000 bits turned over, want about 800", flipped)
	}
	if !bytes.Equal(one, send(1)) || bytes.Equal(one, send(2)) {
		t.Error("the weather does not follow the seed alone")
	}
}

func TestHalfDuplexCollision(t *testing.T) {
	now := time.Unix(1, 0)
	for _, full := range []bool{false, true} {
		a := NewAir(Config{BitsPerSecond: 1200, FullDuplex: full})
		x := a.Send(now, 0, make([]byte, 100))
		y := a.Send(now.Add(100*time.Millisecond), 1, make([]byte, 10))
		heard := 0
		for _, r := range append(x, y...) {
			if a.Hear(r) {
				heard += len(r.Bytes)
			}
		}
		// Both deaf while they send: only what 0 sends while 1 is silent is heard.
		if full && heard != 110 || !full && (heard < 70 || heard > 90) {
			t.Errorf("full duplex %v: %d bytes heard", full, heard)
		}
	}
}

func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Config{BitsPerSecond: 1200})
		a, err := e.Open(0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := e.Open(1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Open(1); !errors.Is(err, os.ErrExist) {
			t.Errorf("second Open: %v, want os.ErrExist", err)
		}
		began := time.Now()
		if _, err := a.Write(make([]byte, 1200)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, make([]byte, 1200)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began).Round(time.Millisecond); d != 10*time.Second {
			t.Errorf("1200 bytes took %v, want 10 s", d)
		}
		// A full buffer makes Write wait.
		began = time.Now()
		for range 3 {
			if _, err := a.Write(make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(began); d < 30*time.Second {
			t.Errorf("12 KB were taken in %v", d)
		}
		freed := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			freed <- err
		}()
		synctest.Wait()
		e.Unplug(0, true)
		if err := <-freed; !errors.Is(err, ErrUnplugged) {
			t.Errorf("Read of an unplugged end: %v, want ErrUnplugged", err)
		}
		if _, err := a.Write([]byte{1}); !errors.Is(err, ErrUnplugged) {
			t.Errorf("Write to an unplugged end: %v, want ErrUnplugged", err)
		}
		if _, err := e.Open(0); !errors.Is(err, ErrUnplugged) {
			t.Errorf("Open of an unplugged end: %v, want ErrUnplugged", err)
		}
		e.Unplug(0, false)
		if _, err := e.Open(0); err != nil {
			t.Errorf("Open after the plug was put back: %v", err)
		}
		e.Cut(true)
		if _, err := b.Write([]byte{1}); err != nil {
			t.Errorf("Write to a cut line: %v", err)
		}
		time.Sleep(time.Minute) // what is on its way has come or gone
	})
}

// Three ends on one channel: who transmits is heard by all in reach; two at once are heard by nobody who hears both.
func TestSharedMedium(t *testing.T) {
	now := time.Unix(1, 0)
	heard := func(a *Air, arrivals []Arrival) (n [3]int) {
		for _, r := range arrivals {
			if a.Hear(r) {
				n[r.To] += len(r.Bytes)
			}
		}
		return n
	}
	a := NewAir(Config{Ends: 3, BitsPerSecond: 1200})
	if got, want := heard(a, a.Send(now, 0, make([]byte, 50))), [3]int{0, 50, 50}; got != want {
		t.Errorf("one speaks: heard %v, want %v", got, want)
	}
	now = now.Add(time.Minute)
	both := append(a.Send(now, 0, make([]byte, 50)), a.Send(now, 1, make([]byte, 50))...)
	if got := heard(a, both); got != [3]int{} {
		t.Errorf("two speak at once: heard %v, want nothing", got)
	}
	a.SetReach(0, 2, false) // 2 hears 1 only, and 0 does not hear 2
	now = now.Add(time.Minute)
	both = append(a.Send(now, 0, make([]byte, 50)), a.Send(now, 1, make([]byte, 50))...)
	if got, want := heard(a, both), [3]int{0, 0, 50}; got != want {
		t.Errorf("two speak, one hidden from 2: heard %v, want %v", got, want)
	}
	now = now.Add(time.Minute)
	hidden := append(a.Send(now, 0, make([]byte, 50)), a.Send(now, 2, make([]byte, 50))...)
	if got := heard(a, hidden); got != [3]int{} {
		t.Errorf("two hidden from each other speak to the one between: heard %v, want nothing", got)
	}
}
