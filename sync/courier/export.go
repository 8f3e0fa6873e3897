// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallig/appliance/store"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// spare is what stays free on a stick, for the index and for the file system's own needs.
const spare = 512 << 10

// export is one run.
type export struct {
	c      *Courier
	d      Disk
	x      *index // as it stands on the stick
	seen   uint64 // highest number of an index on the stick
	gone   []string
	report *Report
	note   func(Progress)
	events int
	opt    Options
	media  int64 // bytes of files

	answers map[peer.ID][]outbox.Item // to what a box asked for
}

// Export writes what is due to the paired boxes onto a stick, and takes off what is kept. It changes nothing in the store but its own counter. What it
// could not write for want of room is told in the report; an error means that the stick is in no worse state than before.
func (c *Courier) Export(ctx context.Context, d Disk, note func(Progress)) (*Report, error) {
	return c.ExportWith(ctx, d, Options{}, note)
}

// Options of an export.
type Options struct {
	Media      int64 // files that people sent go along up to so many bytes; 0: none
	MediaTotal int64 // all of them together; 0: as much as there is room for
}

// ExportWith is Export with files.
func (c *Courier) ExportWith(ctx context.Context, d Disk, o Options, note func(Progress)) (*Report, error) {
	if !c.busy.TryLock() {
		return nil, ErrBusy
	}
	defer c.busy.Unlock()
	if note == nil {
		note = func(Progress) {}
	}
	if o.MediaTotal == 0 {
		o.MediaTotal = 1 << 62
	}
	e := &export{c: c, d: d, opt: o, report: &Report{}, note: note, answers: map[peer.ID][]outbox.Item{}}
	err := e.run(ctx)
	switch {
	case isFull(err):
		e.report.Full, err = true, nil
	case isReadOnly(err):
		e.report.ReadOnly, err = true, nil
	}
	if err != nil {
		return e.report, fmt.Errorf("export: %w", err)
	}
	return e.report, nil
}

func (e *export) run(ctx context.Context) error {
	peers, began := e.c.c.Roster().All(), time.Now()
	e.c.questions.visited()
	if e.c.c.Came != nil {
		e.c.c.Came()
	}
	if err := e.clear(ctx, peers); err != nil {
		return err
	}
	if err := e.d.Sync(); err != nil {
		return err
	}
	if err := explain(e.d, e.c.self); err != nil {
		return err
	}
	for _, p := range peers {
		e.report.Boxes = append(e.report.Boxes, BoxReport{Server: p.Server})
	}
	// What everybody waits for first: receipts, keys and messages between devices; then events, by turns.
	var full error
	for i, p := range peers {
		if err := e.letters(ctx, p, &e.report.Boxes[i]); isFull(err) {
			full = err
		} else if err != nil {
			return err
		}
	}
	if err := e.commit(ctx); err != nil || full != nil {
		return errors.Join(err, full)
	}
	if err := e.allEvents(ctx, peers); err != nil {
		return err
	}
	if err := e.sealed(ctx, peers); err != nil {
		return err
	}
	if err := e.questions(ctx, peers, began); err != nil || e.opt.Media == 0 || e.c.c.OpenMedia == nil {
		return err
	}
	for i, p := range peers {
		if err := e.files(ctx, p, &e.report.Boxes[i]); err != nil {
			return err
		}
	}
	return nil
}

// questions writes what is asked and answered of all boxes, a moment after the stick came: what it brought may lead to a question at once.
func (e *export) questions(ctx context.Context, peers []peer.Peer, began time.Time) error {
	if e.c.c.Came != nil {
		select {
		case <-time.After(askSoon - time.Since(began)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	before := len(e.gone)
	for _, p := range peers {
		if err := e.questionsTo(p); err != nil {
			return err
		}
	}
	if len(e.gone) == before && !slices.ContainsFunc(e.x.entries, func(it entry) bool { return it.kind == kindAsks }) {
		return nil
	}
	return e.commit(ctx)
}

// askSoon is how long an export waits for questions from the time that it began.
const askSoon = 300 * time.Millisecond

// clear reads what this box has on the stick and drops what is kept by its reader, damaged or of another epoch.
func (e *export) clear(ctx context.Context, peers []peer.Peer) error {
	c := e.c
	e.x = &index{epoch: c.c.Outbox.Epoch()}
	old := readIndex(e.d, c.self, func(name string, err error) {
		c.log.Debug("own index on the stick not readable", "name", name, "err", err)
	})
	if old != nil {
		e.seen, e.x.slot = old.serial, old.slot
		if old.epoch == e.x.epoch && old.open(c.id) == nil {
			if err := e.keep(ctx, old, peers); err != nil {
				return err
			}
		}
	}
	changed := old != nil && len(old.entries) != len(e.x.entries)
	if changed {
		if err := e.commit(ctx); err != nil {
			return err
		}
	}
	return e.sweep()
}

// keep takes over from an old index the segments that go on counting: of each reader those up to the first that is damaged.
func (e *export) keep(ctx context.Context, old *index, peers []peer.Peer) error {
	broken, damaged := map[peer.Brief]bool{}, map[string]bool{}
	defer func() { // of a file, all parts or none
		e.x.entries = slices.DeleteFunc(e.x.entries, func(it entry) bool {
			id, ok := it.media()
			return ok && damaged[id]
		})
	}()
	for _, it := range old.entries {
		if it.kind == kindSealed {
			if keep, err := e.keepSealed(ctx, it); err != nil {
				return err
			} else if _, err := readSegment(e.d, e.c.self, &it); keep && err == nil {
				e.x.entries = append(e.x.entries, it)
			}
			continue
		}
		p, ok := byBrief(peers, it.reader)
		if id, media := it.media(); media && ok {
			if _, err := readSegment(e.d, e.c.self, &it); err != nil {
				damaged[id] = true
			}
			if !e.c.has[p.ID][shortMedia(id)] {
				e.x.entries = append(e.x.entries, it)
			}
			continue
		}
		if !ok || broken[it.reader] {
			continue
		}
		if it.kind == kindLetter || it.kind == kindAsks {
			e.x.entries = append(e.x.entries, it) // until the new one is there
			continue
		}
		kept, err := e.c.c.Outbox.Keeps(ctx, p, it.covers)
		if err != nil {
			return err
		}
		if kept {
			continue
		}
		if _, err := readSegment(e.d, e.c.self, &it); err != nil {
			e.c.log.Info("segment on the stick is damaged; it is made again", "name", it.name(e.c.self), "err", err)
			broken[it.reader] = true
			continue
		}
		e.x.entries = append(e.x.entries, it)
	}
	return nil
}

func byBrief(peers []peer.Peer, b peer.Brief) (peer.Peer, bool) {
	for _, p := range peers {
		if p.ID.Brief() == b {
			return p, true
		}
	}
	return peer.Peer{}, false
}

// sweep removes files of this box that no index names: what was cut short.
func (e *export) sweep() error {
	names, err := e.d.Names(20_000)
	if err != nil {
		return fmt.Errorf("look at the stick: %w", err)
	}
	named := map[string]bool{}
	for _, it := range e.x.entries {
		named[it.name(e.c.self)] = true
	}
	prefix := brief(e.c.self) + "-"
	for _, n := range names {
		if strings.HasPrefix(n, prefix) && strings.HasSuffix(n, ".seg") && !named[n] {
			if err := e.d.Remove(n); err != nil && !isAbsent(err) {
				return fmt.Errorf("remove %s: %w", n, err)
			}
		}
	}
	return nil
}

// commit writes the index into the slot that is not in force, and then removes what it does not name any more.
func (e *export) commit(ctx context.Context) error {
	serial, err := e.c.serial(ctx, e.seen)
	if err != nil {
		return err
	}
	next := *e.x
	next.serial, next.slot = serial, 1-e.x.slot
	raw, err := next.seal(e.c.c.Key)
	if err != nil {
		return err
	}
	if err := put(e.d, brief(e.c.self), slotName(e.c.self, next.slot), raw); err != nil {
		return err
	}
	e.report.Bytes += int64(len(raw))
	e.x, e.seen = &next, serial
	for _, n := range e.gone {
		if err := e.d.Remove(n); err != nil && !isAbsent(err) {
			return fmt.Errorf("remove %s: %w", n, err)
		}
	}
	e.gone = nil
	return nil
}

func (c *Courier) serial(ctx context.Context, seen uint64) (serial uint64, err error) {
	err = c.c.DB.DoSmall(ctx, func(tx *store.Tx) (err error) {
		serial, err = tx.CourierSerial(seen)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("number the index: %w", err)
	}
	return serial, nil
}

// write puts a segment onto the stick and into the index that is written next.
func (e *export) write(s *segment, it entry) error {
	raw, err := s.seal(e.c.c.Codec, e.c.c.Key)
	if err != nil {
		return err
	}
	if len(raw) > maxSegment {
		return fmt.Errorf("a segment of %d bytes is too long", len(raw))
	}
	free, err := e.d.Free()
	if err != nil {
		return err
	}
	if free < int64(len(raw))+spare {
		return errFull
	}
	it.kind, it.reader, it.hash, it.size = s.kind, s.reader.Brief(), sha256.Sum256(raw), int64(len(raw))
	if err := put(e.d, brief(e.c.self), it.name(e.c.self), raw); err != nil {
		return err
	}
	e.x.entries = append(e.x.entries, it)
	e.report.Bytes += it.size
	return nil
}

// allEvents writes segments of events, one box after the other, as long as there are any.
func (e *export) allEvents(ctx context.Context, peers []peer.Peer) error {
	feeds := make([]*outbox.Feed, len(peers))
	for i, p := range peers {
		var aboard []parcel.Vector
		for _, it := range e.x.entries {
			if it.kind == kindEvents && it.reader == p.ID.Brief() {
				aboard = append(aboard, it.covers...)
				e.report.Boxes[i].Known++
			}
		}
		var err error
		if feeds[i], err = e.c.c.Outbox.Carry(ctx, p, aboard); err != nil {
			return err
		}
	}
	for left := len(peers); left > 0; {
		left = 0
		for i, p := range peers {
			if feeds[i] == nil {
				continue
			}
			more, err := e.someEvents(ctx, p, feeds[i], &e.report.Boxes[i])
			if err != nil {
				return err
			}
			if !more {
				feeds[i] = nil
				continue
			}
			left++
		}
	}
	return nil
}

// someEvents writes one segment of events; more says that there may be others.
func (e *export) someEvents(ctx context.Context, p peer.Peer, f *outbox.Feed, box *BoxReport) (more bool, err error) {
	b := e.c.build(p, kindEvents)
	var gone outbox.Places
	for b.size < fillTo {
		items, err := e.next(ctx, p, f)
		if err != nil {
			return false, err
		}
		if len(items) == 0 {
			break
		}
		more = true
		gone = gone.With(items)
		if err := errors.Join(b.items(ctx, items), b.flush()); err != nil {
			return false, err
		}
		e.note(Progress{Step: "events", Box: p.Server, Events: e.events + b.events, Bytes: e.report.Bytes + int64(b.size)})
	}
	if len(b.s.messages) == 0 {
		return false, nil
	}
	it := entry{events: uint64(b.events)}
	for _, v := range b.covers {
		it.covers = append(it.covers, v)
	}
	if err := e.write(b.s, it); err != nil {
		return false, err
	}
	if err := e.commit(ctx); err != nil {
		return false, err
	}
	f.Left(gone, "courier")
	e.events += b.events
	box.Segments++
	box.Events += b.events
	e.c.observe("sent", p, b.told, b.size)
	return more, nil
}

// aGulp is how many events are added to a segment at once: if all are as large as events can be, the segment is still short enough.
const aGulp = 64

// next gives what a box has asked for, and then what it lacks.
func (e *export) next(ctx context.Context, p peer.Peer, f *outbox.Feed) ([]outbox.Item, error) {
	for len(e.answers[p.ID]) == 0 && len(e.c.owed[p.ID]) > 0 {
		items, err := f.Wanted(ctx, e.c.owed[p.ID][0])
		if err != nil {
			return nil, err
		}
		e.answers[p.ID], e.c.owed[p.ID] = items, e.c.owed[p.ID][1:]
	}
	if items := e.answers[p.ID]; len(items) > 0 {
		n := min(len(items), aGulp)
		e.answers[p.ID] = items[n:]
		return items[:n], nil
	}
	return f.Next(ctx, aGulp)
}
