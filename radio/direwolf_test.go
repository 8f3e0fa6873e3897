// SPDX-License-Identifier: EUPL-1.2

package radio_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hallig/radio"
	"hallig/radio/serial"
	"hallig/tools/testport"
)

// TestDireWolf: two links over two Dire Wolf TNCs (a program nobody here wrote) whose sound runs through pipes: real AFSK of 1200 bit/s, in real
// time. Messages both ways arrive whole and in order, and nothing else does.
func TestDireWolf(t *testing.T) {
	t.Parallel() // it is real time that takes long here
	program, err := exec.LookPath("direwolf")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("Dire Wolf is missing; install it with: apt-get install direwolf")
		}
		t.Skip("NOT TESTED: Dire Wolf is missing; install it with: sudo apt-get install -y direwolf")
	}
	dir := t.TempDir()
	var said [2]*os.File // the sound of each end
	for i := range said {
		name := filepath.Join(dir, fmt.Sprint("sound", i))
		if err := unix.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0) // for both, so that nobody sees its end
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		// No more room than a sound card has: who speaks is held back to real time.
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 16384) }) // what it fails with is err
		if err != nil {
			t.Fatal(err)
		}
		said[i] = f
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	var addrs [2]string
	for i := range said {
		addr, hear := direwolf(t, program, dir, i, said[i].Name())
		addrs[i] = addr
		wg.Go(func() { wire(ctx, said[1-i], hear) })
	}
	var ports [2]*radio.Port
	var ups, received [2]chan string
	for i := range ports {
		m := serial.Modem{Kind: serial.KISS, Device: "tcp:" + addrs[i], CallSign: fmt.Sprintf("DL0HAL-%d", i+1), TurnDelay: 200 * time.Millisecond}
		air := m.Air()
		ups[i], received[i] = make(chan string, 10), make(chan string, 100)
		ports[i] = radio.New(radio.Config{
			Name: fmt.Sprint("wolf", i), BitsPerSecond: air.BitsPerSecond, BitsPerByte: air.BitsPerByte, TurnDelay: air.TurnDelay, MTU: air.MTU, Lead: air.Lead, Air: air.Packet,
			Open: func(ctx context.Context) (io.ReadWriteCloser, error) { return serial.OpenModem(ctx, m) },
		})
		wg.Go(func() {
			err := ports[i].Serve(ctx, func(addr string, _, _ int) { ups[i] <- addr }, func(string) {},
				func(_ string, m []byte) { received[i] <- string(m) }, func(string) {})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Serve ended: %v", err)
			}
		})
	}
	patience := time.After(4 * time.Minute)
	began := time.Now()
	for i := range ups {
		select {
		case <-ups[i]:
		case <-patience:
			t.Fatalf("no contact; ends: %+v, %+v", ports[0].Stats(), ports[1].Stats())
		}
	}
	t.Logf("contact after %.1f s", time.Since(began).Seconds())

	// Short ones, one that fills a frame, and one of several frames.
	messages := [2][]string{{"Pegel 640 cm, steigend", string(bytes.Repeat([]byte{0xC0, 0xDB, 0, 7}, 50)), strings.Repeat("Sandsack ", 60)}, {"Verstanden", "Ende"}}
	before := ports[0].Stats().BytesSent + ports[1].Stats().BytesSent
	began = time.Now()
	done := make(chan error, 10)
	count := 0
	for i := range messages {
		for _, m := range messages[i] {
			ports[i].Send(ports[i].Addr(), 3, []byte(m), func(err error) { done <- err })
			count++
		}
	}
	for range count {
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("message: %v", err)
			}
		case <-patience:
			t.Fatalf("messages are stuck; ends: %+v, %+v", ports[0].Stats(), ports[1].Stats())
		}
	}
	took := time.Since(began)
	for i := range messages {
		for n, want := range messages[i] {
			select {
			case got := <-received[1-i]:
				if got != want {
					t.Errorf("message %d of end %d: %d bytes came, want %d", n, i, len(got), len(want))
				}
			default:
				t.Errorf("message %d of end %d is said to have arrived, but did not", n, i)
			}
		}
	}
	for i := range received {
		if len(received[i]) != 0 {
			t.Errorf("end %d received more than was sent", i)
		}
	}
	a, b := ports[0].Stats(), ports[1].Stats()
	sent := a.BytesSent + b.BytesSent - before
	t.Logf("%d messages in %.1f s: %d B on the wire, %d + %d frames, %d repeated, %d refused", count, took.Seconds(), sent, a.FramesSent, b.FramesSent, a.Retransmissions+b.Retransmissions, a.FramesRefused+b.FramesRefused)
	// Sound takes its time: 1200 bit/s cannot be faster.
	if least := time.Duration(sent) * 8 * time.Second / 1200 * 8 / 10; took < least {
		t.Errorf("%d bytes in %v: that was no modem of 1200 bit/s", sent, took)
	}
}

const soundRate = 22050 // samples of two bytes a second

// wire carries sound in real time, at a quarter of its volume, and silence when there is none: a receiver without sound would stand still, its
// carrier detection with it.
func wire(ctx context.Context, from *os.File, to io.Writer) {
	const step = 20 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	began, sent, sounded := time.Now(), 0, time.Time{}
	buf := make([]byte, 2*soundRate)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		due := min(2*int(time.Since(began)*soundRate/time.Second)-sent, len(buf))
		piece := buf[:due]
		clear(piece)
		_ = from.SetReadDeadline(time.Now().Add(time.Millisecond)) // a pipe has deadlines
		n, _ := from.Read(piece)                                   // nothing there is silence
		if n > 0 {
			sounded = time.Now()
		}
		if n < due && time.Since(sounded) < 100*time.Millisecond {
			piece = piece[:n] // who speaks is late on a busy machine: a pause in the middle would be noise
		}
		for k := 0; k+1 < n; k += 2 {
			binary.LittleEndian.PutUint16(piece[k:], uint16(int16(binary.LittleEndian.Uint16(piece[k:]))/4))
		}
		if _, err := to.Write(piece); err != nil {
			return // it has ended
		}
		sent += len(piece)
	}
}

// direwolf starts one whose sound goes into a pipe; hear is what it hears.
func direwolf(t *testing.T, program, dir string, i int, said string) (addr string, hear io.Writer) {
	t.Helper()
	addr, err := testport.Take()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	alsa, conf := filepath.Join(dir, fmt.Sprint("alsa", i)), filepath.Join(dir, fmt.Sprint("direwolf", i))
	for name, text := range map[string]string{
		alsa: fmt.Sprintf("pcm.nothing { type null }\npcm.out { type file slave.pcm nothing file \"%s\" format raw }\n", said),
		conf: fmt.Sprintf("ADEVICE stdin out\nARATE %d\nACHANNELS 1\nCHANNEL 0\nMYCALL DL0HAL-%d\nMODEM 1200\nAGWPORT 0\nKISSPORT %s\n", soundRate, i+1, port),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "-t", "0", "-q", "d", "-c", conf)
	cmd.Env = append(os.Environ(), "ALSA_CONFIG_PATH=/usr/share/alsa/alsa.conf:"+alsa)
	if hear, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Dire Wolf %d: %s", i, words.String())
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // another process: there is nothing to wait on
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, hear
		}
		if time.Now().After(end) {
			t.Fatalf("Dire Wolf does not listen: %v", err)
		}
	}
}
