// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"hallig/appliance/vault"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// view is what the page shows.
type view struct{ Wrong, Opened string }

// servePage takes the code from whoever types it. One attempt at a time, each as slow as the derivation of the key (about a second): with a code of 16
// characters nobody gets through by trying. done ends it and frees the port.
func servePage(ctx context.Context, listen, device string, opened chan<- *vault.Disk) (done func(), err error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("serve the locked page: %w", err)
	}
	turns := newTurns()
	mux := http.NewServeMux()
	show := func(w http.ResponseWriter, status int, v view) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		w.WriteHeader(status)
		page.Execute(w, v) // a browser that goes away while reading is no trouble of ours
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { show(w, http.StatusOK, view{}) })
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4096)
		key, err := vault.Code(r.PostFormValue("code"))
		if err != nil {
			show(w, http.StatusBadRequest, view{Wrong: "Der Code ist zu kurz. / The code is too short."})
			return
		}
		done, mine := turns.take(r.Context(), visitor(r.RemoteAddr))
		if !mine {
			show(w, http.StatusTooManyRequests, view{Wrong: "Gerade wird ein anderer Code versucht; gleich noch einmal. / Another code is being tried; try again in a moment."})
			return
		}
		defer done()
		disk, err := vault.Open(device, key)
		if errors.Is(err, vault.ErrClosed) {
			show(w, http.StatusForbidden, view{Wrong: "Dieser Code öffnet die Box nicht. / This code does not open the box."})
			return
		}
		if err != nil {
			show(w, http.StatusInternalServerError, view{Wrong: "Der Speicher kann nicht gelesen werden: / The storage cannot be read: " + err.Error()})
			return
		}
		show(w, http.StatusOK, view{Opened: "ja"})
		select {
		case opened <- disk:
		case <-r.Context().Done(): // somebody else was first, or the browser went away
			disk.Close()
		}
	})
	// Clients and portal probes learn that the box is there and waits.
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_matrix/") {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, `{"errcode":"M_UNKNOWN","error":"this box is locked; it waits for its key stick or its code"}`)
			return
		}
		http.Redirect(w, r, "http://"+host(r)+"/", http.StatusFound)
	})
	srv := &http.Server{Handler: mux, ReadTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	ended := make(chan struct{})
	go func() { // done waits for it
		defer close(ended)
		srv.Serve(l)
	}()
	return func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
		<-ended
	}, nil
}

// turns lets one code be tried at a time. Who comes meanwhile waits, with one code for each address: somebody who sends codes without end
// delays the others by one of his and does not keep them out.
type turns struct {
	turn chan struct{}

	mu      sync.Mutex
	waiting map[string]bool
}

// patience is how long a code waits for its turn.
const patience = 20 * time.Second

func newTurns() *turns { return &turns{turn: make(chan struct{}, 1), waiting: map[string]bool{}} }

// take waits for the turn of an address; done ends it.
func (t *turns) take(ctx context.Context, who string) (done func(), ok bool) {
	t.mu.Lock()
	there := t.waiting[who]
	if !there {
		t.waiting[who] = true
	}
	t.mu.Unlock()
	if there {
		return nil, false
	}
	gone := func() {
		t.mu.Lock()
		delete(t.waiting, who)
		t.mu.Unlock()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn; gone() }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	gone()
	return nil, false
}

// visitor is the address without the port.
func visitor(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// host is where the browser reaches the box, in numbers: a portal probe asked for a name that is not ours.
func host(r *http.Request) string {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		if a.Port == 80 {
			if a.IP.To4() == nil {
				return "[" + a.IP.String() + "]"
			}
			return a.IP.String()
		}
		return a.String()
	}
	return r.Host
}
