// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"

	"hallig/sync/peer"
)

// ErrUnknownServer: no paired box owns that server name.
var ErrUnknownServer = errors.New("no paired box has that server name")

// Addr is the address of an HTTP connection over libp2p: which box is at the other end.
type Addr struct {
	ID     peer.ID
	Server string
}

// Network names the kind of address.
func (Addr) Network() string { return "p2p" }

// String is the server name, so that http.Request.RemoteAddr tells a handler who asks.
func (a Addr) String() string { return a.Server }

// conn is a stream that net/http takes for a connection.
type conn struct {
	network.Stream
	local, remote Addr
}

func (c conn) LocalAddr() net.Addr  { return c.local }
func (c conn) RemoteAddr() net.Addr { return c.remote }

// asking is the end of a connection that asks. It is closed when the answer was read, or when nobody wants the rest of it: then the other end must not
// go on writing until the stream's window is full, and then wait for ever.
type asking struct{ conn }

func (c asking) Close() error { return c.Stream.Reset() }

// handleHTTP hands a stream that a paired box opened to whoever accepts.
func (h *Host) handleHTTP(s network.Stream) { h.handle(s, func(c net.Conn) net.Conn { return c }) }

// handlePacked does for one whose bytes are packed.
func (h *Host) handlePacked(s network.Stream) { h.handle(s, h.pack) }

func (h *Host) handle(s network.Stream, as func(net.Conn) net.Conn) {
	p, ok := h.paired(s.Conn().RemotePeer())
	if !ok {
		_ = s.Reset() // a stranger; there is nothing to tell it
		return
	}
	wait := time.NewTimer(10 * time.Second)
	defer wait.Stop()
	select {
	case h.accept <- as(conn{s, Addr{ID: h.id}, Addr{p.ID, p.Server}}):
	case <-h.ctx.Done():
		_ = s.Reset() // the box goes down
	case <-wait.C:
		_ = s.Reset() // nobody serves HTTP here
	}
}

// Listener gives the HTTP connections of paired boxes; its RemoteAddr is an Addr. Closing it only ends Accept.
func (h *Host) Listener() net.Listener {
	ctx, stop := context.WithCancel(h.ctx)
	return &streamListener{h: h, ctx: ctx, stop: stop}
}

type streamListener struct {
	h    *Host
	ctx  context.Context // ends with the listener
	stop context.CancelFunc
}

func (l *streamListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.h.accept:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l *streamListener) Close() error {
	l.stop()
	return nil
}

func (l *streamListener) Addr() net.Addr { return Addr{ID: l.h.id} }

// InReach says whether the paired box that owns the server name is connected.
func (h *Host) InReach(server string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.roster.ByServer(server)
	return ok && h.wires[p.ID] != nil
}

// RoundTripper sends HTTP requests to paired boxes: URL.Host is the Matrix server name, the scheme does not matter. It
// fails at once when the box is not paired (ErrUnknownServer) or not connected.
func (h *Host) RoundTripper() http.RoundTripper { return h.asking }

func (h *Host) newRoundTripper() *roundTripper {
	return &roundTripper{h, &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			id, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("dial box: %w", err)
			}
			return h.openHTTP(ctx, id)
		},
		// A stream costs nothing to open, and one kept over an outage would only fail the next request.
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		MaxConnsPerHost:        32,
		WriteBufferSize:        packMost, // head and body of most requests are packed together
	}}
}

func (h *Host) openHTTP(ctx context.Context, id string) (net.Conn, error) {
	far, err := libpeer.Decode(id)
	if err != nil {
		return nil, fmt.Errorf("dial box: %w", err)
	}
	s, err := h.host.NewStream(network.WithAllowLimitedConn(network.WithNoDial(ctx, "the dialler dials"), "a straight one comes first"), far, protocolPacked, protocolHTTP)
	if err != nil {
		return nil, fmt.Errorf("dial box %s: %w", peer.ID(id).Short(), err)
	}
	c := asking{conn{s, Addr{ID: h.id}, Addr{ID: peer.ID(id)}}}
	if s.Protocol() == protocolPacked {
		return h.pack(c), nil
	}
	return c, nil
}

type roundTripper struct {
	h         *Host
	transport *http.Transport
}

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	t.h.mu.Lock()
	p, ok := t.h.roster.ByServer(r.URL.Host)
	t.h.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("ask %q: %w", r.URL.Host, ErrUnknownServer)
	}
	out := r.Clone(r.Context())
	if out.Host == "" {
		out.Host = r.URL.Host
	}
	u := *r.URL
	out.URL = &u
	out.URL.Scheme, out.URL.Host = "http", string(p.ID)
	response, err := t.transport.RoundTrip(out)
	if err != nil {
		var escaped *url.Error
		if errors.As(err, &escaped) {
			err = escaped.Err
		}
		return nil, fmt.Errorf("ask %q: %w", r.URL.Host, err)
	}
	response.Request = r
	return response, nil
}
