// SPDX-License-Identifier: EUPL-1.2

package testpeer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Door stands before a server's Server-Server API, ends the TLS of those who come in, and counts what they ask for. It changes nothing.
type Door struct {
	srv  *http.Server
	l    net.Listener
	done chan struct{}

	mu       sync.Mutex
	asked    map[string]Asked
	first    time.Time         // request since Reset
	answered func(kind string) // nil: nobody wants to know
}

// Asked is how often one thing was asked for.
type Asked struct {
	Requests, Failed int   // Failed: answered with 500 or more, 429, 401, or not at all
	In, Out          int64 // bytes of bodies
}

// NewDoor opens a door on loopback for a server that is called host, to target: "http://HOST:PORT", or "https://" with a certificate of the same authority.
func NewDoor(ca *CA, dir, host, target string) (*Door, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	cert, key := filepath.Join(dir, "door-"+host+".crt"), filepath.Join(dir, "door-"+host+".key")
	if err := ca.Issue(host, cert, key); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open door: %w", err)
	}
	d := &Door{l: l, done: make(chan struct{}), asked: map[string]Asked{}}
	quiet := log.New(io.Discard, "", 0) // cut connections are the game
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.RawQuery = to.Scheme, to.Host, r.In.URL.RawQuery
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: host}, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true},
		ErrorLog:     quiet,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // the server behind is away: so is the door
	}
	d.srv = &http.Server{Handler: d.count(proxy), TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}, ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
	go func() { // Close waits for it
		defer close(d.done)
		_ = d.srv.ServeTLS(l, "", "") // until Close
	}()
	return d, nil
}

// Addr is where the door is.
func (d *Door) Addr() string { return d.l.Addr().String() }

// Close shuts the door.
func (d *Door) Close() {
	_ = d.srv.Close() // nobody is to be waited for
	<-d.done
}

// Reset forgets what was counted.
func (d *Door) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.asked)
	d.first = time.Time{}
}

// Asked gives what was asked for since Reset, by the name of the endpoint ("send", "event", "get_missing_events"), and when the first request came.
func (d *Door) Asked() (asked map[string]Asked, first time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.asked), d.first
}

// Answered has f told what was asked for whenever the server has answered, before anybody else hears of it.
func (d *Door) Answered(f func(kind string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered = f
}

func (d *Door) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		body := &countedBody{ReadCloser: r.Body}
		r.Body = body
		answer := &countedAnswer{ResponseWriter: w}
		d.mu.Lock()
		if f := d.answered; f != nil {
			answer.begins = func() { f(Kind(r.URL.Path)) }
		}
		d.mu.Unlock()
		defer func() {
			kind := Kind(r.URL.Path)
			d.mu.Lock()
			defer d.mu.Unlock()
			a := d.asked[kind]
			a.Requests++
			if s := answer.status; s == 0 || s >= 500 || s == http.StatusTooManyRequests || s == http.StatusUnauthorized {
				a.Failed++
			}
			a.In, a.Out = a.In+body.n, a.Out+answer.n
			d.asked[kind] = a
			if d.first.IsZero() {
				d.first = at
			}
		}()
		next.ServeHTTP(answer, r)
	})
}

// Kind is the name of a Server-Server endpoint without what it is asked about.
func Kind(path string) string {
	part := strings.Split(strings.TrimPrefix(path, "/_matrix/"), "/") // federation, v1, send, TXN
	if len(part) < 3 || part[0] != "federation" && part[0] != "key" {
		return "other"
	}
	switch name := part[2]; {
	case part[0] == "key":
		return "key " + name
	case len(part) > 3 && (name == "user" || name == "query" || name == "media"):
		return name + " " + part[3]
	default:
		return name
	}
}

type countedBody struct {
	io.ReadCloser
	n int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	return n, err
}

type countedAnswer struct {
	http.ResponseWriter
	status int
	n      int64
	begins func() // optional
}

func (a *countedAnswer) WriteHeader(status int) {
	if a.begins != nil && a.status == 0 {
		a.begins()
	}
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *countedAnswer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(p)
	a.n += int64(n)
	return n, err
}

// Flush lets answers through that are written piece by piece.
func (a *countedAnswer) Flush() {
	err := http.NewResponseController(a.ResponseWriter).Flush()
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		panic(http.ErrAbortHandler)
	}
}
