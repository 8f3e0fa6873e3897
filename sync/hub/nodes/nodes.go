// SPDX-License-Identifier: EUPL-1.2

// Package nodes is the line between the machines of one hub: HTTP over TLS 1.3 in the machines' own network, by which a question reaches the node that a box is connected to.
//
// All nodes of a hub have the same box.key. Each makes a certificate of it at the start, and takes that one key from the other end and no authority, no name, no date: who does not have the key
// does not get through the handshake. A node that cannot be connected to within a second or so counts as gone for a while, so that questions do not wait for it one after the other.
//
// It keeps nothing. What may be asked, and that a question is passed on once and not in circles, is the hub's own.
package nodes

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	connectIn = time.Second
	greetIn   = 3 * time.Second // a machine with much to do needs its time for that
	goneFor   = 5 * time.Second
	// AtOnce is how many questions one node asks another at a time.
	AtOnce = 64
)

// Errors of RoundTrip for which nothing was asked.
var (
	ErrGone = errors.New("the other node of the hub is out of reach")
	ErrBusy = errors.New("too many questions are at the other node of the hub")
)

// Line is one node's end. Safe for concurrent use.
type Line struct {
	listener  net.Listener
	transport *http.Transport
	log       *slog.Logger

	mu    sync.Mutex
	peers map[string]*far // by address
}

// far is another node.
type far struct {
	asking int
	gone   time.Time // until when nobody tries
}

// Listen opens the node's port; addr is where the other nodes reach it. key is the hub's box.key.
func Listen(addr string, key ed25519.PrivateKey, log *slog.Logger) (*Line, error) {
	config, err := pinned(key)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("open the port for the hub's other nodes: %w", err)
	}
	n := &Line{listener: tls.NewListener(l, config), log: log, peers: map[string]*far{}}
	n.transport = &http.Transport{MaxIdleConnsPerHost: AtOnce, IdleConnTimeout: time.Minute, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return n.dial(ctx, network, addr, config)
		}}
	return n, nil
}

// pinned gives what both ends use: the certificate of the key, and that key alone for the far end.
func pinned(key ed25519.PrivateKey) (*tls.Config, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the key of the hub is none")
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)} // dates say nothing here
	raw, err := x509.CreateCertificate(rand.Reader, form, form, public, key)
	if err != nil {
		return nil, fmt.Errorf("make the node's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}},
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // in its place: the one key
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !public.Equal(s.PeerCertificates[0].PublicKey) {
				return errors.New("it does not have the key of this hub")
			}
			return nil
		},
	}, nil
}

// dial gives a connection whose handshake is done.
func (n *Line) dial(ctx context.Context, network, addr string, config *tls.Config) (net.Conn, error) {
	d := net.Dialer{Timeout: connectIn, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}}
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	ctx, cancel := context.WithTimeout(ctx, greetIn)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return conn, nil
}

// Addr is where the other nodes reach this one.
func (n *Line) Addr() string { return n.listener.Addr().String() }

// Listener gives the connections of other nodes.
func (n *Line) Listener() net.Listener { return n.listener }

// RoundTrip asks the node at an address; the request's own Host stays as it is.
func (n *Line) RoundTrip(addr string, req *http.Request) (*http.Response, error) {
	leave, err := n.enter(addr)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = "http", addr // the transport's connections are TLS already
	resp, err := n.transport.RoundTrip(out)
	if err != nil {
		n.failed(addr, err)
		leave()
		return nil, fmt.Errorf("ask the hub's node at %s: %w", addr, err)
	}
	resp.Body = &answered{resp.Body, leave}
	return resp, nil
}

// answered gives a place back when an answer was read.
type answered struct {
	io.ReadCloser
	leave func()
}

func (a *answered) Close() error {
	a.leave()
	return a.ReadCloser.Close()
}

// enter takes a place; leave gives it back, once.
func (n *Line) enter(addr string) (leave func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := n.peers[addr]
	if f == nil {
		f = &far{}
		n.peers[addr] = f
	}
	switch {
	case time.Now().Before(f.gone):
		return nil, ErrGone
	case f.asking >= AtOnce:
		return nil, ErrBusy
	}
	f.asking++
	return sync.OnceFunc(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if f.asking--; f.asking == 0 && !time.Now().Before(f.gone) {
			delete(n.peers, addr) // nodes have other addresses after a start, perhaps
		}
	}), nil
}

// failed notes that a node could not be connected to.
func (n *Line) failed(addr string, err error) {
	if !errors.Is(err, ErrGone) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.peers[addr]; f != nil && !time.Now().Before(f.gone) {
		f.gone = time.Now().Add(goneFor)
		n.log.Warn("a node of the hub is not reached by the others: what is asked of the boxes that are connected to it is answered as if they were away; see to the machine, and to \"internal\" in its hub.json",
			"at", addr, "err", err)
	}
}

// Close ends the port and idle connections.
func (n *Line) Close() error {
	n.transport.CloseIdleConnections()
	if err := n.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
