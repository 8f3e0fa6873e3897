// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/store"
	"hallig/sync/courier"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/peer"
)

// This file is the box's side of sticks between it and its hub (api.HubNote, api.BoxNote): what waited at the hub is answered as if it had come by itself; back go how far the box is with that, and letters of all that it owes to
// servers which it does not reach.

const (
	stickEpochs  = 4         // memories of the hub of which places are remembered
	stickSave    = 50        // requests after which the box writes down how far it is
	stickLetters = 256 << 20 // bytes of letters that are packed at once: as much as a hub keeps of one box
	stickPart    = 1 << 20
	stickSealed  = 4 << 10 // that sealing adds to a part
	stickEnd     = 64 << 10
	stickPacks   = 2 * time.Minute // so long servers are waited for that are just being spoken to
)

// stickMemory is what a box remembers of sticks to and from its hub. It is in the database: a box that is put back knows as little of them as of what they brought.
type stickMemory struct {
	Serial int64  `json:"serial,omitempty"` // of the last bag for the hub
	Heard  int64  `json:"heard,omitempty"`  // of the newest one of the hub
	Epoch  string `json:"epoch,omitempty"`  // of the hub's memory, as that one says
	At     int64  `json:"at,omitempty"`     // the hub's time then, ms

	Dealt []api.Dealt     `json:"dealt,omitempty"` // oldest memory first
	Given int64           `json:"given,omitempty"` // up to this place what the hub has given away is crossed out
	Back  []api.StickBack `json:"back,omitempty"`  // what the last bag takes back
}

// dealt finds how far the box is with what a memory of the hub has.
func (m *stickMemory) dealt(epoch string) *api.Dealt {
	for i := range m.Dealt {
		if m.Dealt[i].Epoch == epoch {
			return &m.Dealt[i]
		}
	}
	m.Dealt = append(m.Dealt, api.Dealt{Epoch: epoch})
	m.Dealt = m.Dealt[max(0, len(m.Dealt)-stickEpochs):]
	return &m.Dealt[len(m.Dealt)-1]
}

func dealtFrom(d *api.Dealt, server string) *api.DealtFrom {
	for i := range d.From {
		if d.From[i].From == server {
			return &d.From[i]
		}
	}
	d.From = append(d.From, api.DealtFrom{From: server})
	return &d.From[len(d.From)-1]
}

func (b *Box) stickMemory(ctx context.Context) (m stickMemory, err error) {
	var raw []byte
	if err = b.db.View(ctx, func(r *store.Read) (err error) { raw, err = r.HubStick(); return err }); err == nil && raw != nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, fmt.Errorf("read what is remembered of sticks of the hub: %w", err)
	}
	return m, nil
}

func (b *Box) keepStick(ctx context.Context, m *stickMemory) error {
	raw, err := json.Marshal(m)
	if err == nil {
		err = b.db.DoSmall(ctx, func(tx *store.Tx) error { return tx.SetHubStick(raw) })
	}
	if err != nil {
		return fmt.Errorf("note what came by stick of the hub: %w", err)
	}
	return nil
}

// hubMail says whether a stick has something of this box's hub, for whomever, or of this box for it; and whether something of a hub that this box does not know is there for it.
func (b *Box) hubMail(d courier.Disk) (ours, foreign bool, err error) {
	files, err := courier.Bags(d)
	hub, paired := b.exchange.hub()
	self := b.stickSelf()
	for _, f := range files {
		switch {
		case paired && (f.Writer == hub.ID || f.Reader == hub.ID):
			ours = true
		case f.Reader == self:
			foreign = true
		}
	}
	return ours, foreign, err
}

func (b *Box) stickSelf() peer.ID { return peer.IDOf(publicKey(b.id.Box)) }

// fromHubStick is what a stick of the hub has brought.
type fromHubStick struct {
	there    bool // there was a bag for this box
	came     int  // requests that were dealt with
	known    int  // that had come before
	waiting  int  // that are not dealt with, for want of something
	older    bool // it is older than one that came before
	troubles []health.Sentence
}

func (f *fromHubStick) trouble(de, en string) {
	if s := (health.Sentence{DE: de, EN: en}); !slices.Contains(f.troubles, s) {
		f.troubles = append(f.troubles, s)
	}
}

// takeHubStick answers what has waited at the hub and lies on a stick.
func (b *Box) takeHubStick(ctx context.Context, d courier.Disk) (out fromHubStick, err error) {
	b.exchange.parts.hub.Lock()
	defer b.exchange.parts.hub.Unlock()
	files, err := courier.Bags(d)
	if err != nil {
		return out, err
	}
	hub, paired := b.exchange.hub()
	for _, f := range files {
		if f.Reader != b.stickSelf() {
			continue
		}
		if !paired || f.Writer != hub.ID {
			out.trouble("Auf dem Stick ist etwas von einem Hub, mit dem diese Box nicht gekoppelt ist, vielleicht dem einer anderen Organisation; davon wird nichts übernommen.",
				"Something of a hub is on the stick with which this box is not paired, perhaps of another organisation; nothing of it is taken.")
			continue
		}
		if out.there {
			break // the newest good one counts
		}
		if err := b.takeHubBag(ctx, d, f, hub, &out); err != nil {
			if ctx.Err() != nil || !hubBagBad(err) {
				return out, err
			}
			b.log.Warn("what the hub has put on a stick cannot be read in full", "file", f.Name, "err", err)
			out.trouble("Was der Hub auf den Stick gelegt hat, ist beschädigt oder nicht von ihm; was davor stand, ist übernommen. Den Stick beim Hub neu beladen, oder einen anderen nehmen: es ist nichts verloren.",
				"What the hub has put on the stick is damaged, or not its own; what came before that is taken. Have the stick filled anew at the hub, or take another one: nothing is lost.")
		}
	}
	return out, nil
}

// hubBagBad tells a bag that is bad from a box that fails.
func hubBagBad(err error) bool {
	return errors.Is(err, courier.ErrBagDamaged) || errors.Is(err, courier.ErrBagForged) || errors.Is(err, courier.ErrBagForeign) || errors.As(err, new(*badBag))
}

// badBag is what stands in a bag and cannot be read.
type badBag struct{ error }

func (b *badBag) Unwrap() error { return b.error }

// takeHubBag takes in one bag.
func (b *Box) takeHubBag(ctx context.Context, d courier.Disk, f courier.BagFile, hub peer.Peer, out *fromHubStick) error {
	in, _, err := d.Open(f.Name, courier.MaxBag)
	if err != nil {
		return err
	}
	defer in.Close()
	bag, err := courier.ReadBag(in)
	if err == nil {
		err = bag.Open(b.id.Box, hub.ID)
	}
	if err != nil {
		return err
	}
	head, _, err := bag.Next()
	if err != nil {
		return err
	}
	note, err := api.ReadHubNote(head)
	if err != nil {
		return &badBag{err}
	}
	out.there = true
	m, err := b.stickMemory(ctx)
	if err != nil {
		return err
	}
	for _, doc := range note.Keys {
		if err := b.fed.ring.Learn(ctx, doc, federation.SourceBox+string(hub.ID)); err != nil {
			b.log.Debug("a key document from a stick of the hub is not taken", "err", err)
		}
	}
	if out.older = bag.Serial < m.Heard; bag.Serial > m.Heard {
		if err := b.hearHubStick(ctx, &m, bag.Serial, note); err != nil {
			return err
		}
	}
	p := playing{b: b, m: &m, d: m.dealt(note.Answer.Epoch), out: out, stopped: map[string]bool{}, from: (&http.Request{RemoteAddr: hub.Server}).WithContext(ctx)}
	for {
		part, end, err := bag.Next()
		if err != nil || end {
			return errors.Join(err, b.keepStick(ctx, &m))
		}
		if err := api.ReadStickItems(part, func(i api.StickItem) error { return p.one(ctx, i) }); err != nil {
			if serr := b.keepStick(ctx, &m); serr != nil || ctx.Err() != nil || p.failed {
				return errors.Join(err, serr)
			}
			return &badBag{err}
		}
	}
}

// hearHubStick takes in what the hub says in the newest bag.
func (b *Box) hearHubStick(ctx context.Context, m *stickMemory, serial int64, note api.HubNote) error {
	a := note.Answer
	if m.Epoch != a.Epoch {
		m.Given = 0
	}
	m.Heard, m.Epoch, m.At = serial, a.Epoch, a.Time
	if g := note.Given; g != nil && g.Epoch == a.Epoch {
		var given []account.GivenKey
		last := m.Given
		for _, k := range g.Keys {
			given = append(given, account.GivenKey{User: event.UserID(k.User), Device: k.Device, ID: k.ID})
			last = max(last, k.Place)
		}
		for _, k := range g.Fallback {
			given = append(given, account.GivenKey{User: event.UserID(k.User), Device: k.Device, ID: k.ID, Fallback: true})
		}
		if err := b.accounts.KeysGiven(ctx, given); err != nil {
			return err
		}
		m.Given = last
	}
	if m.Serial > 0 && note.Heard == m.Serial { // the last bag of this box has arrived
		b.fed.sender.ToldBack(a.Epoch, m.Back)
		m.Back = nil
		for i := range m.Dealt {
			for j := range m.Dealt[i].From {
				m.Dealt[i].From[j].Refused = nil
			}
		}
	}
	m.Serial = max(m.Serial, note.Heard) // a box that was put back from a copy goes on above what it wrote before that
	if a.Letters != nil {
		b.fed.sender.Carried(*a.Letters)
	}
	if len(a.Policy) > 0 && b.policies.key != nil {
		_ = b.takePolicy(a.Policy) // it says in the log why not
	}
	return b.keepStick(ctx, m)
}

// playing is one bag whose requests are answered.
type playing struct {
	b       *Box
	m       *stickMemory
	d       *api.Dealt
	out     *fromHubStick
	stopped map[string]bool // servers of whom something is not dealt with: what they sent after it must not overtake it
	from    *http.Request
	unsaved int
	failed  bool // it is the box that failed
}

func (p *playing) one(ctx context.Context, i api.StickItem) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if i.Request == nil {
		return nil // a newer hub may put other things there
	}
	of := dealtFrom(p.d, i.From)
	if i.Place <= of.Through {
		p.out.known++
		return nil
	}
	if p.stopped[i.From] {
		p.out.waiting++
		return nil
	}
	q := *i.Request
	q.Body = string(i.Body)
	a := p.b.playedOne(p.from, q)
	if err := ctx.Err(); err != nil {
		return err
	}
	if !api.Settled(q.URI, a.Status, []byte(a.Text)) {
		p.stopped[i.From] = true
		p.out.waiting++
		p.b.log.Warn("what waited at the hub and came by stick is not taken yet; it is tried again with the next stick", "from", i.From, "uri", q.URI, "status", a.Status, "answer", fmt.Sprintf("%.200q", a.Text))
		return nil
	}
	of.Through = i.Place
	if a.Status != http.StatusOK && len(of.Refused) < api.MaxDealtRefused/10 {
		of.Refused = append(of.Refused, api.DealtRefusal{Place: i.Place, Status: a.Status, Text: a.Text[:min(len(a.Text), api.PlayText)]})
	}
	p.out.came++
	if p.unsaved++; p.unsaved < stickSave {
		return nil
	}
	p.unsaved = 0
	err := p.b.keepStick(ctx, p.m)
	p.failed = err != nil
	return err
}

// tellDealt tells the hub, which is in reach, what the box has dealt with by stick, once after each contact in which that is news: it would come once more, by a line that may be slow.
func (b *Box) tellDealt(ctx context.Context, epoch string) {
	h := &b.exchange.post
	m, err := b.stickMemory(ctx)
	if err != nil {
		b.log.Error("look up what came by stick of the hub", "err", err)
		return
	}
	d := m.dealt(epoch)
	raw, err := json.Marshal(d)
	h.mu.Lock()
	known := bytes.Equal(raw, h.dealtTold)
	h.mu.Unlock()
	if err != nil || len(d.From) == 0 || len(raw) > api.MaxDealt || known {
		return
	}
	if _, err := b.hubAnswer(ctx, http.MethodPut, api.DealtPath, raw); err != nil { // a hub that does not know this hands it on once more
		b.log.Debug("tell the hub what came by stick; it is told again at the next contact", "err", err)
		return
	}
	h.mu.Lock()
	h.dealtTold = raw
	h.mu.Unlock()
}
