// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/radio"
	"hallig/radio/ether"
	"hallig/sync/courier"
)

// The laboratory: boxes with real stores, rooms, links, radios, relays and a stick live through days of partitions,
// restarts, crashes, a restore, wrong clocks, members who come and go, redactions and fights over power, in virtual time.
// At the end all links are open, and everything that was acknowledged must be where it belongs, once.
//
// Whole boxes (package appliance) cannot take part: their listeners wait for the kernel, and virtual time stands still while
// somebody does. What is left out with them is the Client-Server API, accounts and central servers; messages between devices
// are known again by their id here as account does it.
//
// `make lab` plays five boxes for eight days in a row, and for as many in a ring in which three of them share one channel; without HALLIG_LAB
// they play one day in the ring. HALLIG_LAB_SEED picks another story, HALLIG_LOG=1 lets the boxes speak all the time, and HALLIG_LAB_KEEP names a folder for their stores when something is wrong.
func TestLab(t *testing.T) {
	seed := uint64(1)
	if s, err := strconv.ParseUint(os.Getenv("HALLIG_LAB_SEED"), 10, 64); err == nil {
		seed = s
	}
	days, err := strconv.Atoi(os.Getenv("HALLIG_LAB"))
	if err != nil {
		run(t, func(t *testing.T, w *world) { newLab(t, w, seed, 5, true).live(1) })
		return
	}
	total := labCount{}
	for _, ring := range []bool{false, true} {
		run(t, func(t *testing.T, w *world) {
			c := newLab(t, w, seed, 5, ring).live(days)
			total.events += c.events
			total.lost += c.lost
			total.doubled += c.doubled
		})
	}
	if !t.Failed() {
		fmt.Printf("lab: %d events, lost %d, duplicated %d, state equal on 5 boxes\n", total.events, total.lost, total.doubled)
	}
}

type labCount struct{ events, lost, doubled int }

type lab struct {
	t     *testing.T
	w     *world
	rng   *rand.Rand
	boxes []*box
	links []*labLink
	down  map[*box]bool
	stick string

	rooms []*labRoom
	said  []*labEvent
	mails []*labMail

	life   map[*box]*labLife
	backup *labBackup
	began  time.Time
	count  map[string]int
}

type labLink struct {
	name string
	a, b *box
	cut  bool
	set  func(cut bool)
}

type labRoom struct {
	id     event.RoomID
	absent map[*box]bool
}

// labEvent is a message that its author's box has acknowledged, and who is to have it.
type labEvent struct {
	id     event.ID
	room   *labRoom
	by     *box
	at     time.Time
	must   map[*box]bool
	redact event.ID
}

type labMail struct {
	id       string
	from, to *box
	at       time.Time
	exempt   bool
}

// labLife is what a box's devices have got: seen goes back with a restore, ever does not. floor is the highest time that its clock has shown.
type labLife struct {
	seen, ever map[string]bool
	floor      time.Time
}

type labBackup struct {
	b    *box
	dir  string
	at   time.Time
	seen map[string]bool
}

func newLab(t *testing.T, w *world, seed uint64, n int, ring bool) *lab {
	l := &lab{t: t, w: w, rng: dice(seed), down: map[*box]bool{}, stick: t.TempDir(), life: map[*box]*labLife{}, count: map[string]int{}, began: time.Now()}
	for _, name := range []string{"anna", "bert", "carl", "dora", "emil"}[:n] {
		b := w.box(name)
		b.carries, b.asks = true, true
		l.boxes = append(l.boxes, b)
		life := &labLife{seen: map[string]bool{}, ever: map[string]bool{}}
		l.life[b] = life
		b.mail = life.take
		for _, o := range l.boxes[:len(l.boxes)-1] {
			pair(o, b)
		}
	}
	kinds := []ether.Config{{}, {BitsPerSecond: 9600, FullDuplex: true}, {BitsPerSecond: 1200, FrameLoss: 0.1, TurnDelay: 100 * time.Millisecond}, {BitsPerSecond: 300, FrameLoss: 0.02}, {BitsPerSecond: 9600, FullDuplex: true, FrameLoss: 0.05}}
	for i := range l.boxes {
		switch {
		case ring && i == 1:
			l.share(ether.Config{BitsPerSecond: 1200, FrameLoss: 0.05, TurnDelay: 100 * time.Millisecond, Seed: seed + uint64(i)}, l.boxes[1:4])
		case ring && i == 2:
		case i+1 < n:
			l.connect(l.boxes[i], l.boxes[i+1], kinds[i], seed+uint64(i))
		}
	}
	if ring {
		l.connect(l.boxes[n-1], l.boxes[0], kinds[4], seed+uint64(n))
	}
	return l
}

// share puts boxes on one channel; any two of them may be out of each other's reach for a time.
func (l *lab) share(cfg ether.Config, boxes []*box) {
	cfg.Ends = len(boxes)
	air := ether.New(cfg)
	shared(air, cfg, boxes...)
	for i, a := range boxes {
		for j, b := range boxes[:i] {
			l.links = append(l.links, &labLink{name: "shared", a: a, b: b, set: func(cut bool) { air.SetReach(i, j, !cut) }})
		}
	}
}

func (life *labLife) take(content []byte) {
	var c struct {
		ID string `json:"message_id"`
	}
	if json.Unmarshal(content, &c) != nil || life.seen[c.ID] {
		return // account knows it again
	}
	life.seen[c.ID], life.ever[c.ID] = true, true
}

// connect joins two boxes by a network (no rate) or by radio.
func (l *lab) connect(a, b *box, cfg ether.Config, seed uint64) {
	name := fmt.Sprint("way", len(l.links))
	if cfg.BitsPerSecond == 0 {
		net := newWire(name, 1e6, 20*time.Millisecond)
		weather := dice(seed + 1000)
		net.fate = func(string, string, []byte) error {
			switch weather.IntN(50) {
			case 0:
				return errLost
			case 1:
				return errLiar
			}
			return nil
		}
		a.on(net)
		b.on(net)
		l.links = append(l.links, &labLink{name: name, a: a, b: b, set: net.setCut})
		return
	}
	cfg.Seed = seed
	air := ether.New(cfg)
	for i, x := range []*box{a, b} {
		x.plugs = append(x.plugs, func() Transport {
			return radio.New(radio.Config{Name: name, BitsPerSecond: cfg.BitsPerSecond, TurnDelay: cfg.TurnDelay, FullDuplex: cfg.FullDuplex,
				Seed: seed<<8 + uint64(i) + 1, Log: x.logger(), Open: func(context.Context) (io.ReadWriteCloser, error) { return air.Open(i) }})
		})
	}
	l.links = append(l.links, &labLink{name: name, a: a, b: b, set: air.Cut})
}

// live plays the story.
func (l *lab) live(days int) labCount {
	l.w.start()
	pass(2 * time.Minute)
	l.settle()
	for end := time.Now().Add(time.Duration(days) * 24 * time.Hour); time.Now().Before(end); {
		pass(time.Duration(1+l.rng.IntN(20)) * time.Minute)
		l.step(end)
	}
	l.count["steps"] = int(time.Since(l.began) / time.Hour)
	l.reopen()
	return l.converge()
}

// settle makes the rooms: everybody is in, all have power.
func (l *lab) settle() {
	for i := range 3 {
		owner := l.boxes[i%len(l.boxes)]
		r := &labRoom{id: owner.create("u"), absent: map[*box]bool{}}
		l.rooms = append(l.rooms, r)
		for range l.boxes {
			for _, b := range l.boxes {
				if b != owner && !l.in(b, r) {
					l.rejoin(b, r)
				}
			}
		}
		users := map[string]int{}
		for _, b := range l.boxes {
			if !l.in(b, r) {
				l.t.Fatalf("%s could not join", b.name)
			}
			if b != owner {
				users[string(b.user("u"))] = 100
			}
		}
		l.try(owner, r, "m.room.power_levels", "", map[string]any{"users": users})
	}
	pass(time.Hour)
}

// in says whether a box's user is in a room, as that box sees it.
func (l *lab) in(b *box, r *labRoom) bool {
	us, err := b.rooms.Joined(l.t.Context(), r.id)
	return err == nil && slices.Contains(us, b.user("u"))
}

// neighbours are the boxes that a box reaches now by one way.
func (l *lab) neighbours(b *box) (out []*box) {
	for _, k := range l.links {
		if k.cut || l.down[k.a] || l.down[k.b] {
			continue
		}
		if k.a == b {
			out = append(out, k.b)
		} else if k.b == b {
			out = append(out, k.a)
		}
	}
	return out
}

func (l *lab) rejoin(b *box, r *labRoom) bool {
	for _, o := range l.neighbours(b) {
		if !l.in(o, r) {
			continue
		}
		if err := b.tryJoin(l.t.Context(), o, r.id, "u"); err != nil {
			l.t.Logf("%s: %s does not come in through %s: %v", l.now(), b.name, o.name, err)
			continue
		}
		if !r.absent[b] {
			l.wasOut(b, r)
		}
		delete(r.absent, b)
		l.count["joins"]++
		return true
	}
	return false
}

func (l *lab) now() string { return time.Since(l.began).Round(time.Second).String() }

// try sends a state event; the law may refuse it.
func (l *lab) try(b *box, r *labRoom, typ, key string, content any) bool {
	body, _ := json.Marshal(content)
	_, err := b.rooms.Send(l.t.Context(), room.Draft{Room: r.id, Sender: b.user("u"), Type: typ, StateKey: &key, Content: body})
	l.count["state"]++
	return err == nil
}

func (l *lab) pick() (*box, *labRoom) {
	return l.boxes[l.rng.IntN(len(l.boxes))], l.rooms[l.rng.IntN(len(l.rooms))]
}

// step lets one thing happen.
func (l *lab) step(end time.Time) {
	b, r := l.pick()
	up := !l.down[b]
	inside := up && !r.absent[b] && l.in(b, r)
	switch n := l.rng.IntN(100); {
	case n < 46:
		if inside {
			for range 1 + l.rng.IntN(4) {
				l.say(b, r)
			}
		}
	case n < 52:
		if o := l.boxes[l.rng.IntN(len(l.boxes))]; up && o != b {
			l.write(b, o)
		}
	case n < 57:
		if inside {
			l.try(b, r, "m.room.topic", "", map[string]string{"topic": fmt.Sprint(l.rng.Int())})
		}
	case n < 60:
		l.fight(r)
	case n < 63:
		if inside {
			l.redact(b, r)
		}
	case n < 66:
		l.comeOrGo(b, r)
	case n < 90:
		k := l.links[l.rng.IntN(len(l.links))]
		k.cut = !k.cut
		k.set(k.cut)
		l.count["cuts"]++
	case n < 93:
		if up {
			l.halt(b)
		} else {
			l.boot(b)
		}
		l.down[b] = up
		l.count["restarts"]++
	case n < 95:
		if up {
			l.crash(b)
		}
	case n < 97:
		l.carry()
	default:
		l.keepOrRestore(b, end)
	}
}

func (l *lab) say(b *box, r *labRoom) {
	content := map[string]any{"msgtype": "m.text", "body": fmt.Sprintf("Meldung %d von %s: Wasserstand %d cm", len(l.said), b.name, l.rng.IntN(900))}
	if l.rng.IntN(30) == 0 {
		content["org.hallig.priority"] = "flash"
		l.count["flash"]++
	}
	body, _ := json.Marshal(content)
	id, err := b.rooms.Send(l.t.Context(), room.Draft{Room: r.id, Sender: b.user("u"), Type: "m.room.message", Content: body})
	if err != nil {
		l.t.Errorf("%s: %s cannot write: %v", l.now(), b.name, err)
		return
	}
	us, err := b.rooms.Joined(l.t.Context(), r.id)
	if err != nil {
		l.t.Fatal(err)
	}
	e := &labEvent{id: id, room: r, by: b, at: time.Now(), must: map[*box]bool{}}
	for _, o := range l.boxes {
		e.must[o] = o == b || slices.Contains(us, o.user("u")) && !r.absent[o]
	}
	l.said = append(l.said, e)
}

func (l *lab) write(b, o *box) {
	m := &labMail{id: fmt.Sprint("m", len(l.mails)), from: b, to: o, at: time.Now()}
	body := fmt.Sprintf(`{"message_id":%q,"type":"m.room_key"}`, m.id)
	if err := b.db.Do(l.t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(o.name, "m.direct_to_device", "", []byte(body)) }); err != nil {
		l.t.Fatal(err)
	}
	l.mails = append(l.mails, m)
}

// fight: two set the power levels, none knowing of the other, each taking something from somebody.
func (l *lab) fight(r *labRoom) {
	for range 2 {
		b := l.boxes[l.rng.IntN(len(l.boxes))]
		if l.down[b] || r.absent[b] || !l.in(b, r) {
			continue
		}
		raw, err := b.rooms.StateEvent(l.t.Context(), r.id, "m.room.power_levels", "")
		if err != nil || raw == nil {
			l.t.Fatalf("%s has no power levels: %v", b.name, err)
		}
		var levels map[string]any
		if err := json.Unmarshal(raw.Content, &levels); err != nil {
			l.t.Fatal(err)
		}
		users, _ := levels["users"].(map[string]any)
		if user := string(l.boxes[l.rng.IntN(len(l.boxes))].user("u")); users[user] != nil {
			users[user] = []int{0, 50, 100}[l.rng.IntN(3)]
		}
		levels["state_default"] = []int{0, 50}[l.rng.IntN(2)]
		l.try(b, r, "m.room.power_levels", "", levels)
		l.count["fights"]++
	}
}

// redact takes back one of one's own newest messages.
func (l *lab) redact(b *box, r *labRoom) {
	for i := len(l.said) - 1; i >= 0 && i > len(l.said)-60; i-- {
		e := l.said[i]
		if e.by != b || e.room != r || e.redact != "" {
			continue
		}
		if p, _, err := b.rooms.Event(l.t.Context(), e.id); err != nil || p == nil {
			continue // written before a restore, and not back yet
		}
		id, err := b.rooms.Send(l.t.Context(), room.Draft{Room: r.id, Sender: b.user("u"), Type: "m.room.redaction", Redacts: e.id, Content: json.RawMessage(`{}`)})
		if err != nil {
			l.t.Errorf("%s: %s cannot take back its own message: %v", l.now(), b.name, err)
		}
		e.redact = id
		l.count["redactions"]++
		return
	}
}

// comeOrGo lets a user leave a room, or come back.
func (l *lab) comeOrGo(b *box, r *labRoom) {
	switch {
	case l.down[b] || l.backup != nil && l.backup.b == b:
	case r.absent[b]:
		l.rejoin(b, r)
	case len(r.absent) == 0 && l.in(b, r) && b != l.boxes[slices.Index(l.rooms, r)%len(l.boxes)]:
		if l.try(b, r, "m.room.member", string(b.user("u")), map[string]string{"membership": "leave"}) {
			r.absent[b] = true
			l.count["leaves"]++
		}
	}
}

// boot starts a box; its clock may be wrong then: it lags, but not behind what it has shown before (appliance/clock), or leads by minutes.
func (l *lab) boot(b *box) {
	wrong := []time.Duration{0, 0, -48 * time.Hour, 4 * time.Minute, -365 * 24 * time.Hour}[l.rng.IntN(5)]
	began, from := time.Now(), time.Now().Add(wrong)
	if floor := l.life[b].floor; from.Before(floor) {
		from = floor
	}
	b.now = func() time.Time { return from.Add(time.Since(began)) }
	b.start()
}

// halt stops a box.
func (l *lab) halt(b *box) {
	l.mark(b)
	b.halt()
}

// mark notes what a box's clock shows.
func (l *lab) mark(b *box) {
	now := time.Now()
	if b.now != nil {
		now = b.now()
	}
	if life := l.life[b]; now.After(life.floor) {
		life.floor = now
	}
}

// crash is kill -9: what is on the disk at a moment at which all is still is what the box wakes up with.
func (l *lab) crash(b *box) {
	synctest.Wait()
	dir := l.copyOf(b)
	l.halt(b)
	b.dir = dir
	l.boot(b)
	l.count["crashes"]++
}

func (l *lab) copyOf(b *box) string {
	dir := l.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(b.dir)); err != nil {
		l.t.Fatal(err)
	}
	return dir
}

// keepOrRestore makes a backup of a box, or puts the one that was made in its place; once in a story.
func (l *lab) keepOrRestore(b *box, end time.Time) {
	switch k := l.backup; {
	case k == nil:
		for _, r := range l.rooms {
			if r.absent[b] {
				return
			}
		}
		if l.down[b] {
			return
		}
		l.halt(b)
		l.backup = &labBackup{b: b, dir: l.copyOf(b), at: time.Now()}
		l.backup.seen = map[string]bool{}
		for id := range l.life[b].seen {
			l.backup.seen[id] = true
		}
		l.boot(b)
	case k.b != nil && time.Since(k.at) > min(24*time.Hour, time.Until(end)/4) && !l.down[k.b]:
		l.forgive(k)
		b := k.b
		b.restore(k.dir, true)
		l.life[b].seen = k.seen
		k.b = nil
		l.count["restores"]++
		l.t.Logf("%s: %s restored from %s", l.now(), b.name, k.at.Sub(l.began))
	}
}

// forgive: what a box has acknowledged since the backup and nobody else has got is gone with it. That is what a backup is.
func (l *lab) forgive(k *labBackup) {
	for _, e := range l.said {
		if e.by != k.b || e.at.Before(k.at) {
			continue
		}
		kept := false
		for _, o := range l.boxes {
			if o == k.b || l.down[o] {
				continue
			}
			p, _, err := o.rooms.Event(l.t.Context(), e.id)
			kept = kept || err == nil && p != nil
		}
		if !kept {
			e.must = map[*box]bool{}
		}
	}
	for _, m := range l.mails {
		if m.from == k.b && !m.at.Before(k.at) && !l.life[m.to].ever[m.id] {
			m.exempt = true // on its way, perhaps, and perhaps not
		}
	}
}

// carry takes the stick to some boxes, one after the other.
func (l *lab) carry() {
	for range 2 + l.rng.IntN(2) {
		b := l.boxes[l.rng.IntN(len(l.boxes))]
		if l.down[b] {
			continue
		}
		c, err := courier.New(courier.Config{Key: b.key, Server: b.name, DB: b.db, Inbox: b.link.c.Inbox, Outbox: b.link.Outbox(), Codec: b.link.Codec(), Roster: b.link.c.Roster,
			Receipt: b.link.Receipt, Longer: b.link.Longer, Ahead: b.link.Ahead, Log: b.logger()})
		if err != nil {
			l.t.Fatal(err)
		}
		d, err := courier.Open(l.stick, true)
		if err != nil {
			l.t.Fatal(err)
		}
		if _, err := c.Import(l.t.Context(), d, nil); err != nil {
			l.t.Errorf("%s: import at %s: %v", l.now(), b.name, err)
		}
		if _, err := c.Export(l.t.Context(), d, nil); err != nil {
			l.t.Errorf("%s: export at %s: %v", l.now(), b.name, err)
		}
		if err := d.Close(); err != nil {
			l.t.Error(err)
		}
		l.count["stick"]++
		pass(time.Duration(1+l.rng.IntN(60)) * time.Minute)
	}
}

// wasOut: state resolution had put a user out who believed to be in, and he came back. What others wrote at the same time, some seeing him in
// and some out, is before his new time in the room, where he has no more right to it than anybody who joins. It is counted.
func (l *lab) wasOut(b *box, r *labRoom) {
	shown := b.timeline(r.id)
	for _, e := range l.said {
		if e.room == r && e.by != b && e.must[b] && !slices.Contains(shown, e.id) {
			e.must[b] = false
			l.count["written while somebody was put out"]++
		}
	}
}
