// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/sham"
)

// TestWhoDials: one end with a number calls, the other takes the call, by itself or on RING; frames pass; the end of the call is seen without a word
// from the far box; and after it the line is free for the next one.
func TestWhoDials(t *testing.T) {
	for name, noAuto := range map[string]bool{"answers by itself": false, "answers on RING": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := &sham.Exchange{}
				one, two := &sham.Phone{Exchange: x, Number: "1", Rate: 9600}, &sham.Phone{Exchange: x, Number: "2", NoAuto: noAuto}
				var ends [2]Stream
				var errs [2]error
				var both sync.WaitGroup
				both.Go(func() { ends[1], errs[1] = plug(t, Modem{Kind: AT}, two) })
				both.Go(func() {
					time.Sleep(time.Minute) // the far end waits, however long
					ends[0], errs[0] = plug(t, Modem{Kind: AT, Number: "T2"}, one)
				})
				both.Wait()
				if errs[0] != nil || errs[1] != nil {
					t.Fatal(errs)
				}
				for i := range ends {
					put(t, ends[i], every(200))
					if got := take(t, ends[1-i]); len(got) != 200 {
						t.Errorf("%d bytes from end %d", len(got), i)
					}
				}
				if q := ends[0].(Measured).Quality(); q.Note != "CONNECT 9600" {
					t.Errorf("note %q", q.Note)
				}
				// A frame that holds the modem's words is a frame.
				put(t, ends[0], []byte("\r\nNO CARRIER\r\n"))
				if got := take(t, ends[1]); string(got) != "\r\nNO CARRIER\r\n" {
					t.Errorf("frame %q", got)
				}
				time.Sleep(3 * time.Second)
				put(t, ends[0], []byte("still here"))
				if got := take(t, ends[1]); string(got) != "still here" {
					t.Errorf("frame %q", got)
				}
				one.HangUp()
				for i := range ends {
					var f *Fault
					for n, err := ends[i].Read(make([]byte, 100)); ; n, err = ends[i].Read(make([]byte, 100)) {
						if n == 0 && errors.As(err, &f) && strings.Contains(f.EN, "has ended") {
							break
						}
						if err != nil {
							t.Fatalf("end %d: %v", i, err)
						}
					}
				}
			})
		})
	}
}

// TestBothDial: two ends that both have a number find each other within minutes, by chance and back-off.
func TestBothDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &sham.Exchange{}
		phones := [2]*sham.Phone{{Exchange: x, Number: "1"}, {Exchange: x, Number: "2"}}
		for _, p := range phones {
			x.Join(p)
		}
		began := time.Now()
		var ends [2]Stream
		var both sync.WaitGroup
		var served [2]sync.WaitGroup
		for i := range phones {
			both.Go(func() {
				o := NewOpener(Modem{Kind: AT, Number: []string{"2", "1"}[i]})
				o.open = func(ctx context.Context, m Modem) (Stream, error) {
					far, near := net.Pipe()
					served[i].Wait()
					served[i].Go(func() { _ = phones[i].Serve(far) }) // ends with the pipe
					s, err := m.filled().talk(ctx, near)
					if err != nil {
						near.Close()
					}
					return s, err
				}
				for ends[i] == nil && time.Since(began) < time.Hour {
					ends[i], _ = o.Open(t.Context())
				}
			})
		}
		both.Wait()
		if ends[0] == nil || ends[1] == nil {
			t.Fatal("no call in an hour")
		}
		t.Logf("found each other after %v and %d + %d calls", time.Since(began), phones[0].Calls, phones[1].Calls)
		if took := time.Since(began); took > 10*time.Minute || phones[0].Calls == 0 || phones[1].Calls == 0 {
			t.Errorf("it took %v", took)
		}
		put(t, ends[0], every(30))
		if got := take(t, ends[1]); len(got) != 30 {
			t.Errorf("%d bytes", len(got))
		}
		var closing sync.WaitGroup
		for _, s := range ends {
			closing.Go(func() { s.Close() })
		}
		closing.Wait()
	})
}

// TestBackOff: a number that nobody has is called less and less often, so that no network bars the card.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		phone := &sham.Phone{Exchange: &sham.Exchange{}, Number: "1"}
		o := NewOpener(Modem{Kind: AT, Number: "2"})
		o.open = func(ctx context.Context, m Modem) (Stream, error) {
			far, near := net.Pipe()
			var served sync.WaitGroup
			served.Go(func() { _ = phone.Serve(far) })
			defer served.Wait()
			defer near.Close()
			return m.filled().talk(ctx, near)
		}
		for began := time.Now(); time.Since(began) < time.Hour; {
			if s, err := o.Open(t.Context()); err == nil {
				s.Close()
				t.Fatal("somebody answered")
			}
		}
		if phone.Calls < 10 || phone.Calls > 40 {
			t.Errorf("%d calls in an hour", phone.Calls)
		}
	})
}

// TestHangUpOfOurs: Close ends the call for the far end as well, though there is no DTR.
func TestHangUpOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &sham.Exchange{}
		one, two := &sham.Phone{Exchange: x, Number: "1"}, &sham.Phone{Exchange: x, Number: "2"}
		answered := make(chan Stream, 1)
		go func() { // received below
			s, _ := plug(t, Modem{Kind: AT}, two)
			answered <- s
		}()
		synctest.Wait() // it waits to be called
		s, err := plug(t, Modem{Kind: AT, Number: "2", Init: "ATZ ATE0"}, one)
		if err != nil {
			t.Fatal(err)
		}
		far := <-answered
		began := time.Now()
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("Close took %v", d)
		}
		var f *Fault
		for err == nil {
			_, err = far.Read(make([]byte, 100))
		}
		if !errors.As(err, &f) {
			t.Errorf("the far end: %v", err)
		}
	})
}

// TestCallOnTerminal is one call over pseudo terminals in real time, by the book; the plug is pulled during a frame.
func TestCallOnTerminal(t *testing.T) {
	far, err := NewPTY()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	played := make(chan error, 1)
	script := []string{
		"41540d", "0d0a4f4b0d0a", // AT, OK
		"41545a0d", "41545a0d0d0a4f4b0d0a", // ATZ, its echo and OK
		"41544530513056315834" + "0d", "0d0a4f4b0d0a", // ATE0Q0V1X4
		"41542643312644320d", "0d0a4552524f520d0a", // AT&C1&D2, ERROR: it need not know that
		"415444303438340d", "0d0a52494e47494e470d0a0d0a434f4e4e4543542031323030" + "0d0a" + "020102", // ATD0484, RINGING, CONNECT 1200 and the first bytes of a frame
	}
	go func() { played <- play(far, script) }() // received below
	s, err := OpenModem(t.Context(), Modem{Kind: AT, Device: far.Device, Number: "0484", Baud: 1200})
	if err != nil {
		t.Fatal(err, <-played)
	}
	if err := <-played; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "\x02\x01\x02" {
		t.Errorf("the bytes behind CONNECT: %x, %v", got, err)
	}
	far.Close()
	if _, err := s.Read(got); !errors.Is(err, ErrGone) {
		t.Errorf("read after the unplug: %v", err)
	}
	if _, err := s.Write(got); err == nil {
		t.Error("write after the unplug: no error")
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestResults(t *testing.T) {
	for _, c := range []struct {
		line string
		want outcome
		rate int
	}{
		{"OK", okay, 0}, {"ok", okay, 0}, {"CONNECT", connected, 0}, {"CONNECT 9600", connected, 9600}, {"CONNECT 2400/REL", connected, 2400}, {"CONNECT 115200/V34/LAPM/V42B/33600:TX", connected, 115200},
		{"CONNECT 1200 NONE", connected, 1200}, {"CONNECTING", nothing, 0}, {"RING", ringing, 0}, {"+CRING: REL ASYNC", ringing, 0}, {"RINGING", nothing, 0}, {"+CME ERROR: 30", mistaken, 0}, {"ERROR", mistaken, 0},
		{"NO CARRIER", noCarrier, 0}, {"NO DIAL TONE", noTone, 0}, {"NO DIALTONE", noTone, 0}, {"NO ANSWER", noAnswer, 0}, {"BUSY", busy, 0}, {"ATD123", nothing, 0}, {"", nothing, 0}, {"CONNECT 99999999999999999999", connected, 0},
	} {
		if o, rate := parseResult(c.line); o != c.want || rate != c.rate {
			t.Errorf("%q: %d at %d, want %d at %d", c.line, o, rate, c.want, c.rate)
		}
	}
}

func FuzzResults(f *testing.F) {
	f.Add([]byte("ATD1\r\r\nRING\r\n\r\nCONNECT 9600\r\n\x02\x01\x00"))
	f.Add([]byte("\xff\x00\r\nNO CARRIER\r"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r results
		used := r.feed(b, func(line string) bool {
			o, _ := parseResult(line)
			return o == connected
		})
		if used < 0 || used > len(b) || len(r.line) > mostLine {
			t.Fatalf("%d of %d bytes used, %d kept", used, len(b), len(r.line))
		}
		// Once connected, all that follows reaches the reader, whatever it looks like.
		c := &call{}
		c.changed.L = &c.mu
		c.online = true
		c.hear(b)
		if string(c.unread) != string(b) || len(c.text) > 64 {
			t.Errorf("%d of %d bytes came through, %d kept", len(c.unread), len(b), len(c.text))
		}
		if c.farewell != nil {
			c.farewell.Stop()
		}
	})
}
