// SPDX-License-Identifier: EUPL-1.2

package web

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// CaptivePath is the captive portal API of RFC 8908, which phones ask over TLS.
	CaptivePath = "/captive"
	// stayPath is where the button "stay on this network" leads.
	stayPath = "/weiter"

	stayFor  = 24 * time.Hour
	maxStays = 1024
)

// PortalOptions are what Portal needs to know. Ours is required.
type PortalOptions struct {
	// Ours says whether a browser that names this host meant the box.
	Ours func(host string) bool
	// Since is the time on a clock that only runs on, for forgetting who stays; nil: the process's own.
	Since func() time.Duration
}

// Portal leads browsers to the box that asked for somebody else: where the box answers all names of a network, a phone asks for a page that it knows, sees
// that another one comes, and shows that in a window of its own. What is meant for the box, and every call of an API whatever host it names, goes to next.
//
// Who presses "stay on this network" gets from then on, for a day, the answers that the systems expect where there is an Internet. So the window closes with
// "done", and the phone keeps to this network although nothing lies behind it. That is a lie to the system which only the person before it can order.
func Portal(o PortalOptions, next http.Handler) http.Handler {
	p := &portal{o: o, next: next, stays: map[netip.Addr]time.Duration{}}
	if p.o.Since == nil {
		start := time.Now()
		p.o.Since = func() time.Duration { return time.Since(start) }
	}
	return p
}

type portal struct {
	o    PortalOptions
	next http.Handler

	mu    sync.Mutex
	stays map[netip.Addr]time.Duration // since when
}

func (p *portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if strings.HasPrefix(path, "/_matrix") || strings.HasPrefix(path, "/_synapse") || strings.HasPrefix(path, "/.well-known/matrix") {
		p.next.ServeHTTP(w, r)
		return
	}
	if !p.o.Ours(r.Host) {
		p.foreign(w, r)
		return
	}
	switch {
	case path == stayPath && r.Method == http.MethodPost:
		p.stay(client(r))
		http.Redirect(w, r, "/?bleibt"+lang(r), http.StatusSeeOther)
	case path == CaptivePath && r.TLS != nil: // RFC 8908 wants TLS
		w.Header().Set("Content-Type", "application/captive+json")
		w.Header().Set("Cache-Control", "private, no-store")
		_ = json.NewEncoder(w).Encode(map[string]any{ // a phone that has gone asks again
			"captive": !p.staying(client(r)), "user-portal-url": "https://" + r.Host + "/", "can-extend-session": false,
		})
	default:
		p.next.ServeHTTP(w, r)
	}
}

func lang(r *http.Request) string {
	if l := r.FormValue("lang"); l == "de" || l == "en" {
		return "&lang=" + l
	}
	return ""
}

// foreign answers what was meant for somebody else. The redirect names the address at which the question arrived: that one works without any name.
func (p *portal) foreign(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if p.staying(client(r)) {
		if answer, ok := expected(r); ok {
			answer(w)
			return
		}
	}
	http.Redirect(w, r, "http://"+local(r)+"/", http.StatusFound)
}

// local is the address of the box that the visitor reached, for a URL.
func local(r *http.Request) string {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			ip := ap.Addr().Unmap().WithZone("")
			if port := ap.Port(); port != 80 && port != 443 {
				return netip.AddrPortFrom(ip, port).String()
			}
			if ip.Is6() {
				return "[" + ip.String() + "]"
			}
			return ip.String()
		}
	}
	return "hallig.local"
}

func client(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func (p *portal) stay(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.o.Since()
	if len(p.stays) >= maxStays {
		for a, since := range p.stays {
			if now-since > stayFor {
				delete(p.stays, a)
			}
		}
	}
	if len(p.stays) < maxStays {
		p.stays[a] = now
	}
}

func (p *portal) staying(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	since, ok := p.stays[a]
	return ok && p.o.Since()-since <= stayFor
}

// expected is what a system's own question for the Internet is answered with where there is one; ok is false for every other request.
func expected(r *http.Request) (answer func(http.ResponseWriter), ok bool) {
	text := func(typ, body string) (func(http.ResponseWriter), bool) {
		return func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", typ)
			_, _ = w.Write([]byte(body)) // a phone that has gone asks again
		}, true
	}
	host := strings.ToLower(r.Host)
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	switch r.URL.Path {
	case "/generate_204", "/gen_204": // Android, Chrome
		return func(w http.ResponseWriter) { w.WriteHeader(http.StatusNoContent) }, true
	case "/hotspot-detect.html", "/library/test/success.html", "/success.html": // Apple
		return text("text/html", "<HTML><HEAD><TITLE>Success</TITLE></HEAD><BODY>Success</BODY></HTML>")
	case "/connecttest.txt": // Windows 10 and later
		return text("text/plain", "Microsoft Connect Test")
	case "/ncsi.txt": // Windows before that
		return text("text/plain", "Microsoft NCSI")
	case "/success.txt": // Firefox
		return text("text/plain", "success\n")
	case "/canonical.html": // Firefox
		return text("text/html", `<meta http-equiv="refresh" content="0;url=https://support.mozilla.org/kb/captive-portal"/>`)
	case "/check_network_status.txt": // NetworkManager
		return text("text/plain", "NetworkManager is online\n")
	case "/":
		switch host {
		case "networkcheck.kde.org":
			return text("text/plain", "OK\n")
		case "connectivity-check.ubuntu.com":
			return func(w http.ResponseWriter) {
				w.Header().Set("X-NetworkManager-Status", "online")
				w.WriteHeader(http.StatusNoContent)
			}, true
		}
	}
	return nil, false
}
