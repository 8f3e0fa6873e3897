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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/steward"
	"hallig/appliance/store"
	"hallig/appliance/wayback"
	"hallig/sync/hub/api"
	"hallig/sync/peer"
)

// This file lets boxes update each other: a box gives the signed file of the system that it runs to paired boxes that ask for it over IP, and takes one from
// them, or from its hub when that has told it of one. Who sends it does not matter: the file's signatures are checked by the first process of the image, block by block, before anything is written.
//
// GET and HEAD /_hallig/v1/update/BOARD, for paired boxes over libp2p: the file; Hallig-Version and Hallig-Release say what it is. Range: bytes=N- gives the rest
// of a file that came in part: the same system gives the same bytes.

const (
	updatePath    = "/_hallig/v1/update/"
	versionHeader = api.UpdateVersion
	releaseHeader = api.UpdateRelease

	pauseForPeople = time.Minute      // a transfer from the hub that nobody asked for rests for so long after somebody has written
	updateStall    = time.Minute      // without a byte for so long an answer is given up and the rest asked for again
	updateAgain    = 10 * time.Second // after that pause
	updatePatience = 30 * time.Minute // until the transfer as a whole is given up
)

// sharing bounds how many take the file at a time.
type sharing struct {
	busy  sync.Mutex
	again time.Duration // tests: another updateAgain
	pause time.Duration // tests: another pauseForPeople
}

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
	var skip int64
	if v := r.Header.Get("Range"); v != "" {
		text, ok := strings.CutSuffix(strings.TrimPrefix(v, "bytes="), "-")
		if skip, err = strconv.ParseInt(text, 10, 64); !ok || err != nil || skip < 0 {
			http.Error(w, "only bytes=N- is understood", http.StatusRequestedRangeNotSatisfiable)
			return
		}
	}
	if !b.sharing.busy.TryLock() {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "another box is taking the update now", http.StatusServiceUnavailable)
		return
	}
	defer b.sharing.busy.Unlock()
	b.log.Info("a box takes this system", "box", r.RemoteAddr, "version", s.Version)
	if skip > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if err := b.steward.UpdateFile(r.Context(), &skipping{patient{w, http.NewResponseController(w)}, skip}); err != nil {
		b.log.Info("the transfer of the system ended early", "box", r.RemoteAddr, "err", err)
		panic(http.ErrAbortHandler) // the other box must not take half a file for a whole one
	}
}

// skipping drops the first bytes.
type skipping struct {
	w io.Writer
	n int64
}

func (s *skipping) Write(b []byte) (int, error) {
	drop := min(s.n, int64(len(b)))
	s.n -= drop
	n, err := s.w.Write(b[drop:])
	return n + int(drop), err
}

// patient gives each write its own deadline: a box that takes nothing any more must not keep others from asking.
type patient struct {
	w   io.Writer
	out *http.ResponseController
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.out.SetWriteDeadline(time.Now().Add(updateStall)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}

// errWithdrawn is answered by who does not give the file (any more).
var errWithdrawn = errors.New("the system is not given there any more")

// askForUpdate asks a paired box that libp2p reaches, or the hub, for the file at a path from a byte on.
func (b *Box) askForUpdate(ctx context.Context, method, server, path string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+server+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its system: %w", server, err)
	}
	want := http.StatusOK
	if from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
		want = http.StatusPartialContent
	}
	resp, err := b.exchange.host.RoundTripper().RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its system: %w", server, err)
	}
	if resp.StatusCode != want {
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("ask %s for its system: %w", server, errWithdrawn)
		}
		return nil, fmt.Errorf("ask %s for its system: %s", server, resp.Status)
	}
	return resp, nil
}

// updateOffers asks the boxes in reach what they run, and lists that, and what the hub has told of, where it is newer than this box's own system and fits its board; the newest first.
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
		resp, err := b.askForUpdate(ctx, http.MethodHead, p.Server, updatePath+s.Machine.Board, 0)
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
	if o, ok := b.hubOffer(s); ok {
		offers = append(offers, o)
	}
	slices.SortStableFunc(offers, func(x, y admin.UpdateOffer) int { return int(y.Release - x.Release) })
	return offers, nil
}

// hubOffer is the newer system that the hub has told this box of, while the hub is in reach.
func (b *Box) hubOffer(s steward.State) (admin.UpdateOffer, bool) {
	h := &b.exchange.post
	h.mu.Lock()
	defer h.mu.Unlock()
	if b.updating().NoHub || !h.up || h.answer == nil || h.answer.Update == nil {
		return admin.UpdateOffer{}, false
	}
	u := h.answer.Update
	return admin.UpdateOffer{Box: h.server, Version: u.Version, Release: u.Release}, u.Board == s.Machine.Board && u.Release > s.Release
}

func noImage(err error) error {
	if errors.Is(err, steward.ErrAbsent) {
		return &admin.Refusal{Text: "this box does not run from the image, so its system is updated as its machine's other programs are",
			DE: "Diese Box läuft nicht vom Abbild; ihr System wird aktualisiert wie die anderen Programme ihres Rechners."}
	}
	return err
}

// updateFrom installs the system that a paired box runs, or that the hub has, into the slot that does not run; server "" takes the newest that is offered. It is started by itself or on the page.
func (b *Box) updateFrom(ctx context.Context, server string) (admin.UpdateOffer, error) {
	return b.takeSystem(ctx, server, false)
}

// takeSystem is updateFrom; with polite, a transfer from the hub rests while people write.
func (b *Box) takeSystem(ctx context.Context, server string, polite bool) (admin.UpdateOffer, error) {
	offers, err := b.updateOffers(ctx)
	if err != nil {
		return admin.UpdateOffer{}, err
	}
	if p, ok := b.exchange.paired().ByID(peer.ID(server)); ok {
		server = p.Server
	}
	i := slices.IndexFunc(offers, func(o admin.UpdateOffer) bool { return server == "" || o.Box == server })
	if i < 0 {
		r := &admin.Refusal{Text: "there is no newer system for this kind of box at the paired boxes in reach of the network, nor at the hub; hallig status shows who is in reach",
			DE: "Weder eine gekoppelte Box, die über das Netz erreichbar ist, noch der Hub hat ein neueres System für diese Art von Box."}
		if server != "" {
			r = &admin.Refusal{Text: server + " is not in reach of the network, or has no newer system for this kind of box; hallig status shows who is in reach",
				DE: server + " ist über das Netz nicht erreichbar oder hat kein neueres System für diese Art von Box."}
		}
		return admin.UpdateOffer{}, r
	}
	s, err := b.stewardState(ctx)
	if err != nil {
		return admin.UpdateOffer{}, noImage(err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop() // whoever still reads the body, as net/http may after an early answer, is let go
	body := &transfer{b: b, ctx: ctx, server: offers[i].Box, path: updatePath + s.Machine.Board, release: offers[i].Release}
	if body.server == b.exchange.post.server {
		body.path = api.UpdatePath + s.Machine.Board + "/" + strconv.FormatInt(body.release, 10)
		body.polite, body.position = polite, b.db.Published()
	}
	b.log.Info("taking a newer system", "box", offers[i].Box, "version", offers[i].Version)
	if err := b.steward.Update(ctx, body); err != nil {
		if text := (steward.Text{}); errors.As(err, &text) {
			return admin.UpdateOffer{}, &admin.Refusal{Text: text.En, DE: text.De}
		}
		if why := body.why.Load(); why != nil {
			err = &admin.Refusal{Text: "the transfer ended: " + *why + "; try again when the other box is in reach",
				DE: "Die Übertragung ist abgebrochen; noch einmal versuchen, wenn die andere Box erreichbar ist."}
		}
		return admin.UpdateOffer{}, err
	}
	return offers[i], nil
}

// transfer reads the file of another box, or of the hub. When the way breaks or nothing comes any more it asks again, from the byte on that it lacks, for as long as patience lasts.
type transfer struct {
	b            *Box
	ctx          context.Context // of the request that the transfer serves
	server, path string
	release      int64
	polite       bool  // it rests while people write
	position     int64 // of the last event that it has seen

	body  io.ReadCloser // nil: ask again
	stall *time.Timer   // calls off an answer on which nothing comes
	stop  context.CancelFunc
	got   int64
	since time.Time              // of the last byte
	why   atomic.Pointer[string] // it was given up
}

func (t *transfer) Read(p []byte) (int, error) {
	if t.since.IsZero() {
		t.since = time.Now()
	}
	for {
		if !t.rest() {
			return 0, t.ctx.Err()
		}
		err := t.open()
		if err == nil {
			var n int
			n, err = t.body.Read(p)
			if n > 0 {
				t.got += int64(n)
				t.since = time.Now()
				t.stall.Reset(updateStall)
				return n, nil
			}
			if err == io.EOF {
				return 0, err
			}
			t.close()
		}
		again := t.b.sharing.again
		if again == 0 {
			again = updateAgain
		}
		if t.ctx.Err() != nil || errors.Is(err, errOtherSystem) || errors.Is(err, errWithdrawn) || time.Since(t.since) > updatePatience {
			why := err.Error()
			t.why.Store(&why)
			return 0, err
		}
		t.b.log.Info("the transfer of a system is interrupted; it goes on when the other box answers", "box", t.server, "bytes", t.got, "err", err)
		select {
		case <-time.After(again):
		case <-t.ctx.Done():
		}
	}
}

// rest lets people go first: it waits until nobody has written for a while. false: the transfer was called off.
func (t *transfer) rest() bool {
	pause := t.b.sharing.pause
	if pause == 0 {
		pause = pauseForPeople
	}
	for t.polite && t.b.db.Published() != t.position {
		t.position = t.b.db.Published()
		t.close()
		select {
		case <-time.After(pause):
		case <-t.ctx.Done():
			return false
		}
		t.since = time.Now()
	}
	return true
}

var errOtherSystem = errors.New("the other box runs another system by now")

// open asks for what is still missing.
func (t *transfer) open() error {
	if t.body != nil {
		return nil
	}
	ctx, stop := context.WithCancel(t.ctx)
	stall := time.AfterFunc(updateStall, stop) // the timer's goroutine only cancels
	resp, err := t.b.askForUpdate(ctx, http.MethodGet, t.server, t.path, t.got)
	if err == nil && resp.Header.Get(releaseHeader) != strconv.FormatInt(t.release, 10) {
		resp.Body.Close()
		err = errOtherSystem
	}
	if err != nil {
		stall.Stop()
		stop()
		return err
	}
	t.body, t.stall, t.stop = resp.Body, stall, stop
	return nil
}

func (t *transfer) close() {
	if t.body == nil {
		return
	}
	t.stall.Stop()
	t.body.Close()
	t.stop()
	t.body = nil
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
