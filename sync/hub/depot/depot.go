// SPDX-License-Identifier: EUPL-1.2

// Package depot keeps files of boxes at the hub, and gives them to other servers while their box is away, or so that its line carries them once.
//
// It promises: what it gives is byte for byte what the box has given (SHA-256 of what was kept is compared each time), by the box's own answer writer; and that it is bounded, by file, box,
// node and disk. What does not fit is not here.
//
// It is derived: a file comes when an answer of its box passes by, or is fetched from a box that lists it and has time (fetch.go). Files lie in one directory, which appliance/media keeps with
// rows in hallig.db; both may be lost together. It leaves to others who is asked for and whether the question is signed (sync/hub).
package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/media"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/desk"
)

// Config is what a Depot needs. All but Log, Now and Limits must be set.
type Config struct {
	DB    *store.DB
	Dir   string
	Local federation.Local // under whose name boxes are asked: the hub's own
	Ring  *federation.KeyRing
	// Boxes takes a request to a box that is connected here; InReach says which are.
	Boxes   http.RoundTripper
	InReach func(box string) bool
	// Quiet says that nothing else goes over a box's line.
	Quiet func(ctx context.Context, box string) bool
	// Known says which boxes the hub has.
	Known func(box string) bool
	// Free says how many bytes are free on the disk.
	Free   func() (int64, error)
	Log    *slog.Logger     // nil: silent
	Now    func() time.Time // nil: the system's
	Limits Limits
}

// Limits bound a depot. Zero fields mean what is said at each.
type Limits struct {
	Off     bool          // keep nothing, and throw away what is here
	File    int64         // bytes of one file; 10 MiB
	Box     int64         // bytes of the files of one box, and of what is fetched from it in 24 hours; 256 MiB
	Node    int64         // bytes of all files; 4 GiB
	Free    int64         // bytes of the disk that are left to others; 1 GB
	Fetch   bool          // fetch what boxes list; false: keep what passes by
	Pace    int64         // bytes in a second that are fetched from a box at most; 256 KiB
	Wide    int64         // bytes in a second: a line that brings less is narrow; 32 KiB
	AtOnce  int           // boxes of which something is fetched at once; 4
	Asked   int           // files that one box is asked for at once on behalf of others; 2
	Answers int           // files that are given at once, a quarter of them to one server; 32
	Answer  time.Duration // for one answer, to its last byte; 10 min
	Tend    time.Duration // from one look at the bounds to the next; 30 s
}

func (l *Limits) fill() {
	for _, d := range []struct {
		field *int64
		value int64
	}{{&l.File, 10 << 20}, {&l.Box, 256 << 20}, {&l.Node, 4 << 30}, {&l.Free, 1 << 30}, {&l.Pace, 256 << 10}, {&l.Wide, 32 << 10}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *int
		value int
	}{{&l.AtOnce, 4}, {&l.Asked, 2}, {&l.Answers, 32}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Answer == 0 {
		l.Answer = 10 * time.Minute
	}
	if l.Tend == 0 {
		l.Tend = 30 * time.Second
	}
}

// pixels bounds the pictures of which thumbnails are made: some 120 MB of memory at the worst, for one at a time. Of larger ones the file is asked for.
const pixels = 8_000_000

// Depot is one node's files. Safe for concurrent use; nothing is fetched, and no bound but those of Keep is looked after, but while Run does.
type Depot struct {
	c       Config
	log     *slog.Logger
	media   *media.Media
	archive *federation.Archive
	client  *federation.Client
	desk    *desk.Desk
	wake    chan struct{} // capacity 1: there may be something to fetch
	tidy    chan struct{} // capacity 1: a box is to be forgotten
	full    atomic.Bool   // the disk is needed by others
	kept    atomic.Pointer[map[string]media.Kept]
	count   counters
	passes  chan struct{}  // places of answers that are kept as they pass
	passing sync.WaitGroup // of goroutines that keep them

	mu    sync.Mutex
	boxes map[string]*box
	gone  map[string]bool // boxes whose files are to be forgotten
}

// counters are what happened since the start.
type counters struct {
	answered, passed, fetched, fetchedBytes, failed, damaged atomic.Int64
}

// Stats is how a depot does.
type Stats struct {
	Boxes map[string]media.Kept // what is here, by box, as last counted
	Full  bool                  // no more is kept, for want of disk

	// Since the start.
	Answered     int64 // files given in place of boxes
	Passed       int64 // kept as an answer passed by
	Fetched      int64 // fetched from boxes
	FetchedBytes int64
	Failed       int64 // not fetched, though it was tried
	Damaged      int64 // thrown away, because the disk has changed them
}

// Open takes up what was kept before.
func Open(ctx context.Context, c Config) (*Depot, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Limits.fill()
	d := &Depot{c: c, log: c.Log, desk: desk.New(c.Limits.Answers, c.Limits.Answer), wake: make(chan struct{}, 1), tidy: make(chan struct{}, 1), passes: make(chan struct{}, c.Limits.Answers), boxes: map[string]*box{}, gone: map[string]bool{}}
	var err error
	// No file is the hub's own: all are copies, which may go.
	if d.media, err = media.Open(ctx, c.DB, "", c.Dir, media.Options{MaxUpload: c.Limits.File, Quota: c.Limits.Node, PerServer: c.Limits.Box, Pixels: pixels, Now: c.Now}); err != nil {
		return nil, fmt.Errorf("open the files of boxes: %w", err)
	}
	d.archive = federation.NewArchive(federation.HandlerConfig{Media: files{d}, Now: c.Now, Log: c.Log})
	d.client = federation.NewClient(federation.ClientConfig{Local: c.Local, Transport: roundTrip(d.way), Ring: c.Ring, Now: c.Now, Log: c.Log})
	d.kept.Store(&map[string]media.Kept{})
	if err := d.tend(ctx); err != nil { // files are not worth that the hub does not start
		d.log.Error(tendFailed, "err", err)
	}
	return d, nil
}

const tendFailed = "look after the files of boxes; it is tried again. If the disk or the database is damaged, stop the hub, delete hallig.db, and start it: all in it is had anew from the boxes"

// Run fetches and looks after the bounds until ctx ends. What fails here fails nobody else.
func (d *Depot) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer d.passing.Wait()
	defer wg.Wait()
	if d.c.Limits.Fetch {
		wg.Go(func() { d.fetchAll(ctx) })
	}
	tick := time.NewTicker(d.c.Limits.Tend)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.tidy:
		case <-ctx.Done():
			return
		}
		if err := d.tend(ctx); err != nil && ctx.Err() == nil {
			d.log.Error(tendFailed, "err", err)
		}
	}
}

// here says whether an answer to a question for a file is here.
func (d *Depot) here(ctx context.Context, box string, u *url.URL) bool {
	id, ok := Asked(u)
	if !ok || !api.IsMedia(id) {
		return false
	}
	has, err := d.media.Has(ctx, box, id)
	if as, thumb := thumbnail(u); thumb && !has && err == nil {
		has, err = d.media.Has(ctx, box, as)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Error("look for a file of a box", "box", box, "err", err)
	}
	return has
}

// Answer answers a verified question for a file in a box's place. false: it is not here, or there is no place, and nothing was written.
func (d *Depot) Answer(w http.ResponseWriter, r *http.Request, q federation.Question) bool {
	if !d.here(r.Context(), q.Local, r.URL) {
		return false
	}
	status := d.desk.Answer(w, r, q.Origin, func(w http.ResponseWriter, r *http.Request) bool { return d.archive.Answer(w, r, q) })
	if status == http.StatusOK {
		d.count.answered.Add(1)
	}
	return status != 0
}

// Forget throws away the files of a box, which is revoked or gone.
func (d *Depot) Forget(box string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.boxes, box)
	d.gone[box] = true
	poke(d.tidy)
}

// Stats says how it does.
func (d *Depot) Stats() Stats {
	return Stats{Boxes: *d.kept.Load(), Full: d.full.Load(), Answered: d.count.answered.Load(), Passed: d.count.passed.Load(), Fetched: d.count.fetched.Load(),
		FetchedBytes: d.count.fetchedBytes.Load(), Failed: d.count.failed.Load(), Damaged: d.count.damaged.Load()}
}

// tend keeps the files within their bounds: those of boxes that the hub has not (any more) go, and the least used when others need the disk.
func (d *Depot) tend(ctx context.Context) error {
	kept, err := d.media.Kept(ctx)
	if err != nil {
		return err
	}
	d.mu.Lock()
	gone := d.gone
	d.gone = map[string]bool{}
	d.mu.Unlock()
	for box := range kept {
		if d.c.Known(box) && !gone[box] && !d.c.Limits.Off {
			continue
		}
		if err := d.media.ForgetServer(ctx, box); err != nil {
			return err // it is known no more, and found again
		}
	}
	if err := d.makeRoom(ctx, kept); err != nil {
		return err
	}
	if kept, err = d.media.Kept(ctx); err == nil {
		d.kept.Store(&kept)
	}
	return err
}

// makeRoom gives disk back that others need, and says whether there is some for more.
func (d *Depot) makeRoom(ctx context.Context, kept map[string]media.Kept) error {
	free, err := d.c.Free()
	if err != nil {
		return fmt.Errorf("look how much disk is free: %w", err)
	}
	full := free < d.c.Limits.Free
	if was := d.full.Swap(full); full && !was {
		d.log.Error("files of boxes are given up, and no more are kept, to leave the disk to what waits for boxes; give the hub more disk", "disk_free", free, "left_to_others", d.c.Limits.Free)
	} else if was && !full {
		poke(d.wake)
		d.log.Info("files of boxes are kept again", "disk_free", free)
	}
	if !full {
		return nil
	}
	var all int64
	for _, k := range kept {
		all += k.Bytes
	}
	return d.media.Shrink(ctx, max(0, all-(d.c.Limits.Free-free)))
}

// keep takes a file in, when there is room for it.
func (d *Depot) keep(ctx context.Context, box, id string, info media.Info, body io.Reader) error {
	free, err := d.c.Free()
	if err == nil && d.c.Limits.Off {
		err = errOff
	}
	if err == nil && (d.full.Load() || free < d.c.Limits.Free+d.c.Limits.File) {
		err = errNoDisk
	}
	if err == nil {
		err = d.media.Cache(ctx, box, id, info, body)
	}
	if !d.c.Known(box) {
		poke(d.tidy) // it has just been turned away
	}
	return err
}

var (
	errNoDisk = errors.New("the disk is needed by others")
	errOff    = errors.New("no files are kept here")
)

// files opens what is here for the answer writer.
type files struct{ *Depot }

func (f files) Open(ctx context.Context, box, id string) (io.ReadCloser, string, string, int64, error) {
	file, err := f.media.Whole(ctx, box, id)
	if err != nil {
		return nil, "", "", 0, f.absent(box, err)
	}
	return file, file.Type, file.Info.Name, file.Size, nil
}

func (f files) Thumbnail(ctx context.Context, box, id string, width, height int, method string) (io.ReadCloser, string, int64, error) {
	crop := method == "crop"
	file, err := f.media.Whole(ctx, box, id) // no picture is made of what is damaged
	if err == nil {
		_ = file.Close() // only read
		file, err = f.media.Thumbnail(ctx, box, id, width, height, crop)
	} else if errors.Is(err, media.ErrAbsent) {
		file, err = f.media.Whole(ctx, box, media.ThumbnailID(id, width, height, crop)) // which the box has made
	}
	if err != nil {
		return nil, "", 0, f.absent(box, err)
	}
	return file, file.Type, file.Size, nil
}

func (f files) absent(box string, err error) error {
	if !errors.Is(err, media.ErrAbsent) {
		return err
	}
	f.count.damaged.Add(1) // it was here a moment ago
	f.log.Warn("a file of a box was damaged on the disk, and is thrown away; if that happens more than once look at the hub's disk", "box", box, "err", err)
	return &room.Error{Code: "M_NOT_FOUND", Status: http.StatusNotFound, Text: "this server is not in reach at the moment, and its hub has lost the file; try again when it is back"}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
