// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"hallig/radio/serial"
)

// This file keeps the doors closed while an update is tried out. Everything is opened, so that the trial shows whether it can be; but nothing is acknowledged
// to anybody and nothing is exchanged, so that going back to the system and the database before loses nothing.

// doors are open or closed; they open once.
type doors struct {
	once sync.Once
	open chan struct{} // closed when the doors are open
	pass string        // who shows it is let in: the box's own look at itself

	lines sync.Once // serial lines are tried once only: some radios restart each time their port is opened
	fault error
}

func newDoors(trial bool) *doors {
	d := &doors{open: make(chan struct{}), pass: rand.Text()}
	if !trial {
		d.unlock()
	}
	return d
}

func (d *doors) unlock() { d.once.Do(func() { close(d.open) }) }

func (d *doors) closed() bool {
	if d == nil {
		return false
	}
	select {
	case <-d.open:
		return false
	default:
		return true
	}
}

const (
	waitDE = "Auf dieser Box wird gerade ein Update geprüft. In ein bis zwei Minuten geht es weiter, nichts ist verloren."
	waitEN = "An update of this box is being checked. It goes on in a minute or two; nothing is lost."
	// waitSeconds is when clients and other boxes ask again.
	waitSeconds = "10"
)

// passHeader carries doors.pass.
const passHeader = "Hallig-Trial"

var statusPaths = []string{"/status", "/status.json", "/metrics"}

// guard answers in place of h while the doors are closed: come again. Clients of Matrix repeat what was answered so. How the box does may be read.
func (d *doors) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.closed() || r.Method == http.MethodGet && (slices.Contains(statusPaths, r.URL.Path) || r.Header.Get(passHeader) == d.pass) {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Retry-After", waitSeconds)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Refresh", waitSeconds)
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "<!doctype html><meta name=viewport content=\"width=device-width\"><title>Hallig</title><p lang=de>%s</p><p lang=en>%s</p>\n", waitDE, waitEN)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `{"errcode":"M_UNKNOWN","error":%q}`+"\n", waitEN)
	})
}

// behindDoors starts loops that exchange something with others: at once, or when the doors open.
func (b *Box) behindDoors(ctx context.Context, g *errgroup.Group, start func()) {
	if !b.doors.closed() {
		start()
		return
	}
	g.Go(func() error {
		select {
		case <-b.doors.open:
			start()
		case <-ctx.Done():
		}
		return nil
	})
}

// confirmTrial opens the doors: the system was found to be well, and the firmware boots it from now on. From here on no older program puts the database of
// before back by itself. Asked again it does nothing.
func (b *Box) confirmTrial(context.Context) error {
	if !b.doors.closed() {
		return nil
	}
	if err := b.db.Confirm(); err != nil {
		return err
	}
	b.doors.unlock()
	b.log.Info("the update is confirmed; the doors are open")
	return nil
}

// tryLinks says whether what carries links could be opened. A radio that is not plugged in is no fault of an update; one that is there and cannot be opened is.
func (b *Box) tryLinks(ctx context.Context) error {
	b.doors.lines.Do(func() {
		for _, line := range b.cfg.Serial {
			// The port, not the modem: whether that answers is its own matter, and waiting for a call may last for ever.
			port, err := serial.OpenPort(ctx, modemOf(line))
			if err == nil {
				err = port.Close()
			}
			if _, there := os.Stat(line.Device); err != nil && !errors.Is(there, fs.ErrNotExist) && !errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(line.Device, "tcp:") {
				b.doors.fault = errors.Join(b.doors.fault, err)
			}
		}
	})
	return b.doors.fault
}
