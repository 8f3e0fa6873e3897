// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"crypto/rand"
	"time"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// way is one far end of one transport. Whose it is, is known at once where the transport knows it (p2p), else after a
// handshake.
type way struct {
	t      Transport
	mail   Mail  // nil: an answer is a matter of seconds
	keyed  Keyed // nil: the transport proves who is at the other end; addr is the peer's id
	addr   string
	bps    int
	mtu    int
	up     bool
	open   bool // open language only (open.go)
	far    *far // nil: nobody we know (yet)
	proved bool // the far end is who it says

	hand    *peer.Handshake
	with    peer.Peer  // of hand
	hailed  bool       // we said who we are since it came up
	unknown peer.Brief // who said hello since then and is not paired
	handTry *time.Timer
	saidAt  time.Time // our last full greeting on this way
	gen     int       // raised when it goes down: what was sent before is given up
}

// slowBelow is the rate under which every byte is weighed.
const slowBelow = 64_000

func (w *way) slow() bool { return w.bps < slowBelow }

// patience is how long an answer to a small message may take.
func (w *way) patience() time.Duration {
	if !w.slow() {
		return 2 * time.Second
	}
	return 15*time.Second + time.Duration(4000*8/max(w.bps, 50))*time.Second/2
}

// limit is how large a message should be: about four seconds of the line, so that something urgent waits no longer.
func (w *way) limit() int {
	if !w.slow() {
		return 32 << 10
	}
	if w.mail != nil {
		return mailSize
	}
	return max(200, w.bps/8*4)
}

func (l *Link) way(t Transport, addr string) *way {
	name := wayName{t.Name(), addr}
	w := l.ways[name]
	if w == nil {
		keyed, _ := t.(Keyed)
		mail, _ := t.(Mail)
		w = &way{t: t, mail: mail, keyed: keyed, addr: addr}
		l.ways[name] = w
	}
	return w
}

func (l *Link) up(t Transport, addr string, bps, mtu int) {
	w := l.way(t, addr)
	if w.up {
		l.lose(w) // an outage that nobody told us of
	}
	w.bps, w.mtu, w.up, w.open = bps, mtu, true, openOnly(t, addr)
	l.log.Info("far end in reach", "transport", t.Name(), "addr", addr, "bps", bps)
	l.greet(w)
}

func (l *Link) down(t Transport, addr string) {
	w := l.way(t, addr)
	if !w.up {
		return
	}
	l.log.Info("far end out of reach", "transport", t.Name(), "addr", addr)
	l.lose(w)
}

// lose notes that a way is gone with everything that was on it.
func (l *Link) lose(w *way) {
	f := w.far
	w.up, w.proved, w.far, w.hand, w.hailed, w.saidAt, w.unknown = false, false, nil, nil, false, time.Time{}, peer.Brief{}
	w.gen++
	if w.handTry != nil {
		w.handTry.Stop()
	}
	if w.keyed != nil {
		if err := w.keyed.SetKeys(w.addr, nil, nil); err != nil {
			l.log.Warn("keys could not be cleared", "transport", w.t.Name(), "err", err)
		}
	}
	if f != nil {
		l.c.Observe(Event{What: "down", Peer: f.p, Transport: w.t.Name()})
		f.leave(w)
	}
}

func (l *Link) ready(t Transport, addr string) {
	if w := l.ways[wayName{t.Name(), addr}]; w != nil && w.far != nil {
		w.far.pump()
	}
}

// greet begins to talk on a way that has come up.
func (l *Link) greet(w *way) {
	if w.keyed == nil {
		if f := l.fars[peer.ID(w.addr)]; f != nil {
			l.prove(w, f)
		}
		return
	}
	if !w.hailed {
		l.hail(w)
	}
}

// hail says who is here on a way that proves nothing.
func (l *Link) hail(w *way) {
	w.hailed = true
	l.bare(w, &parcel.Hello{From: l.self.Brief(), Session: draw()})
}

// bare sends parcels that need no session.
func (l *Link) bare(w *way, parcels ...parcel.Parcel) {
	msg, took, _, err := l.codec.Bare().Encode(parcel.MaxMessage, parcels...)
	if err != nil || took < len(parcels) {
		l.log.Error("greeting could not be written", "err", err, "parcels", len(parcels), "took", took)
		return
	}
	w.t.Send(w.addr, parcel.Immediate, msg, func(err error) {
		if err != nil {
			l.log.Debug("greeting did not arrive", "transport", w.t.Name(), "err", err)
		}
	})
}

// hello takes a greeting of any step.
func (l *Link) hello(w *way, h *parcel.Hello) {
	if w.mail != nil {
		if w.far != nil && h.Step == 3 && h.From == w.far.p.ID.Brief() {
			w.far.mail.met(l, h)
			w.far.seenSoon()
		}
		return
	}
	if w.keyed == nil || h.Step == 3 {
		if w.far != nil && h.Step == 3 && h.From == w.far.p.ID.Brief() {
			w.far.agree(w, h)
		}
		return
	}
	p, ok := l.c.Roster().ByBrief(h.From)
	if !ok || p.ID == l.self {
		l.log.Warn("a box that is not paired is at the far end", "transport", w.t.Name())
		w.unknown = h.From
		return
	}
	if l.fars[p.ID] == nil {
		l.readRoster()
	}
	switch h.Step {
	case 0:
		l.hand(w, p)
	case 1:
		l.handTwo(w, p, h.Noise)
	case 2:
		l.handEnd(w, p, h.Noise)
	}
}

// kkContext binds the handshake to what it is for.
var kkContext = []byte("hallig exchange 1")

// hand starts the handshake if it is ours to start.
func (l *Link) hand(w *way, p peer.Peer) {
	if !w.hailed {
		l.hail(w)
	}
	if w.proved && w.far != nil && w.far.p.ID == p.ID {
		// The far end has begun anew without an outage: so do we.
		l.unprove(w)
	}
	if !peer.Initiates(l.self, p.ID) {
		return
	}
	hs, err := peer.NewHandshake(true, l.c.Key, p.BoxKey, kkContext, rand.Reader)
	if err != nil {
		l.log.Error("handshake could not be started", "peer", p.Server, "err", err)
		return
	}
	msg, err := hs.Write(nil)
	if err != nil {
		l.log.Error("handshake could not be written", "peer", p.Server, "err", err)
		return
	}
	w.hand, w.with = hs, p
	l.bare(w, &parcel.Hello{From: l.self.Brief(), Step: 1, Session: draw(), Noise: msg})
	if w.handTry != nil {
		w.handTry.Stop()
	}
	gen := w.gen
	w.handTry = l.after(w.patience(), func() {
		if w.gen == gen && w.up && !w.proved {
			l.hand(w, p)
		}
	})
}

// unprove takes a way back to where nobody is known at its end.
func (l *Link) unprove(w *way) {
	f := w.far
	w.proved, w.far, w.hand = false, nil, nil
	w.gen++
	f.leave(w)
}

// handTwo answers the first message of a handshake and has keys then.
func (l *Link) handTwo(w *way, p peer.Peer, noise []byte) {
	hs, err := peer.NewHandshake(false, l.c.Key, p.BoxKey, kkContext, rand.Reader)
	if err == nil {
		_, err = hs.Read(noise)
	}
	var msg []byte
	if err == nil {
		msg, err = hs.Write(nil)
	}
	if err != nil {
		l.log.Warn("handshake refused", "peer", p.Server, "transport", w.t.Name(), "err", err)
		return
	}
	if w.far != nil {
		l.unprove(w)
	}
	w.hand, w.with = hs, p
	out, took, _, err := l.codec.Bare().Encode(parcel.MaxMessage, &parcel.Hello{From: l.self.Brief(), Step: 2, Session: draw(), Noise: msg})
	if err != nil || took != 1 {
		l.log.Error("handshake could not be written", "err", err)
		return
	}
	gen := w.gen
	// The keys hold from the moment the far end has what it needs to make them.
	w.t.Send(w.addr, parcel.Immediate, out, func(err error) {
		l.post(func() {
			if err == nil && w.gen == gen && w.hand == hs {
				l.keys(w)
			}
		})
	})
}

// handEnd takes the second message; the initiator has keys then.
func (l *Link) handEnd(w *way, p peer.Peer, noise []byte) {
	if w.hand == nil || w.with.ID != p.ID || w.proved {
		return
	}
	if _, err := w.hand.Read(noise); err != nil {
		l.log.Warn("handshake refused", "peer", p.Server, "transport", w.t.Name(), "err", err)
		return
	}
	l.keys(w)
}

// keys gives the transport the keys of a finished handshake: from here on the far end is proved.
func (l *Link) keys(w *way) {
	k, ok := w.hand.Keys()
	if !ok {
		return
	}
	if err := w.keyed.SetKeys(w.addr, k.Send[:], k.Receive[:]); err != nil {
		l.log.Error("keys could not be set", "transport", w.t.Name(), "err", err)
		return
	}
	if w.handTry != nil {
		w.handTry.Stop()
	}
	w.hand = nil
	if f := l.fars[w.with.ID]; f != nil {
		l.prove(w, f)
	}
}

// prove notes who is at the end of a way.
func (l *Link) prove(w *way, f *far) {
	w.far, w.proved = f, true
	if w.mail == nil {
		l.c.Observe(Event{What: "up", Peer: f.p, Transport: w.t.Name()})
	}
	f.join(w)
}
