// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"hallig/sync/peer"
)

// line is what one end writes and the other one reads, in memory.
type line struct {
	net.Conn
	bytes.Buffer
}

func (l *line) Read(p []byte) (int, error)  { return l.Buffer.Read(p) }
func (l *line) Write(p []byte) (int, error) { return l.Buffer.Write(p) }
func (l *line) Close() error                { return nil }

// What is written comes out as it was, however it is cut into pieces, and whatever was unpacked before by the same unpacker.
func FuzzPacked(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(1), uint64(1))
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 10_000), uint16(9_000), uint64(2))
	f.Add([]byte{}, uint16(0), uint64(3))
	var idle sync.Pool
	f.Fuzz(func(t *testing.T, text []byte, most uint16, seed uint64) {
		l, random := &line{}, rand.New(rand.NewPCG(seed, 0))
		from, to := &packed{Conn: l, idle: &idle}, &packed{Conn: l, idle: &idle}
		for left := text; len(left) > 0; {
			n := min(len(left), 1+random.IntN(int(most)+1))
			if m, err := from.Write(left[:n]); m != n || err != nil {
				t.Fatalf("%d of %d bytes, %v", m, n, err)
			}
			left = left[n:]
		}
		got, err := io.ReadAll(to)
		if err != nil || !bytes.Equal(got, text) {
			t.Fatalf("%d bytes come out as %d, %v", len(text), len(got), err)
		}
		if err := to.Close(); err != nil {
			t.Error(err)
		}
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after the end: %v", err)
		}
	})
}

// What is no packed stream is an error or an end, and never more than was asked for.
func FuzzUnpack(f *testing.F) {
	l := &line{}
	if _, err := (&packed{Conn: l}).Write([]byte(strings.Repeat("a", 1000))); err != nil {
		f.Fatal(err)
	}
	f.Add(l.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff})
	f.Add([]byte{0, 1, 0, 0xfe, 0xff, 'x'})
	var idle sync.Pool
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := &line{}
		l.Buffer.Write(raw)
		c := &packed{Conn: l, idle: &idle}
		for n := 0; n < 1<<20; {
			m, err := c.Read(make([]byte, 512))
			if m > 512 || m < 0 {
				t.Fatalf("%d bytes", m)
			}
			if n += m; err != nil {
				break
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// counts counts what a connection carries.
type counts struct {
	net.Conn
	n int
}

func (c *counts) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// A transaction of fifty events takes less than two fifths of its bytes, also in pieces as HTTP writes them; what is packed already takes hardly more.
func TestPackedIsSmall(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		raw := make([]byte, n)
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	var body bytes.Buffer
	auth := []string{word(32), word(32), word(32)}
	for i := range 50 {
		fmt.Fprintf(&body, `{"auth_events":["$%s","$%s","$%s"],"prev_events":["$%s"],"content":{"body":"Meldung %d: Der Deich hält, wir bleiben.","msgtype":"m.text"},"depth":%d,"hashes":{"sha256":"%s"},"origin_server_ts":17900000%05d,`+
			`"room_id":"!raum:box.example.org","sender":"@anna:box.example.org","type":"m.room.message","signatures":{"box.example.org":{"ed25519:a_1":"%s"}},"unsigned":{}},`,
			auth[0], auth[1], auth[2], word(32), i, i, word(32), i, word(64))
	}
	noise := make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	for _, tt := range []struct {
		text  []byte
		piece int
		most  float64
	}{{body.Bytes(), 64 << 10, 0.4}, {body.Bytes(), 4 << 10, 0.43}, {noise, 4 << 10, 1.01}} {
		c := &counts{}
		p := &packed{Conn: c}
		for left := tt.text; len(left) > 0; left = left[min(len(left), tt.piece):] {
			if _, err := p.Write(left[:min(len(left), tt.piece)]); err != nil {
				t.Fatal(err)
			}
		}
		if share := float64(c.n) / float64(len(tt.text)); share > tt.most {
			t.Errorf("%d bytes in pieces of %d take %d, %.2f of them", len(tt.text), tt.piece, c.n, share)
		}
	}
}

// Hosts speak packed with each other, and as before with one that does not know it, in both directions.
func TestPackedWithOld(t *testing.T) {
	for _, old := range []bool{false, true} {
		a, b := newHost(t, nil), newHost(t, nil)
		if old {
			b.host.RemoveStreamHandler(protocolPacked)
		}
		pairHosts(t, a, b)
		for _, th := range []*testHost{a, b} {
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body) // who has gone needs no answer
			})}
			l, served := th.Listener(), make(chan struct{})
			go func() {
				defer close(served)
				_ = srv.Serve(l) // ends with ErrServerClosed
			}()
			t.Cleanup(func() { srv.Close(); <-served })
		}
		for _, dir := range []struct {
			from, to *testHost
			packed   bool
		}{{a, b, !old}, {b, a, true}} {
			c, err := dir.from.openHTTP(t.Context(), string(dir.to.ID()))
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := c.(*packed); ok != dir.packed {
				t.Errorf("old %t: packed is %t", old, ok)
			}
			_ = c.Close()
			text := strings.Repeat("Der Deich hält. ", 100_000)
			server := peer.DefaultServer(dir.to.cfg.Box.Public().(ed25519.PublicKey))
			resp, err := (&http.Client{Transport: dir.from.RoundTripper()}).Post("http://"+server+"/", "text/plain", strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(got) != text {
				t.Errorf("old %t: %d bytes come back as %d, %v", old, len(text), len(got), err)
			}
		}
	}
}
