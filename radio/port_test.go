// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/ether"
)

// station is one end with everything it was told.
type station struct {
	port  *Port
	mu    sync.Mutex
	got   []string
	ups   int
	downs int
	ready int
	at    map[string]time.Time
	hook  func(string)
}

// on sets what the station does when a message comes.
func (s *station) on(f func(string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = f
}

func (s *station) count() (got, ups, downs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got), s.ups, s.downs
}

// bed is two ports over one medium, running.
type bed struct {
	air *ether.Ether
	s   [2]*station
}

func newBed(t *testing.T, air ether.Config, change func(*Config)) *bed {
	t.Helper()
	b := &bed{air: ether.New(air)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range b.s {
		s := &station{at: map[string]time.Time{}}
		cfg := Config{
			Name: fmt.Sprintf("p%d", i), BitsPerSecond: air.BitsPerSecond, TurnDelay: air.TurnDelay, FullDuplex: air.FullDuplex,
			Seed: air.Seed<<1 + uint64(i) + 1, Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("port", i),
			Open: func(context.Context) (io.ReadWriteCloser, error) { return b.air.Open(i) },
		}
		if change != nil {
			change(&cfg)
		}
		s.port = New(cfg)
		b.s[i] = s
		wg.Go(func() {
			err := s.port.Serve(ctx,
				func(string, int, int) { s.mu.Lock(); s.ups++; s.mu.Unlock() },
				func(string) { s.mu.Lock(); s.downs++; s.mu.Unlock() },
				func(_ string, m []byte) {
					s.mu.Lock()
					s.got = append(s.got, string(m))
					s.at[string(m)] = time.Now()
					hook := s.hook
					s.mu.Unlock()
					if hook != nil {
						hook(string(m))
					}
				},
				func(string) { s.mu.Lock(); s.ready++; s.mu.Unlock() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Serve ended with %v, want context.Canceled", err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return b
}

// until lets virtual time pass until ok, at most for a while.
func until(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(most)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, most)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
	}
}

func (b *bed) up() bool {
	return b.s[0].port.Stats().Up && b.s[1].port.Stats().Up
}

func text(i, n int) []byte {
	return append(fmt.Appendf(nil, "%03d ", i), bytes.Repeat([]byte{'x'}, n-4)...)
}

// The story of the product: a slow radio, a fifth of all frames lost, ten short messages each way.
func TestTenEachWay(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: 1200, FrameLoss: 0.2, Seed: seed}, nil)
			until(t, time.Minute, "contact", b.up)
			began := time.Now()
			var mu sync.Mutex
			arrived := 0
			for i := range 10 {
				for _, s := range b.s {
					s.port.Send(s.port.Addr(), 3, text(i, 110), func(err error) {
						if err != nil {
							t.Errorf("message %d: %v", i, err)
						}
						mu.Lock()
						arrived++
						mu.Unlock()
					})
				}
			}
			until(t, 150*time.Second, "all messages", func() bool { mu.Lock(); defer mu.Unlock(); return arrived == 20 })
			for i, s := range b.s {
				for k := range 10 {
					if want := string(text(k, 110)); s.got[k] != want {
						t.Errorf("end %d message %d = %.8q, want %.8q", i, k, s.got[k], want)
					}
				}
				if len(s.got) != 10 {
					t.Errorf("end %d got %d messages, want 10", i, len(s.got))
				}
			}
			t.Logf("seed %d: %v of line time, sent %d and %d bytes", seed, time.Since(began), b.s[0].port.Stats().BytesSent, b.s[1].port.Stats().BytesSent)
		})
	}
}

// A lone message costs one frame and one short answer, and then nothing.
func TestLoneMessageBytes(t *testing.T) {
	for _, full := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: 1200, FullDuplex: true}, func(c *Config) { c.FullDuplex = full })
			until(t, time.Minute, "contact", b.up)
			time.Sleep(5 * time.Second)
			before := b.air.Counters(0).Bytes + b.air.Counters(1).Bytes
			arrived := false
			b.s[0].port.Send(b.s[0].port.Addr(), 3, bytes.Repeat([]byte{7}, 110), func(err error) { arrived = err == nil })
			time.Sleep(20 * time.Second)
			synctest.Wait()
			cost := b.air.Counters(0).Bytes + b.air.Counters(1).Bytes - before
			if !arrived || cost != 110+9+8 {
				t.Errorf("full duplex %v: arrived %v for %d bytes, want 127", full, arrived, cost)
			}
		})
	}
}

// One end is configured for turns, the other is not: it works all the same on a medium that allows it.
func TestMixedDuplex(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: 9600, FullDuplex: true, FrameLoss: 0.1, Seed: seed}, func(c *Config) { c.FullDuplex = c.Name == "p0" })
			until(t, time.Minute, "contact", b.up)
			for i := range 40 {
				for _, s := range b.s {
					s.port.Send(s.port.Addr(), 3, text(i, 500), nil)
				}
			}
			until(t, 2*time.Minute, "all messages", func() bool {
				m, _, _ := b.s[0].count()
				n, _, _ := b.s[1].count()
				return m == 40 && n == 40
			})
			if _, ups, _ := b.s[0].count(); ups != 1 {
				t.Errorf("contact was made %d times, want once", ups)
			}
		})
	}
}

// What the reader answers at once rides on the acknowledgement.
func TestReceiptRidesAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 1200}, nil)
		until(t, time.Minute, "contact", b.up)
		time.Sleep(5 * time.Second)
		s := b.s[1]
		s.on(func(string) { s.port.Send(s.port.Addr(), 3, []byte("kept 12345"), nil) })
		before := b.air.Counters(0).Bytes + b.air.Counters(1).Bytes
		b.s[0].port.Send(b.s[0].port.Addr(), 3, bytes.Repeat([]byte{7}, 110), nil)
		until(t, 10*time.Second, "receipt", func() bool { n, _, _ := b.s[0].count(); return n == 1 })
		time.Sleep(3 * time.Second)
		if cost := b.air.Counters(0).Bytes + b.air.Counters(1).Bytes - before; cost != 110+9+10+9+2+8 {
			t.Errorf("message and receipt cost %d bytes, want 148", cost)
		}
	})
}

// An urgent message passes a file of 60 KB within the frame that is under way, or within the turn from the other end.
func TestUrgentOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond}, nil)
		until(t, time.Minute, "contact", b.up)
		p0, p1 := b.s[0].port, b.s[1].port
		p0.Send(p0.Addr(), 4, bytes.Repeat([]byte{9}, 60_000), nil)
		time.Sleep(time.Minute)
		for i := range 10 {
			began := time.Now()
			same, opposite := fmt.Sprintf("same %d", i), fmt.Sprintf("opposite %d", i)
			p0.Send(p0.Addr(), 0, []byte(same), nil)
			p1.Send(p1.Addr(), 0, []byte(opposite), nil)
			until(t, 15*time.Second, "both urgent messages", func() bool {
				a, _, _ := b.s[0].count()
				c, _, _ := b.s[1].count()
				return a == i+1 && c == i+1
			})
			if d := b.s[1].at[same].Sub(began); d > 5*time.Second {
				t.Errorf("%s took %v", same, d)
			}
			if d := b.s[0].at[opposite].Sub(began); d > 12*time.Second {
				t.Errorf("%s took %v", opposite, d)
			}
			time.Sleep(time.Duration(i) * 700 * time.Millisecond)
		}
		until(t, 20*time.Minute, "the file", func() bool { n, _, _ := b.s[1].count(); return n == 11 })
	})
}

func TestUnplugAndReplug(t *testing.T) {
	for _, bps := range []int{1200, 9600, 115200} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: bps, Seed: 3}, nil)
			until(t, time.Minute, "contact", b.up)
			p := b.s[0].port
			for range 3 {
				result := make(chan error, 1)
				p.Send(p.Addr(), 3, bytes.Repeat([]byte{1}, 5000), func(err error) { result <- err })
				time.Sleep(10 * time.Millisecond)
				b.air.Unplug(0, true)
				if err := <-result; !errors.Is(err, ErrDown) {
					t.Fatalf("message under way when the plug was pulled: %v, want ErrDown", err)
				}
				time.Sleep(20 * time.Second)
				b.air.Unplug(0, false)
				most := 3 * time.Second
				if bps == 1200 {
					most = 6 * time.Second
				}
				until(t, most, fmt.Sprintf("contact at %d bit/s after the plug was put back", bps), func() bool { return b.up() })
				p.Send(p.Addr(), 3, []byte("again"), func(err error) { result <- err })
				if err := <-result; err != nil {
					t.Fatalf("message after the plug was put back: %v", err)
				}
			}
			synctest.Wait()
			for i, s := range b.s {
				if _, ups, downs := s.count(); ups != 4 || downs != 3 {
					t.Errorf("end %d was told up %d times, down %d times; want 4 and 3", i, ups, downs)
				}
			}
		})
	}
}

// A line that is cut and joined again, unnoticed by the ports.
func TestCutAndRestore(t *testing.T) {
	for _, bps := range []int{1200, 115200} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: bps, Seed: 5}, nil)
			until(t, time.Minute, "contact", b.up)
			p, q := b.s[0].port, b.s[1].port
			for round := range 4 {
				b.air.Cut(true)
				results := make(chan error, 2)
				p.Send(p.Addr(), 3, []byte("into the dark"), func(err error) { results <- err })
				if round%2 == 1 {
					q.Send(q.Addr(), 3, []byte("from the dark"), func(err error) { results <- err })
				} else {
					results <- ErrDown
				}
				for range 2 {
					if err := <-results; !errors.Is(err, ErrDown) {
						t.Fatalf("message over a cut line: %v, want ErrDown", err)
					}
				}
				time.Sleep(time.Minute + time.Duration(round)*777*time.Millisecond)
				b.air.Cut(false)
				most := 3 * time.Second
				if bps == 1200 {
					most = 8 * time.Second
				}
				until(t, most, fmt.Sprintf("contact at %d bit/s after the cut", bps), b.up)
				time.Sleep(time.Second)
				p.Send(p.Addr(), 3, []byte("light"), func(err error) { results <- err })
				if err := <-results; err != nil {
					t.Fatalf("message after the cut: %v", err)
				}
			}
		})
	}
}

// Keys come in while traffic flows; nothing is lost, and afterwards the wire shows no plain text.
func TestKeys(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: 9600, FrameLoss: 0.2, Seed: seed}, nil)
			until(t, time.Minute, "contact", b.up)
			p, q := b.s[0].port, b.s[1].port
			k1, k2 := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
			ok := 0
			var mu sync.Mutex
			done := func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("message: %v", err)
				}
				ok++
			}
			// The responder has its keys as soon as it has answered, the other one when the answer has arrived.
			b.s[1].on(func(m string) {
				if m == "hello 1" {
					q.Send(q.Addr(), 1, []byte("hello 2"), done)
					if err := q.SetKeys(q.Addr(), k2, k1); err != nil {
						t.Error(err)
					}
					q.Send(q.Addr(), 1, []byte("secret of q"), done)
				}
			})
			b.s[0].on(func(m string) {
				if m == "hello 2" {
					if err := p.SetKeys(p.Addr(), k1, k2); err != nil {
						t.Error(err)
					}
					p.Send(p.Addr(), 1, []byte("secret of p"), done)
				}
			})
			for i := range 20 {
				p.Send(p.Addr(), 3, text(i, 150), done)
			}
			p.Send(p.Addr(), 1, []byte("hello 1"), done)
			until(t, time.Minute, "all messages", func() bool { mu.Lock(); defer mu.Unlock(); return ok == 24 })
			if !p.Stats().Keyed || !q.Stats().Keyed {
				t.Errorf("keyed: %v and %v, want both", p.Stats().Keyed, q.Stats().Keyed)
			}
			if err := p.SetKeys(p.Addr(), k1[:5], k2); err == nil {
				t.Error("a short key was accepted")
			}
		})
	}
}

// The responder may take its keys only when its answer has arrived; by then the initiator already sends under them. The
// acknowledgement the responder waits for must not hide in a frame it cannot read. Later both take new keys on the way.
func TestKeysAfterTheAnswerArrived(t *testing.T) {
	for i := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			full := i%2 == 0
			b := newBed(t, ether.Config{BitsPerSecond: 9600, FullDuplex: full, FrameLoss: float64(i/2%3) * 0.1, Seed: i}, nil)
			until(t, time.Minute, "contact", b.up)
			p, q := b.s[0].port, b.s[1].port
			key := func(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }
			handshake := func(n byte) {
				t.Helper()
				one, two, secret := fmt.Sprint("one ", n), fmt.Sprint("two ", n), fmt.Sprint("secret ", n)
				arrived := 0
				var mu sync.Mutex
				count := func(err error) {
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						arrived++
					}
				}
				b.s[1].on(func(m string) {
					if m == one {
						q.Send(q.Addr(), 1, []byte(two), func(err error) {
							if err := errors.Join(err, q.SetKeys(q.Addr(), key(n+1), key(n))); err != nil {
								t.Error(err)
							}
							q.Send(q.Addr(), 1, []byte(secret), count)
						})
					}
				})
				b.s[0].on(func(m string) {
					if m == two {
						if err := p.SetKeys(p.Addr(), key(n), key(n+1)); err != nil {
							t.Error(err)
						}
						p.Send(p.Addr(), 1, []byte(secret), count)
					}
				})
				p.Send(p.Addr(), 1, []byte(one), nil)
				until(t, 20*time.Second, "both secrets", func() bool { mu.Lock(); defer mu.Unlock(); return arrived == 2 })
				if !p.Stats().Keyed || !q.Stats().Keyed {
					t.Errorf("keyed: %v and %v, want both", p.Stats().Keyed, q.Stats().Keyed)
				}
			}
			handshake(1)
			handshake(11)
			if _, ups, _ := b.s[0].count(); ups != 1 {
				t.Errorf("contact was made %d times, want once", ups)
			}
		})
	}
}

// Cleared keys never let a secret out in the clear: the contact ends instead.
func TestClearedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 9600}, nil)
		until(t, time.Minute, "contact", b.up)
		p := b.s[0].port
		if err := p.SetKeys(p.Addr(), make([]byte, 32), make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
		result := make(chan error, 1)
		p.Send(p.Addr(), 1, []byte("secret"), func(err error) { result <- err })
		if err := p.SetKeys(p.Addr(), nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, ErrDown) {
			t.Errorf("the secret: %v, want ErrDown", err)
		}
		until(t, time.Minute, "contact", b.up)
		if n, _, _ := b.s[1].count(); n != 0 {
			t.Error("the secret went out")
		}
	})
}

// Two stations that both start at once, again and again, on a half duplex medium.
func TestCollisionsResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, Seed: 8}, nil)
		until(t, time.Minute, "contact", b.up)
		for i := range 50 {
			for _, s := range b.s {
				s.port.Send(s.port.Addr(), 2, text(i, 60), nil)
			}
			until(t, 20*time.Second, "both messages", func() bool {
				m, _, _ := b.s[0].count()
				n, _, _ := b.s[1].count()
				return m == i+1 && n == i+1
			})
			time.Sleep(5 * time.Second)
		}
		if _, ups, _ := b.s[0].count(); ups != 1 {
			t.Errorf("contact was made %d times, want once", ups)
		}
	})
}

// A reader that does not read holds the sender back and costs bounded memory; nothing is lost.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 1_000_000, FullDuplex: true}, nil)
		until(t, time.Minute, "contact", b.up)
		gate := make(chan struct{})
		b.s[1].on(func(string) { <-gate })
		p := b.s[0].port
		var mu sync.Mutex
		arrived := 0
		for i := range 20 {
			p.Send(p.Addr(), 3, text(i, 60_000), func(err error) {
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					arrived++
				}
			})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		if arrived > 7 {
			t.Errorf("%d messages of 60 KB were taken in although nobody reads", arrived)
		}
		mu.Unlock()
		close(gate)
		until(t, time.Minute, "all messages", func() bool { n, _, _ := b.s[1].count(); return n == 20 })
	})
}

// Free and ready keep a sender going without a long queue.
func TestFreeAndReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, ether.Config{BitsPerSecond: 9600}, nil)
		until(t, time.Minute, "contact", b.up)
		p := b.s[0].port
		sent := 0
		for round := 0; sent < 100; round++ {
			for p.Free(p.Addr(), 3) > 0 && sent < 100 {
				p.Send(p.Addr(), 3, text(sent, 500), nil)
				sent++
			}
			was := b.s[0].readyCount()
			if sent < 100 {
				until(t, 30*time.Second, "ready", func() bool { return b.s[0].readyCount() > was })
			}
		}
		until(t, time.Minute, "all messages", func() bool { n, _, _ := b.s[1].count(); return n == 100 })
		if n := p.Free("another", 3); n != 0 {
			t.Errorf("Free of an unknown address = %d", n)
		}
	})
}

func (s *station) readyCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

func TestSendWithoutContact(t *testing.T) {
	p := New(Config{Name: "x"})
	result := make(chan error, 1)
	p.Send(p.Addr(), 3, nil, func(err error) { result <- err })
	if err := <-result; !errors.Is(err, ErrDown) {
		t.Errorf("Send before Serve: %v, want ErrDown", err)
	}
	if err := p.Serve(t.Context(), nil, nil, nil, nil); err == nil {
		t.Error("Serve without Open succeeded")
	}
}
