// SPDX-License-Identifier: EUPL-1.2

// Package muster keeps the newest roster of a fleet that the organisation's root key has signed, and passes it on: who belongs to the fleet, and who was lost.
//
// It promises: what is kept is on the disk before it counts, has the root's signature, and is never replaced by an older one, whoever brings it. So it does not matter who brings it: the hub, another box,
// a stick. What nobody has signed changes nothing and is counted.
//
// It leaves to others what follows from it: who is let in, whose connections end.
//
// The file holds the roster as peer.SignFleet writes it. Between machines it goes over HTTP, at Path, between those who know each other:
//
//	GET Path?after=SERIAL   200 and a newer roster, or 204; both say in the header Hallig-Fleet which serial they have
//	PUT Path                a roster; 204 when it is taken or known, 400 when it is none, 409 when a newer one is here
package muster

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/google/renameio/v2"

	"hallig/sync/peer"
)

// Path is where a box or a hub answers others about the roster.
const Path = "/_hallig/fleet/v1/roster"

const serialHeader = "Hallig-Fleet"

// Config is what a Keeper needs; all but Log.
type Config struct {
	File string
	Root ed25519.PublicKey // nil: there is no fleet, and nothing is taken
	// Changed is told of each roster that has taken the place of another, after that is on the disk. One call at a time.
	Changed func(old, now peer.Fleet)
	Log     *slog.Logger
}

// Keeper has the newest roster. Safe for concurrent use.
type Keeper struct {
	c       Config
	refused atomic.Int64
	taking  sync.Mutex // one at a time takes
	now     atomic.Pointer[kept]
}

type kept struct {
	raw   []byte
	fleet peer.Fleet
}

// What is wrong with a roster that is not taken.
var (
	ErrOlder  = errors.New("a newer roster is here already")
	ErrNoRoot = errors.New("no root key is set here, so no roster can be believed")
	ErrTwin   = errors.New("another roster of the same serial is here: two were signed from one; sign once more, from the one that all shall have")
)

// Explain says to people why a roster was not taken, and what to do next.
func Explain(err error) (de, en string) {
	switch {
	case errors.Is(err, ErrOlder):
		return "Die Liste wird nicht angenommen: Hier ist schon eine neuere. Die neueste Datei nehmen (hallig fleet roster show DATEI nennt die Nummer); ist sie verloren, die Liste von hier holen (fleet.roster) und aus ihr die nächste unterschreiben.",
			"The roster is not taken: a newer one is here already. Take the newest file (hallig fleet roster show FILE tells its number); if that is lost, fetch the one from here (fleet.roster) and sign the next one from it."
	case errors.Is(err, ErrTwin):
		return "Die Liste wird nicht angenommen: Hier ist eine andere mit derselben Nummer, zwei wurden aus einer unterschrieben. Aus der, die gelten soll, noch einmal unterschreiben.",
			"The roster is not taken: another one of the same number is here, two were signed from one. Sign once more, from the one that all shall have."
	case errors.Is(err, peer.ErrOtherRoot):
		return "Die Liste wird nicht angenommen: Ein anderer Schlüssel hat sie unterschrieben als der in organisation_key. Mit dem Schlüssel dieser Organisation unterschreiben (hallig fleet roster sign); hat sie einen neuen, dessen Zeile hier als organisation_key eintragen.",
			"The roster is not taken: another key has signed it than the one in organisation_key. Sign it with this organisation's key (hallig fleet roster sign); if it has a new one, enter that one's line here as organisation_key."
	}
	return "Die Liste wird nicht angenommen: " + err.Error(), "The roster is not taken: " + err.Error()
}

// Open reads what is kept. A file that cannot be read as a roster of this root counts as none, and is told of: another one will come.
func Open(c Config) (*Keeper, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{c: c}
	k.now.Store(&kept{})
	if c.Root == nil {
		return k, nil
	}
	raw, err := os.ReadFile(c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the roster of the fleet: %w", err)
	}
	f, err := peer.ReadFleet(raw, c.Root)
	if err != nil {
		c.Log.Error("the roster of the fleet cannot be used; bring the newest one", "file", c.File, "err", err)
		return k, nil
	}
	k.now.Store(&kept{raw, f})
	return k, nil
}

// Fleet is the newest roster; its Serial is 0 when there is none.
func (k *Keeper) Fleet() peer.Fleet { return k.now.Load().fleet }

// Raw is the same as it was signed.
func (k *Keeper) Raw() []byte { return k.now.Load().raw }

// Refused counts what was brought and is no roster of this root.
func (k *Keeper) Refused() int64 { return k.refused.Load() }

// Take takes a roster that somebody brings. changed: it is the newest now.
func (k *Keeper) Take(raw []byte, from string) (changed bool, err error) {
	if k.c.Root == nil {
		return false, ErrNoRoot
	}
	if bytes.Equal(raw, k.Raw()) {
		return false, nil
	}
	f, err := peer.ReadFleet(raw, k.c.Root)
	if err != nil {
		k.refused.Add(1)
		return false, err
	}
	k.taking.Lock()
	defer k.taking.Unlock()
	old := k.now.Load()
	switch {
	case f.Serial < old.fleet.Serial:
		return false, ErrOlder
	case f.Serial == old.fleet.Serial && bytes.Equal(raw, old.raw):
		return false, nil
	case f.Serial == old.fleet.Serial:
		k.c.Log.Error("two rosters of the fleet have one serial; the first one stays until a newer one comes", "serial", f.Serial, "from", from)
		return false, ErrTwin
	}
	if err := renameio.WriteFile(k.c.File, raw, 0o600); err != nil {
		return false, fmt.Errorf("keep the roster of the fleet: %w", err)
	}
	k.now.Store(&kept{bytes.Clone(raw), f})
	k.c.Log.Info("new roster of the fleet", "serial", f.Serial, "boxes", len(f.Boxes), "revoked", len(f.Revoked), "from", from)
	if k.c.Changed != nil {
		k.c.Changed(old.fleet, f)
	}
	return true, nil
}

// ServeHTTP answers at Path. Whoever may ask is the caller's to say.
func (k *Keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		now := k.now.Load()
		w.Header().Set(serialHeader, strconv.FormatUint(now.fleet.Serial, 10))
		after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		if err != nil || after >= now.fleet.Serial {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(now.raw)))
		_, _ = w.Write(now.raw) // who has gone asks again
	case http.MethodPut:
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, peer.MaxFleet))
		if err == nil {
			_, err = k.Take(raw, r.RemoteAddr)
		}
		switch {
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
		case errors.Is(err, ErrOlder), errors.Is(err, ErrTwin), errors.Is(err, ErrNoRoot):
			http.Error(w, err.Error(), http.StatusConflict)
		default:
			k.c.Log.Warn("what was brought is no roster of this fleet", "from", r.RemoteAddr, "err", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	default:
		http.Error(w, "want GET or PUT", http.StatusMethodNotAllowed)
	}
}

// Compare has this keeper and that of another server both have the newer roster of the two. way reaches the server by its name.
func (k *Keeper) Compare(ctx context.Context, way http.RoundTripper, server string) error {
	if k.c.Root == nil {
		return nil
	}
	have := k.Fleet().Serial
	resp, err := k.ask(ctx, way, server, http.MethodGet, "?after="+strconv.FormatUint(have, 10), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		raw, err := io.ReadAll(io.LimitReader(resp.Body, peer.MaxFleet+1))
		if err == nil {
			_, err = k.Take(raw, server)
		}
		return err
	case http.StatusNoContent:
		theirs, err := strconv.ParseUint(resp.Header.Get(serialHeader), 10, 64)
		if err != nil || theirs >= have {
			return nil
		}
		return k.Give(ctx, way, server)
	}
	return fmt.Errorf("ask %s for the roster of the fleet: it answered %d", server, resp.StatusCode)
}

// Give brings the roster to another server.
func (k *Keeper) Give(ctx context.Context, way http.RoundTripper, server string) error {
	raw := k.Raw()
	if len(raw) == 0 {
		return nil
	}
	resp, err := k.ask(ctx, way, server, http.MethodPut, "", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusConflict {
		return fmt.Errorf("bring %s the roster of the fleet: it answered %d", server, resp.StatusCode)
	}
	return nil
}

func (k *Keeper) ask(ctx context.Context, way http.RoundTripper, server, method, query string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+server+Path+query, body)
	if err != nil {
		return nil, fmt.Errorf("roster of the fleet: %w", err)
	}
	resp, err := way.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("roster of the fleet: %w", err)
	}
	return resp, nil
}
