// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/steward"
	"hallig/appliance/store"
	"hallig/appliance/wayback"
	"hallig/sync/peer"
)

// This file lets boxes update each other: a box gives the signed file of the system that it runs to paired boxes that ask for it over IP, and takes one from
// them. Who sends it does not matter: the file's signatures are checked by the first process of the image, block by block, before anything is written.
//
// GET and HEAD /_hallig/v1/update/BOARD, for paired boxes over libp2p: the file; Hallig-Version and Hallig-Release say what it is.

const (
	updatePath    = "/_hallig/v1/update/"
	versionHeader = "Hallig-Version"
	releaseHeader = "Hallig-Release"

	updateStall   = 2 * time.Minute  // without a byte for so long a transfer is given up
	autoEvery     = 15 * time.Minute // how often a box that updates itself looks for a newer system
	quietForTrial = 30 * time.Minute // and how long nothing must have been written before it restarts for one
)

// sharing bounds how many take the file at a time.
type sharing struct{ busy sync.Mutex }

// offerUpdate stands before next.
func (b *Box) offerUpdate(next http.Handler) http.Handler {
	if b.steward == nil {
		return next
	}
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("GET "+updatePath+"{board}", b.giveUpdate)
	return mux
}

func (b *Box) giveUpdate(w http.ResponseWriter, r *http.Request) {
	s, err := b.stewardState(r.Context())
	switch {
	case err != nil:
		b.log.Warn("cannot say what this box runs", "err", err)
		http.Error(w, "this box cannot give its system on now", http.StatusServiceUnavailable)
		return
	case r.PathValue("board") != s.Machine.Board || s.Slot == "" || s.Trial && s.Update.State == steward.UpdateTrial:
		http.NotFound(w, r)
		return
	}
	w.Header().Set(versionHeader, s.Version)
	w.Header().Set(releaseHeader, strconv.FormatInt(s.Release, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Method == http.MethodHead {
		return
	}
	if !b.sharing.busy.TryLock() {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "another box is taking the update now", http.StatusServiceUnavailable)
		return
	}
	defer b.sharing.busy.Unlock()
	b.log.Info("a box takes this system", "box", r.RemoteAddr, "version", s.Version)
	if err := b.steward.UpdateFile(r.Context(), w); err != nil {
		b.log.Info("the transfer of the system ended early", "box", r.RemoteAddr, "err", err)
		panic(http.ErrAbortHandler) // the other box must not take half a file for a whole one
	}
}

// askForUpdate asks a paired box that libp2p reaches.
func (b *Box) askForUpdate(ctx context.Context, method, server, board string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+server+updatePath+board, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its system: %w", server, err)
	}
	resp, err := b.exchange.host.RoundTripper().RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its system: %w", server, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("ask %s for its system: %s", server, resp.Status)
	}
	return resp, nil
}

// updateOffers asks the boxes in reach what they run, and lists what is newer than this box's own system and fits its board; the newest first.
func (b *Box) updateOffers(ctx context.Context) ([]admin.UpdateOffer, error) {
	s, err := b.stewardState(ctx)
	if err != nil {
		return nil, noImage(err)
	}
	offers := []admin.UpdateOffer{}
	if b.exchange.host == nil {
		return offers, nil
	}
	for _, p := range b.exchange.paired().All() {
		if !b.exchange.host.InReach(p.Server) {
			continue
		}
		ctx, stop := context.WithTimeout(ctx, probeLimit)
		resp, err := b.askForUpdate(ctx, http.MethodHead, p.Server, s.Machine.Board)
		stop()
		if err != nil {
			b.log.Debug("no system from this box", "err", err)
			continue
		}
		resp.Body.Close()
		release, err := strconv.ParseInt(resp.Header.Get(releaseHeader), 10, 64)
		if err == nil && release > s.Release {
			offers = append(offers, admin.UpdateOffer{Box: p.Server, Version: resp.Header.Get(versionHeader), Release: release})
		}
	}
	slices.SortStableFunc(offers, func(x, y admin.UpdateOffer) int { return int(y.Release - x.Release) })
	return offers, nil
}

func noImage(err error) error {
	if errors.Is(err, steward.ErrAbsent) {
		return &admin.Refusal{Text: "this box does not run from the image, so its system is updated as its machine's other programs are"}
	}
	return err
}

// updateFrom installs the system that a paired box runs, into the slot that does not run; server "" takes the newest that is offered. It is started by itself or on the page.
func (b *Box) updateFrom(ctx context.Context, server string) (admin.UpdateOffer, error) {
	offers, err := b.updateOffers(ctx)
	if err != nil {
		return admin.UpdateOffer{}, err
	}
	if p, ok := b.exchange.paired().ByID(peer.ID(server)); ok {
		server = p.Server
	}
	i := slices.IndexFunc(offers, func(o admin.UpdateOffer) bool { return server == "" || o.Box == server })
	if i < 0 {
		what := "no paired box in reach of the network"
		if server != "" {
			what = server + " is not in reach of the network, or"
		}
		return admin.UpdateOffer{}, &admin.Refusal{Text: what + " has no newer system for this kind of box; hallig status shows who is in reach"}
	}
	s, err := b.stewardState(ctx)
	if err != nil {
		return admin.UpdateOffer{}, noImage(err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	resp, err := b.askForUpdate(ctx, http.MethodGet, offers[i].Box, s.Machine.Board)
	if err != nil {
		return admin.UpdateOffer{}, &admin.Refusal{Text: err.Error() + "; try again in a minute"}
	}
	defer resp.Body.Close()
	body := newStallReader(resp.Body, updateStall, func() { stop(errStalled) })
	defer body.stop()
	b.log.Info("taking the system of another box", "box", offers[i].Box, "version", offers[i].Version)
	if err := b.steward.Update(ctx, body); err != nil {
		if text := (steward.Text{}); errors.As(err, &text) {
			return admin.UpdateOffer{}, &admin.Refusal{Text: text.En}
		}
		if errors.Is(context.Cause(ctx), errStalled) {
			return admin.UpdateOffer{}, &admin.Refusal{Text: errStalled.Error()}
		}
		return admin.UpdateOffer{}, err
	}
	return offers[i], nil
}

var errStalled = errors.New("the other box went silent during the transfer; try again, what came already is not written twice")

// stallReader calls off a transfer on which nothing comes.
type stallReader struct {
	r     io.Reader
	timer *time.Timer
	after time.Duration
}

func newStallReader(r io.Reader, after time.Duration, give func()) *stallReader {
	return &stallReader{r, time.AfterFunc(after, give), after} // the timer's goroutine only cancels
}

func (s *stallReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.timer.Reset(s.after)
	return n, err
}

func (s *stallReader) stop() { s.timer.Stop() }

// autoStep is what a box that updates itself does next.
type autoStep struct {
	Start bool   // boot the written update on trial
	Stick string // install this file
	Box   string // install from this box
}

// nextStep decides: what is written is started when nobody has written anything for a while; otherwise the newest system that is offered is taken. What
// has failed once, or what somebody went back from, is not taken again by itself.
func nextStep(s steward.State, offers []admin.UpdateOffer, quiet time.Duration) autoStep {
	switch {
	case s.Trial && s.Update.State == steward.UpdateTrial || s.Update.State == steward.UpdateWriting:
		return autoStep{}
	case s.Update.State == steward.UpdateWritten:
		return autoStep{Start: quiet >= quietForTrial}
	}
	best, step := s.Release, autoStep{}
	failed := int64(-1)
	if s.Update.State == steward.UpdateFailed || s.Update.State == steward.UpdateNone { // none, with a release: somebody went back from it
		failed = s.Update.Release
	}
	for _, stick := range s.Sticks {
		for _, u := range stick.Updates {
			if u.Newer && u.Error.Empty() && u.Release > best && u.Release != failed {
				best, step = u.Release, autoStep{Stick: u.Path}
			}
		}
	}
	for _, o := range offers {
		if o.Release > best && o.Release != failed {
			best, step = o.Release, autoStep{Box: o.Box}
		}
	}
	return step
}

// runAutomaticUpdates keeps the system new by itself, where the provisioning file says so. It runs behind the doors.
func (b *Box) runAutomaticUpdates(ctx context.Context, g *errgroup.Group) {
	if b.steward == nil || !b.cfg.Provisioned.Updates.Automatic {
		return
	}
	g.Go(func() error {
		position, since := b.db.Published(), time.Now()
		every(ctx, autoEvery, func() {
			if now := b.db.Published(); now != position {
				position, since = now, time.Now()
			}
			if err := b.updateByItself(ctx, time.Since(since)); err != nil && ctx.Err() == nil {
				b.log.Warn("the automatic update did not work; it is tried again", "err", err)
			}
		})
		return nil
	})
}

func (b *Box) updateByItself(ctx context.Context, quiet time.Duration) error {
	s, err := b.stewardState(ctx)
	if err != nil {
		return err
	}
	offers, err := b.updateOffers(ctx)
	if err != nil {
		return err
	}
	switch step := nextStep(s, offers, quiet); {
	case step.Start:
		b.log.Info("starting the update on trial: nobody has written for a while", "version", s.Update.Version)
		return b.steward.StartUpdate(ctx)
	case step.Stick != "":
		return b.steward.UpdateFrom(ctx, step.Stick)
	case step.Box != "":
		_, err := b.updateFrom(ctx, step.Box)
		return err
	}
	return nil
}

// GoBack has this version of the program, at its next start on dir, put back the copy of the database that was made before a newer version changed
// it. No box may run there. It says when the copy was made; without doIt nothing is changed.
func GoBack(dir string, doIt bool) (made time.Time, err error) {
	b := &Box{cfg: Config{Data: dir}, log: slog.New(slog.DiscardHandler)}
	if err := b.lockData(); err != nil {
		return made, err
	}
	defer b.lock.Close()
	database := filepath.Join(dir, "hallig.db")
	c, ok, err := wayback.For(database, store.SchemaVersion)
	switch {
	case err != nil:
		return made, err
	case !ok:
		return made, fmt.Errorf("there is no copy of the database from before an update in %s that this version can read", dir)
	case !doIt:
		return c.Made, nil
	}
	return c.Made, wayback.Leave(database, wayback.Note{Act: wayback.Back, Schema: c.Schema})
}
