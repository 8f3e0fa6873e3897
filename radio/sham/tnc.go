// SPDX-License-Identifier: EUPL-1.2

package sham

import (
	"bytes"
	"io"
	"sync"

	"hallig/radio/frame"
)

// TNC is a modem of packet radio with one radio at a port number. It drops packets that are none of AX.25, as real ones do.
type TNC struct {
	Air   *Air
	Radio byte // 0 to 15
	// Terminal: it starts talking to people, until it is told KISS ON and RESTART.
	Terminal bool

	mu      sync.Mutex
	Set     map[byte]byte // parameters that it was given
	Dropped int
	Packets [][]byte // what it was given to send
}

// Forget is what happens when it is switched off and on: nobody is told.
func (t *TNC) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.Set)
}

// Serve runs it until the stream ends.
func (t *TNC) Serve(s io.ReadWriter) error {
	t.mu.Lock()
	t.Set = map[byte]byte{}
	t.mu.Unlock()
	if t.Terminal {
		var said []byte
		buf := make([]byte, 64)
		for !bytes.Contains(said, []byte("KISS ON\r")) || !bytes.Contains(said, []byte("RESTART\r")) {
			n, err := s.Read(buf)
			if err != nil {
				return err
			}
			said = append(said, buf[:n]...)
			if _, err := io.WriteString(s, "cmd:"); err != nil {
				return err
			}
		}
	}
	queue := make(chan []byte, 64)
	var sender sync.WaitGroup
	sender.Go(func() {
		for p := range queue {
			t.Air.transmit(t, p)
		}
	})
	var out sync.Mutex
	t.Air.listen(t, func(p []byte) {
		out.Lock()
		defer out.Unlock()
		_, _ = s.Write(frame.AppendCommand(nil, t.Radio<<4, p)) // errors end Serve by themselves
	})
	defer func() {
		t.Air.leave(t)
		close(queue)
		sender.Wait()
	}()
	var d frame.CommandDecoder
	buf := make([]byte, 512)
	for {
		n, err := s.Read(buf)
		d.Feed(buf[:n], func(kind byte, body []byte) {
			t.mu.Lock()
			defer t.mu.Unlock()
			switch {
			case kind>>4 != t.Radio:
				t.Dropped++
			case kind&15 != 0:
				if len(body) == 1 {
					t.Set[kind&15] = body[0]
				}
			default:
				if _, _, ok := frame.ParseUI(body); !ok || len(t.Packets) > 1<<16 {
					t.Dropped++
					return
				}
				t.Packets = append(t.Packets, append([]byte(nil), body...))
				queue <- t.Packets[len(t.Packets)-1]
			}
		})
		if err != nil {
			return err
		}
	}
}
