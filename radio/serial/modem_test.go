// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/frame"
	"hallig/radio/sham"
)

// server is a modem of package sham.
type server interface{ Serve(io.ReadWriter) error }

// plug opens a modem over a pipe, for virtual time.
func plug(t *testing.T, m Modem, s server) (Stream, error) {
	t.Helper()
	far, near := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(far) }) // it ends with the pipe
	st, err := m.filled().talk(t.Context(), near)
	t.Cleanup(func() {
		if st != nil {
			st.Close()
		}
		near.Close()
		far.Close()
		wg.Wait()
	})
	return st, err
}

func lora(kind Kind) Modem {
	return Modem{Kind: kind, Device: "/dev/hallig/lora", Frequency: 869_525_000, Bandwidth: 125_000, SpreadingFactor: 9, CodingRate: 5, Power: 14}
}

// put writes one frame and take reads the next.
func put(t *testing.T, s Stream, raw []byte) {
	t.Helper()
	wire := frame.COBS.Append(frame.COBS.Resync(), raw)
	if n, err := s.Write(wire); err != nil || n != len(wire) {
		t.Fatalf("write: %d of %d, %v", n, len(wire), err)
	}
}

func take(t *testing.T, s Stream) []byte {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var d frame.Decoder
	var out []byte
	buf := make([]byte, 1)
	for out == nil {
		if _, err := s.Read(buf); err != nil {
			t.Fatalf("read: %v", err)
		}
		d.Feed(buf, func(raw []byte) { out = bytes.Clone(raw) })
	}
	return out
}

// every is a frame with all byte values, n of them.
func every(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + n)
	}
	return b
}

// TestBothWays: frames of all sizes and all bytes pass between two modems of each kind that takes frames, and what they say of the channel is known.
func TestBothWays(t *testing.T) {
	for _, c := range []struct {
		name    string
		modem   Modem
		make    func(*sham.Air) server
		longest int
		signal  bool
	}{
		{"kiss", Modem{Kind: KISS, Device: "/dev/ttyS0"}, func(a *sham.Air) server { return &sham.TNC{Air: a} }, 256, false},
		{"kiss, second radio, call sign, from the terminal", Modem{Kind: KISS, Device: "/dev/ttyS0", Port: 1, CallSign: "DL1ABC-7", Init: "KISS_ON RESTART"},
			func(a *sham.Air) server { return &sham.TNC{Air: a, Radio: 1, Terminal: true} }, 256, false},
		{"rnode", lora(RNode), func(a *sham.Air) server { return &sham.RNode{Air: a, SNR: -6} }, 508, true},
		{"rnode, mute, slow to start", lora(RNode), func(a *sham.Air) server { return &sham.RNode{Air: a, Mute: true, Boot: 2 * time.Second, SNR: -6} }, 508, true},
		{"meshcore", lora(MeshCore), func(a *sham.Air) server { return &sham.MeshCore{Air: a} }, 255, true},
		{"meshcore, slow to start, busy", lora(MeshCore), func(a *sham.Air) server {
			return &sham.MeshCore{Air: a, Boot: 2 * time.Second, Pending: 5 * time.Second}
		}, 255, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				air := &sham.Air{Airtime: func(n int) time.Duration { return lora(RNode).Airtime(n) }}
				var ends [2]Stream
				for i := range ends {
					var err error
					if ends[i], err = plug(t, c.modem, c.make(air)); err != nil {
						t.Fatal(err)
					}
				}
				for _, n := range []int{6, 13, 100, 254, c.longest} {
					for i := range ends {
						put(t, ends[i], every(n))
						if got := take(t, ends[1-i]); !bytes.Equal(got, every(n)) {
							t.Errorf("%d bytes from end %d: %d came, %x", n, i, len(got), got[:min(8, len(got))])
						}
					}
				}
				q := ends[0].(Measured).Quality()
				if q.Signal != c.signal || c.signal && (q.RSSI != -97 || q.SNR != -6) {
					t.Errorf("quality: %+v", q)
				}
				before := air.Sent()
				if c.modem.Kind.LoRa() {
					put(t, ends[0], every(c.longest+1))
					if after := ends[0].(Measured).Quality().Refused; air.Sent() != before || after != q.Refused+1 {
						t.Errorf("a frame that is too long: %d sent, %d refused", air.Sent()-before, after-q.Refused)
					}
				}
			})
		})
	}
}

// TestParametersOfTNC: what the configuration says arrives in the TNC's units.
func TestParametersOfTNC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tnc := &sham.TNC{Air: &sham.Air{}, Radio: 3}
		s, err := plug(t, Modem{Kind: KISS, TurnDelay: 450 * time.Millisecond, Persist: 63, Slot: 120 * time.Millisecond, Tail: 30 * time.Millisecond, Port: 3, CallSign: "DL1ABC"}, tnc)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, []byte("moin, moin"))
		synctest.Wait()
		if want := map[byte]byte{1: 45, 2: 63, 3: 12, 4: 3, 5: 0}; len(tnc.Set) != len(want) {
			t.Errorf("parameters %v, want %v", tnc.Set, want)
		} else {
			for k, v := range want {
				if tnc.Set[k] != v {
					t.Errorf("parameter %d is %d, want %d", k, tnc.Set[k], v)
				}
			}
		}
		if tnc.Dropped != 0 || len(tnc.Packets) != 1 {
			t.Fatalf("%d packets, %d dropped", len(tnc.Packets), tnc.Dropped)
		}
		u, raw, ok := frame.ParseUI(tnc.Packets[0])
		if !ok || u.From != "DL1ABC" || u.To != "HALLIG" || string(raw) != "moin, moin" {
			t.Errorf("packet %+v %q %v", u, raw, ok)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tnc := &sham.TNC{Air: &sham.Air{}}
		s, err := plug(t, Modem{Kind: KISS}, tnc)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		tnc.Forget() // switched off and on
		time.Sleep(6 * time.Minute)
		put(t, s, every(20))
		synctest.Wait()
		if tnc.Set[1] != 30 {
			t.Errorf("parameters after it was switched off and on: %v", tnc.Set)
		}
	})
	if _, err := plug(t, Modem{Kind: KISS, CallSign: "dl1abc"}, &sham.TNC{Air: &sham.Air{}}); err == nil || !strings.Contains(err.Error(), "dl1abc") {
		t.Errorf("a call sign that is none: %v", err)
	}
}

// TestStrangersOnTheChannel: packets of others, of other radios, and garbage are not ours and change nothing.
func TestStrangersOnTheChannel(t *testing.T) {
	far, near := net.Pipe()
	defer far.Close()
	go io.Copy(io.Discard, far) // ends with the pipe
	s, err := Modem{Kind: KISS}.filled().talk(t.Context(), near)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	aprs, _ := frame.UI{To: "APRS", From: "DL1ABC"}.Append(nil, []byte("!5433.00N/00852.00E-moin"))
	ours, _ := frame.UI{To: "HALLIG", From: "DL1ABC"}.Append(nil, []byte("frame of ours"))
	for _, b := range [][]byte{
		[]byte("\r\ncmd:"), frame.AppendCommand(nil, 0, aprs), frame.AppendCommand(nil, 0x10, ours), frame.AppendCommand(nil, 6, ours), {0xC0, 0, 0xDB, 0xC0},
		bytes.Repeat([]byte{0xFF}, 5000), frame.AppendCommand(nil, 0, ours[:9]), frame.AppendCommand(nil, 0, ours),
	} {
		if _, err := far.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if got := take(t, s); string(got) != "frame of ours" {
		t.Errorf("read %q", got)
	}
	if q := s.(Measured).Quality(); q.Dropped != 2 {
		t.Errorf("%d dropped, want the cut escape and what was too long", q.Dropped)
	}
}

// TestModemsThatWillNot: each says what to check next, in both languages.
func TestModemsThatWillNot(t *testing.T) {
	strong := lora(RNode)
	strong.Power = 27
	strongMesh := lora(MeshCore)
	strongMesh.Power = 27
	for _, c := range []struct {
		name   string
		modem  Modem
		server server
		says   string
	}{
		{"silent rnode", lora(RNode), silence{}, "does not answer"},
		{"silent meshcore", lora(MeshCore), silence{}, "does not answer"},
		{"silent phone", Modem{Kind: AT, Number: "1"}, silence{}, "does not answer"},
		{"rnode with less power", strong, &sham.RNode{Air: &sham.Air{}}, "tx_power_dbm 27, it reports 22"},
		{"meshcore with less power", strongMesh, &sham.MeshCore{Air: &sham.Air{}}, "tx_power_dbm 27, it reports 22"},
		{"rnode without a radio", lora(RNode), &sham.RNode{Air: &sham.Air{}, Broken: true}, "its radio does not answer"},
		{"picky meshcore", lora(MeshCore), &sham.MeshCore{Air: &sham.Air{}, Picky: true}, "refuses frequency_hz"},
		{"init that nobody knows", Modem{Kind: AT, Number: "1", Init: "ATZ AT+CBST=71"}, &sham.Phone{Exchange: &sham.Exchange{}, Number: "2", Unheard: "CBST"}, "AT+CBST=71"},
		{"number that nobody has", Modem{Kind: AT, Number: "1"}, &sham.Phone{Exchange: &sham.Exchange{}, Number: "2"}, "NO CARRIER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := plug(t, c.modem, c.server)
				var f *Fault
				if !errors.As(err, &f) || !strings.Contains(f.EN, c.says) || f.DE == f.EN || f.DE == "" || strings.Contains(f.DE+f.EN, "%!") {
					t.Errorf("%#v (%v)", f, err)
				}
			})
		})
	}
}

// silence is a port with nothing behind it.
type silence struct{}

func (silence) Serve(s io.ReadWriter) error {
	_, err := io.Copy(io.Discard, s)
	return err
}

// TestCancelledOpening ends at once, however silent the modem.
func TestCancelledOpening(t *testing.T) {
	for _, k := range []Kind{RNode, MeshCore, AT} {
		synctest.Test(t, func(t *testing.T) {
			far, near := net.Pipe()
			defer far.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() { _, _ = io.Copy(io.Discard, far) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began := time.Now()
			if s, err := (Modem{Kind: k}).filled().talk(ctx, near); !errors.Is(err, context.DeadlineExceeded) || s != nil {
				t.Errorf("%s: %v", k, err)
			}
			if d := time.Since(began); d > 1100*time.Millisecond {
				t.Errorf("%s: it took %v", k, d)
			}
		})
	}
}

// TestRestarts: a modem that has lost its settings ends the stream, so that it is opened and set again.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &sham.RNode{Air: &sham.Air{}}
		s, err := plug(t, lora(RNode), node)
		if err != nil {
			t.Fatal(err)
		}
		node.Reset()
		var f *Fault
		if _, err := s.Read(make([]byte, 1)); !errors.As(err, &f) || !strings.Contains(f.EN, "has restarted") {
			t.Errorf("read after a reset: %v", err)
		}
		if _, err := s.Write(frame.COBS.Append(nil, every(20))); err == nil {
			t.Error("write after a reset: no error")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		mesh := &sham.MeshCore{Air: &sham.Air{}}
		s, err := plug(t, lora(MeshCore), mesh)
		if err != nil {
			t.Fatal(err)
		}
		mesh.Reset() // it does not say so
		time.Sleep(time.Minute)
		var f *Fault
		if _, err := s.Write(frame.COBS.Append(nil, every(20))); !errors.As(err, &f) || !strings.Contains(f.EN, "has restarted") {
			t.Errorf("write a minute after a reset: %v", err)
		}
	})
}

// TestFullModem: an RNode without room is waited for, and nothing is thrown away; a MeshCore modem that never says done is found out.
func TestFullModem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		air := &sham.Air{Airtime: lora(RNode).Airtime}
		node, far := &sham.RNode{Air: air, Room: 1}, &sham.RNode{Air: air}
		s, err := plug(t, lora(RNode), node)
		if err != nil {
			t.Fatal(err)
		}
		q, err := plug(t, lora(RNode), far)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range 10 {
			put(t, s, every(100+i))
		}
		for i := range 10 {
			if got := take(t, q); len(got) != 100+i {
				t.Fatalf("frame %d has %d bytes", i, len(got))
			}
		}
		if node.Dropped != 0 {
			t.Errorf("%d frames were thrown away", node.Dropped)
		}
		if took, least := time.Since(began), 9*lora(RNode).Airtime(100); took < least || took > 2*least {
			t.Errorf("ten frames took %v; the air needs %v", took, least)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		mesh := &sham.MeshCore{Air: &sham.Air{}, Deaf: true}
		s, err := plug(t, lora(MeshCore), mesh)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, every(50))
		if r := s.(Measured).Quality().Refused; r != 1 {
			t.Errorf("%d refused, want the one that was never done", r)
		}
	})
}

// TestScript plays openings byte by byte as the published protocols have them, on a pseudo terminal: what the box must say is not read by code of ours.
func TestScript(t *testing.T) {
	rnode := lora(RNode) // 869525000 is 33d3e608, 125000 is 0001e848
	rnode.AirtimeLong = 10
	for _, c := range []struct {
		name   string
		modem  Modem
		script []string // says, answers, ...
		says   string   // for a frame of the bytes 01 c0 02 db 03 04
	}{
		{"rnode", rnode, []string{
			"c00873c0c05000c0", "c00846c0c0500150c0",
			"c00133d3e608c0", "c00133d3e608c0",
			"c0020001e848c0", "c0020001e848c0",
			"c0030ec0", "c0030ec0",
			"c00409c0", "c00409c0",
			"c00505c0", "c00505c0",
			"c00b0000c0", "c00b0000c0",
			"c00c03e8c0", "c00c03e8c0",
			"c00601c0", "c00601c0",
		}, "c00f00c0|c00f01c0|c00001dbdc02dbdd0304c0"},
		{"meshcore", lora(MeshCore), []string{
			"c00617c0", "c00697c0",
			"c0060908e6d33348e801000905c0", "c006f0c0",
			"c0060a0ec0", "c006f0c0",
			"c0060bc0", "c0068b08e6d33348e801000905c0",
			"c0060cc0", "c0068c0ec0",
		}, ""},
		{"kiss", Modem{Kind: KISS, TurnDelay: 300 * time.Millisecond}, []string{"c0011ec0c002fac0c0030ac0c00405c0c00500c0", ""},
			"||c000" + "9082989892 8ee0" + "9c9e8682989861" + "035a" + "01dbdc02dbdd0304c0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			far, err := NewPTY()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			played := make(chan error, 1)
			go func() { played <- play(far, c.script) }() // received below
			c.modem.Device = far.Device
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if c.modem.Kind == MeshCore {
				// The script ends before parameters without an answer; the rest is tested in virtual time.
				go func() { _, _ = OpenModem(ctx, c.modem) }() // ends with ctx
				if err := <-played; err != nil {
					t.Error(err)
				}
				return
			}
			s, err := OpenModem(ctx, c.modem)
			if err != nil {
				t.Fatal(err, <-played)
			}
			defer s.Close()
			if err := <-played; err != nil {
				t.Fatal(err)
			}
			steps := strings.Split(strings.ReplaceAll(c.says, " ", ""), "|")
			go func() { played <- play(far, steps) }() // received below
			put(t, s, []byte{1, 0xC0, 2, 0xDB, 3, 4})
			if err := <-played; err != nil {
				t.Error(err)
			}
			// Half a frame, and the plug is pulled.
			if _, err := far.Write([]byte{0xC0, 0, 1, 2, 3}); err != nil {
				t.Fatal(err)
			}
			far.Close()
			if n, err := s.Read(make([]byte, 10)); n != 0 || !errors.Is(err, ErrGone) {
				t.Errorf("read after the unplug: %d, %v", n, err)
			}
		})
	}
}

// play is a modem by the book: it expects bytes, and answers, in turn.
func play(far io.ReadWriter, script []string) error {
	for i, step := range script {
		b, err := hex.DecodeString(step)
		if err != nil {
			return err
		}
		if i%2 == 1 {
			if _, err := far.Write(b); err != nil {
				return err
			}
			continue
		}
		got := make([]byte, len(b))
		if _, err := io.ReadFull(far, got); err != nil {
			return err
		}
		if !bytes.Equal(got, b) {
			return errors.New("step " + step + ": the box says " + hex.EncodeToString(got))
		}
	}
	return nil
}

func FuzzDialects(f *testing.F) {
	f.Add([]byte("\xc0\x08\x46\xc0\xc0\x00moin\xc0\xc0\x55\xf8\xc0"), uint8(0))
	f.Add([]byte("\xc0\x06\xf9\x01\x9f\xc0\xc0\x06\xf1\x07\xc0"), uint8(1))
	f.Add([]byte("\xc0\x00\x90\x82\xc0"), uint8(2))
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		r := &rnode{told: map[byte]uint32{}, running: true}
		c := &meshcore{answers: map[byte][]byte{}, running: true}
		p := &pipe{modem: lora(RNode), dialect: []dialect{r, c, &tnc{}}[which%3]}
		p.changed.L = &p.mu
		var d frame.CommandDecoder
		d.Feed(b, func(kind byte, body []byte) { _ = p.dialect.heard(p, kind, body) })
		var whole frame.Decoder
		n := 0
		whole.Feed(p.unread, func([]byte) { n++ })
		if len(p.unread) > 0 && (p.unread[len(p.unread)-1] != 0 || n == 0) {
			t.Errorf("what comes out is no frames: %x", p.unread)
		}
		if len(r.told) > 16 || len(c.answers) > 128 {
			t.Errorf("%d settings and %d answers are kept", len(r.told), len(c.answers))
		}
	})
}

func TestWriteAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := plug(t, lora(RNode), &sham.RNode{Air: &sham.Air{}})
		if err != nil {
			t.Fatal(err)
		}
		freed := make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			freed <- err
		}()
		synctest.Wait()
		if err := s.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := <-freed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline that comes while reading: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if _, err := s.Write([]byte{1, 2, 0}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}
