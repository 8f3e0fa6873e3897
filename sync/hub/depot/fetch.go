// SPDX-License-Identifier: EUPL-1.2

package depot

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hallig/appliance/media"
	"hallig/sync/hub/api"
)

// This file fetches from boxes what they list and is not here: small files first and the newest first, one at a time, when nothing else goes over the box's line, and none over a narrow one.

const (
	small      = 64 << 10         // bytes: they come first, and tell nothing of the line
	fetchEvery = 5 * time.Second  // how often it is looked whether a line is quiet
	fetchFirst = 30 * time.Second // for the first word of an answer
	measure    = 8 * time.Second  // after which a line is known that brings too little
	narrowFor  = time.Hour        // a narrow line is left alone, and the box asked for nothing by others; one that comes anew is tried at once
	restFirst  = 30 * time.Second // after a failure
	restMost   = 6 * time.Hour
	leftAlone  = 30 * time.Minute // at most, a box for which something waits
	day        = 24 * time.Hour
	askedWait  = 30 * time.Second // for a place among those who ask a box for a file
)

// box is what is known of one that has been in contact since the start.
type box struct {
	lacks  []api.File    // what is to be fetched, in that order
	came   time.Time     // when it was connected
	busy   bool          // one is being fetched
	rest   time.Time     // nothing is fetched before
	delay  time.Duration // of the next rest after a failure
	narrow time.Time     // until then its line counts as narrow
	since  time.Time     // of fetched
	bytes  int64         // fetched since then
	asked  chan struct{} // places of files that others ask for
}

// of gives what is known of a box. d.mu is held.
func (d *Depot) of(name string) *box {
	b := d.boxes[name]
	if b == nil {
		b = &box{asked: make(chan struct{}, d.c.Limits.Asked)}
		d.boxes[name] = b
	}
	return b
}

// Told takes in which files a box lists.
func (d *Depot) Told(ctx context.Context, name string, told api.Files) error {
	if d.c.Limits.Off || !d.c.Limits.Fetch {
		return nil
	}
	var lacks []api.File
	var sum int64
	for _, f := range told.Files {
		if f.Bytes > d.c.Limits.File {
			continue
		}
		if sum += f.Bytes; sum > d.c.Limits.Box {
			break // those before it are newer
		}
		has, err := d.media.Has(ctx, name, f.ID)
		if err != nil {
			return err
		}
		if !has {
			lacks = append(lacks, f)
		}
	}
	slices.SortStableFunc(lacks, func(a, b api.File) int { return class(a) - class(b) })
	d.mu.Lock()
	defer d.mu.Unlock()
	d.of(name).lacks = lacks
	poke(d.wake)
	return nil
}

func class(f api.File) int {
	if f.Bytes <= small {
		return 0
	}
	return 1
}

// Came says that a box is connected anew: by another line, perhaps.
func (d *Depot) Came(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.of(name)
	b.came, b.narrow, b.rest, b.delay = d.c.Now(), time.Time{}, time.Time{}, 0
}

// Refusals of Enter.
var (
	ErrNarrow = errors.New("its line is narrow")
	ErrBusy   = errors.New("it is asked for as many files as its line carries")
)

// Enter takes a place among those who ask a box for a file, for as long as it is asked: a line is for people first.
func (d *Depot) Enter(ctx context.Context, name string) (leave func(), err error) {
	d.mu.Lock()
	b := d.of(name)
	narrow := b.narrow.After(d.c.Now())
	d.mu.Unlock()
	if narrow {
		return nil, ErrNarrow
	}
	late := time.NewTimer(askedWait)
	defer late.Stop()
	select {
	case b.asked <- struct{}{}:
		return func() { <-b.asked }, nil
	case <-late.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// way takes a question for a file to a box that is connected here, and nothing else to anybody.
func (d *Depot) way(req *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(req.URL.Path, downloadPath) || !d.c.InReach(req.URL.Host) {
		return nil, errors.New("no box that is connected to the hub, or no question for a file")
	}
	return d.c.Boxes.RoundTrip(req)
}

// fetchAll works until ctx ends.
func (d *Depot) fetchAll(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, d.c.Limits.AtOnce)
	tick := time.NewTicker(fetchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-tick.C:
		}
		for _, name := range d.ready() {
			if !d.quiet(ctx, name) {
				continue
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			f, ok := d.next(name)
			if !ok {
				<-places
				continue
			}
			wg.Go(func() {
				d.over(ctx, name, f, d.fetch(ctx, name, f))
				<-places
				poke(d.wake)
			})
		}
	}
}

// ready lists boxes of which something may be fetched now.
func (d *Depot) ready() (names []string) {
	if d.full.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.boxes {
		if _, ok := d.soon(name); ok {
			names = append(names, name)
		}
	}
	return names
}

// quiet says whether a box's line is free for files. What other servers have sent to it may wait for other reasons, so that counts for a while only.
func (d *Depot) quiet(ctx context.Context, name string) bool {
	d.mu.Lock()
	b := d.boxes[name]
	late := b != nil && d.c.Now().Sub(b.came) > leftAlone
	d.mu.Unlock()
	return late || d.c.Quiet(ctx, name)
}

// soon is what is fetched next of a box. d.mu is held.
func (d *Depot) soon(name string) (f api.File, ok bool) {
	b, now := d.boxes[name], d.c.Now()
	if b == nil || b.busy || len(b.lacks) == 0 || b.rest.After(now) || !d.c.InReach(name) {
		return f, false
	}
	if now.Sub(b.since).Abs() >= day {
		b.since, b.bytes = now, 0
	}
	f = b.lacks[0]
	return f, b.bytes+f.Bytes <= d.c.Limits.Box && (class(f) == 0 || !b.narrow.After(now))
}

// next takes it.
func (d *Depot) next(name string) (api.File, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.soon(name)
	if ok {
		b := d.boxes[name]
		b.busy, b.lacks = true, b.lacks[1:]
	}
	return f, ok
}

// errNarrow ends a fetch over a narrow line.
var errNarrow = errors.New("the line is narrow")

// fetch has a box give a file, when there is room for it and it has not passed by meanwhile.
func (d *Depot) fetch(ctx context.Context, name string, f api.File) error {
	at := time.UnixMilli(f.At)
	if fits, err := d.media.Fits(ctx, name, f.Bytes, at); err != nil || !fits {
		return err
	}
	if has, err := d.media.Has(ctx, name, f.ID); has || err != nil {
		return err
	}
	ctx, stop := context.WithTimeoutCause(ctx, fetchFirst+time.Duration(f.Bytes/d.c.Limits.Wide)*time.Second, errNarrow)
	defer stop()
	body, typ, filename, err := d.client.Media(ctx, name, f.ID)
	if err != nil {
		if errors.Is(context.Cause(ctx), errNarrow) {
			return errNarrow
		}
		return err
	}
	defer body.Close()
	p := &paced{Reader: body, ctx: ctx, began: time.Now(), pace: rate.NewLimiter(rate.Limit(d.c.Limits.Pace), pacedPiece), wide: d.c.Limits.Wide}
	err = d.keep(ctx, name, f.ID, media.Info{Type: typ, Name: filename, Used: at}, p)
	d.count.fetchedBytes.Add(p.n)
	d.mu.Lock()
	if b := d.boxes[name]; b != nil {
		b.bytes += p.n
	}
	d.mu.Unlock()
	if p.slow || err != nil && errors.Is(context.Cause(ctx), errNarrow) {
		return errNarrow
	}
	if err == nil {
		d.count.fetched.Add(1)
		poke(d.tidy) // to count it
	}
	return err
}

// over notes how a fetch went.
func (d *Depot) over(ctx context.Context, name string, f api.File, err error) {
	if err != nil && ctx.Err() == nil {
		d.count.failed.Add(1)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.boxes[name]
	if b == nil {
		return
	}
	b.busy = false
	if err == nil {
		b.delay = 0
		return
	}
	now := d.c.Now()
	b.delay = min(max(2*b.delay, restFirst), restMost)
	b.rest = now.Add(b.delay)
	if !errors.Is(err, errNarrow) { // the file may be what is wrong, so it comes up again only when the box lists it anew
		d.log.Debug("a file was not fetched from a box", "box", name, "err", err)
		return
	}
	b.narrow = now.Add(narrowFor)
	if class(f) > 0 { // and so does a small one that the line did not bring
		b.lacks = append([]api.File{f}, b.lacks...)
	}
	d.log.Info("a box is connected by a narrow line: larger files are neither fetched from it nor asked of it for a while", "box", name, "for", narrowFor)
}

const pacedPiece = 16 << 10

// paced reads no faster than it may, and gives up where little comes.
type paced struct {
	io.Reader
	ctx   context.Context // of the one fetch
	began time.Time
	pace  *rate.Limiter
	wide  int64 // bytes in a second
	n     int64
	slow  bool
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b[:min(len(b), pacedPiece)])
	p.n += int64(n)
	if took := time.Since(p.began); err == nil && took > measure && float64(p.n) < took.Seconds()*float64(p.wide) {
		p.slow = true
		return n, errNarrow
	}
	if wait := p.pace.WaitN(p.ctx, n); err == nil {
		err = wait
	}
	return n, err
}
