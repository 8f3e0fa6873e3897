// SPDX-License-Identifier: EUPL-1.2

package nodes

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serve starts a node that answers with what it was asked, or as h says.
func serve(t *testing.T, key ed25519.PrivateKey, h http.HandlerFunc) *Line {
	t.Helper()
	n, err := Listen("127.0.0.1:0", key, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			io.WriteString(w, r.Method+" "+r.Host+" "+r.RequestURI+" "+string(body))
		}
	}
	srv := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go srv.Serve(n.Listener()) // until Close
	t.Cleanup(func() {
		srv.Close()
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func request(t *testing.T, ctx context.Context) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "matrix-federation://box1.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "/a%2Fb?c=%20"
	return req
}

// Nodes with one key speak with each other, and what is asked arrives as it was. Nobody else gets through the handshake, from either end.
func TestOnlyNodesWithTheKey(t *testing.T) {
	key := newKey(t)
	one, two, stranger := serve(t, key, nil), serve(t, key, nil), serve(t, newKey(t), nil)
	resp, err := one.RoundTrip(two.Addr(), request(t, t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || string(text) != "POST box1.test /a%2Fb?c=%20 " {
		t.Errorf("%q, %v", text, err)
	}
	for name, try := range map[string]func() (*http.Response, error){
		"a stranger asks":     func() (*http.Response, error) { return stranger.RoundTrip(one.Addr(), request(t, t.Context())) },
		"a stranger is asked": func() (*http.Response, error) { return one.RoundTrip(stranger.Addr(), request(t, t.Context())) },
	} {
		if resp, err := try(); err == nil {
			resp.Body.Close()
			t.Errorf("%s, and is heard", name)
		}
	}
	for name, config := range map[string]*tls.Config{
		"nobody's certificate": {InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}},
		"TLS 1.2":              {InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, MaxVersion: tls.VersionTLS12},
	} {
		conn, err := tls.Dial("tcp", one.Addr(), config)
		if err == nil { // in TLS 1.3 the far end refuses after its own part of the handshake
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil {
			t.Errorf("%s got through", name)
		}
	}
}

// A node that does not answer costs its time once, and is tried again later.
func TestGoneNodeIsTriedOnce(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var came atomic.Int64
	go func() { // ends with the listener
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			defer conn.Close()
		}
	}()
	one := serve(t, newKey(t), nil)
	for range 50 {
		if _, err := one.RoundTrip(silent.Addr().String(), request(t, t.Context())); !errors.Is(err, ErrGone) {
			t.Fatal(err)
		}
	}
	if n := came.Load(); n != 1 {
		t.Errorf("it was tried %d times", n)
	}
	one.mu.Lock()
	one.peers[silent.Addr().String()].gone = time.Now()
	one.mu.Unlock()
	if _, err := one.RoundTrip(silent.Addr().String(), request(t, t.Context())); !errors.Is(err, ErrGone) || came.Load() != 2 {
		t.Errorf("after a while: %v, tried %d times", err, came.Load())
	}
}

// So many questions are at another node at once; an answer that was read gives its place back.
func TestQuestionsAreBounded(t *testing.T) {
	key := newKey(t)
	here, release := make(chan struct{}, AtOnce), make(chan struct{})
	one, two := serve(t, key, nil), serve(t, key, func(w http.ResponseWriter, _ *http.Request) {
		here <- struct{}{}
		<-release
		w.WriteHeader(http.StatusOK)
	})
	var all sync.WaitGroup
	for range AtOnce {
		all.Go(func() {
			resp, err := one.RoundTrip(two.Addr(), request(t, t.Context()))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
		select {
		case <-here:
		case <-time.After(time.Minute):
			t.Fatal("not all questions arrived")
		}
	}
	if _, err := one.RoundTrip(two.Addr(), request(t, t.Context())); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
	close(release)
	all.Wait()
	resp, err := one.RoundTrip(two.Addr(), request(t, t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	one.mu.Lock()
	defer one.mu.Unlock()
	if len(one.peers) != 0 {
		t.Errorf("%d nodes are remembered", len(one.peers))
	}
}
