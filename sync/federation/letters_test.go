// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/sync/hub/api"
	"hallig/tools/matrixclient"
)

// testPost is a hub: it keeps letters in order, and brings them when the test says so.
type testPost struct {
	mu      sync.Mutex
	epoch   string // "": away
	fails   error
	deaf    error // to what is taken back
	letters []api.Letter
	brought int
	back    []string // series that were taken back
	asked   int      // how often, in vain as well
}

func (p *testPost) Open(string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

func (p *testPost) Leave(_ context.Context, l api.Letter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails != nil {
		return p.fails
	}
	raw, err := l.Append(nil)
	if err != nil {
		return err
	}
	if _, err := api.ReadLetter(raw); err != nil { // as the hub does
		return err
	}
	p.letters = append(p.letters, l)
	return nil
}

func (p *testPost) TakeBack(_ context.Context, _, series string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked++; p.deaf != nil {
		return p.deaf
	}
	p.back = append(p.back, series)
	kept := slices.Clone(p.letters[:p.brought])
	p.letters = append(kept, slices.DeleteFunc(slices.Clone(p.letters[p.brought:]), func(l api.Letter) bool { return l.Series == series })...)
	return nil
}

func (p *testPost) set(f func(p *testPost)) {
	p.mu.Lock()
	f(p)
	p.mu.Unlock()
}

// has lists the events that were left, in order.
func (p *testPost) has() (events []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.letters {
		events = append(events, l.Events...)
	}
	return events
}

// postPair is a box with a hub and another server, with a room.
type postPair struct {
	*testing.T
	a, b       *testBox
	anna, bert *matrixclient.Client
	id         string
	s          *strict
	post       *testPost
}

func newPostPair(t *testing.T) *postPair {
	t.Helper()
	ca := testCA(t)
	p := &postPair{T: t, a: newTestBox(t, ca), b: newTestBox(t, ca), post: &testPost{epoch: "e1"}}
	p.anna, p.bert = p.a.user("anna"), p.b.user("bert")
	p.a.post = p.post
	p.restart()
	p.id = must[string](t)(p.anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(p.bert.Join(t.Context(), p.id, p.a.name))
	warm := say(t, p.anna, p.id, 1, "warm")
	p.b.await("the first message", func() bool { return p.b.has(p.id, warm) })
	p.a.await("its confirmation", func() bool { return p.a.cursor(p.b.name, p.id) >= p.a.pos(warm[0]) })
	p.b.sender.silent.Store(true) // it must not pull what it is not given
	p.s = &strict{next: p.b.handler, unconfirmed: map[event.RoomID]int{}}
	p.b.seen.mu.Lock()
	p.b.seen.next = p.s
	p.b.seen.mu.Unlock()
	return p
}

func (p *postPair) restart() {
	p.a.restart(p.anna)
	p.a.sender.retry.Store(int64(20 * time.Millisecond))
}

// left waits until all events are with the hub, in order.
func (p *postPair) left(what string, ids []string) {
	p.Helper()
	p.until(what+" to be left", func() bool { return len(p.post.has()) >= len(ids) })
	if got := p.post.has(); !slices.Equal(got, ids) {
		p.Fatalf("%s: left %d events, want %d, or another order", what, len(got), len(ids))
	}
}

func (p *postPair) until(what string, cond func() bool) {
	p.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.Fatalf("waited in vain for: %s", what)
		}
	}
}

// bring takes letters to their server although the box does not reach it, as the hub does: each is the next, and the server answers 200 to it and to the question.
func (p *postPair) bring(n int) {
	p.Helper()
	p.post.mu.Lock()
	defer p.post.mu.Unlock()
	for _, l := range p.post.letters[p.post.brought : p.post.brought+n] {
		p.post.brought++
		ask := func(method string, s api.Signed, body []byte) {
			r := httptest.NewRequestWithContext(p.Context(), method, s.URI, bytes.NewReader(body))
			r.Host = p.b.name
			r.Header.Set("Authorization", s.Auth)
			r.Header.Set("User-Agent", "Hallig-Hub")
			w := httptest.NewRecorder()
			p.s.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				p.Errorf("%s %s: %d %s", method, s.URI, w.Code, w.Body)
			}
		}
		ask("PUT", l.Sends[0], l.Body)
		for _, q := range l.Asks {
			ask("GET", q.Signed, nil)
		}
	}
}

// tell has the hub say how far it has come; change may make something else of it.
func (p *postPair) tell(asked time.Time, change func(*api.Standing)) {
	p.Helper()
	p.post.mu.Lock()
	s := api.Standing{To: p.b.name, Waiting: int64(len(p.post.letters) - p.post.brought)}
	for _, l := range p.post.letters[:p.post.brought] {
		s.Done = append(slices.DeleteFunc(s.Done, func(d api.Done) bool { return d.Series == l.Series }), api.Done{Series: l.Series, N: l.N})
	}
	epoch := p.post.epoch
	p.post.mu.Unlock()
	if change != nil {
		change(&s)
	}
	p.a.sender.Standing(api.Letters{Epoch: epoch, To: []api.Standing{s}}, asked)
}

// straight lists the events that the box sent to the server itself.
func (p *postPair) straight() (ids []event.ID) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.post.mu.Lock()
	defer p.post.mu.Unlock()
	for _, txn := range p.s.txns {
		if !slices.ContainsFunc(p.post.letters, func(l api.Letter) bool { return strings.HasSuffix(l.Sends[0].URI, "/"+txn.id) }) {
			ids = append(ids, txn.pdus...)
		}
	}
	return ids
}

// The server is away: all that was written is left, in order, messages between devices as well, and what is written then at once. It arrives without the box; the cursor moves by the hub's word, through a restart, and nothing is
// sent again when the server is in reach.
func TestLettersWhileAway(t *testing.T) {
	p := newPostPair(t)
	p.b.link.Cut()
	ids := say(t, p.anna, p.id, 120, "fort")
	mail(t, p.a, p.anna, p.bert, p.b, "eins")
	p.left("the backlog", ids)
	p.until("the message between devices to be left", func() bool {
		p.post.mu.Lock()
		defer p.post.mu.Unlock()
		return slices.ContainsFunc(p.post.letters, func(l api.Letter) bool { return l.Once })
	})
	for _, l := range p.post.letters {
		if len(l.Events) > MaxPDUs || l.Once != (len(l.Sends) == 1) || l.Epoch != "e1" {
			t.Errorf("a letter of %d events, once %v, with %d ways, for %s", len(l.Events), l.Once, len(l.Sends), l.Epoch)
		}
	}
	ids = append(ids, say(t, p.anna, p.id, 2, "gleich")...)
	p.left("what came then", ids)
	n := len(p.post.letters)
	p.restart()
	p.bring(n)
	if !p.b.has(p.id, ids) || !slices.Equal(words(t, p.bert), []string{"eins"}) {
		t.Errorf("not all is there: %q, %q", p.b.lacks(p.id, ids), words(t, p.bert))
	}
	last := p.a.pos(ids[len(ids)-1])
	if got := p.a.cursor(p.b.name, p.id); got >= p.a.pos(ids[0]) {
		t.Errorf("the cursor is at %d before anybody said a word", got)
	}
	p.until("the letters to be known again", func() bool { return p.a.sender.Left() == n })
	p.tell(time.Time{}, nil)
	p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == last })
	if st := p.a.sender.Status()[0]; st.Through != len(ids)+1 {
		t.Errorf("people are told that %d are confirmed, want %d", st.Through, len(ids)+1)
	}
	p.b.link.Join()
	p.a.sender.LinkUp(p.b.name)
	more := say(t, p.anna, p.id, 1, "wieder da")
	p.b.await("what comes straight again", func() bool { return p.b.has(p.id, more) })
	if got := p.straight(); len(got) != 1 || string(got[0]) != more[0] {
		t.Errorf("sent straight: %d events", len(got))
	}
	if len(p.post.letters) != n || len(words(t, p.bert)) != 1 {
		t.Errorf("%d letters, messages %q", len(p.post.letters), words(t, p.bert))
	}
	if p.s.most > 50 {
		t.Errorf("%d unconfirmed", p.s.most)
	}
}

// With a backlog everything is left at once, though the server is in reach, and the box sends nothing beside it until all has arrived.
func TestLettersForBacklog(t *testing.T) {
	p := newPostPair(t)
	p.post.set(func(p *testPost) { p.epoch = "" })
	p.b.link.Cut()
	ids := say(t, p.anna, p.id, 130, "Stau")
	p.until("the server to count as away", func() bool { return p.a.sender.Status()[0].Failing })
	p.b.link.Join()
	p.post.set(func(p *testPost) { p.epoch = "e1" })
	p.a.sender.LinkUp("")
	p.left("the backlog", ids)
	ids = append(ids, say(t, p.anna, p.id, 3, "dazu")...)
	p.left("what came then", ids)
	st := p.a.sender.Status()[0]
	prog := must[[]Progress](t)(p.a.sender.Progress(t.Context()))
	p.until("the figures", func() bool {
		st = p.a.sender.Status()[0]
		prog = must[[]Progress](t)(p.a.sender.Progress(t.Context()))
		return st.Left == 133 && len(prog) == 1 && prog[0].Out == 133
	})
	p.bring(2)
	p.tell(time.Now(), nil)
	p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[99]) })
	p.until("the figures", func() bool { st = p.a.sender.Status()[0]; return st.Left == 33 && st.Through == 100 })
	if got := p.straight(); len(got) > 0 {
		t.Errorf("%d events were sent beside the letters", len(got))
	}
	p.bring(len(p.post.letters) - 2)
	p.tell(time.Now(), nil)
	p.a.await("the rest", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[132]) })
	if p.s.most > 50 || !p.b.has(p.id, ids) {
		t.Errorf("%d unconfirmed, lacking %d", p.s.most, len(p.b.lacks(p.id, ids)))
	}
}

// The hub has lost its memory, or does not know the letters any more, or the key is a new one: they are left anew. What a server appends goes under the id that it had.
func TestLettersVoid(t *testing.T) {
	for name, happens := range map[string]func(p *postPair){
		"another memory": func(p *postPair) { p.post.set(func(p *testPost) { p.epoch = "e2" }); p.a.sender.LinkUp("") },
		"nothing waits":  func(p *postPair) { p.tell(time.Now(), func(s *api.Standing) { s.Waiting, s.Done = 0, nil }) },
		"another key": func(p *postPair) {
			p.a.local.Key.ID = "ed25519:next"
			p.restart()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPostPair(t)
			p.b.link.Cut()
			mail(t, p.a, p.anna, p.bert, p.b, "eins")
			ids := say(t, p.anna, p.id, 3, "fort")
			mail(t, p.a, p.anna, p.bert, p.b, "zwei")
			p.left("the letters", ids)
			p.until("all letters", func() bool { return p.a.sender.Status()[0].Left >= 5 })
			before := slices.Clone(p.post.letters)
			p.post.set(func(p *testPost) { p.letters = nil })
			happens(p)
			p.left("the letters anew", ids)
			p.until("all letters again", func() bool {
				p.post.mu.Lock()
				defer p.post.mu.Unlock()
				return len(once(p.post.letters)) == len(once(before))
			})
			if a, b := once(before), once(p.post.letters); !slices.Equal(a, b) {
				t.Errorf("messages between devices went as %q, then as %q", a, b)
			}
			if p.post.letters[0].Series == before[0].Series {
				t.Error("the same series")
			}
			if name == "another key" && p.post.back[0] != before[0].Series {
				t.Errorf("taken back: %q", p.post.back)
			}
		})
	}
}

// once gives the ids and bodies of what a server appends.
func once(letters []api.Letter) (out []string) {
	for _, l := range letters {
		if l.Once {
			out = append(out, l.Sends[0].URI+" "+string(l.Body))
		}
	}
	return out
}

// The hub is gone and the server in reach: after a while everything goes straight. A hub that is away for a moment changes nothing.
func TestLettersHubGone(t *testing.T) {
	p := newPostPair(t)
	p.a.sender.hubGone.Store(int64(400 * time.Millisecond))
	p.b.link.Cut()
	ids := say(t, p.anna, p.id, 3, "fort")
	mail(t, p.a, p.anna, p.bert, p.b, "eins")
	p.left("the letters", ids)
	p.post.set(func(p *testPost) { p.epoch = "" })
	p.b.link.Join()
	p.a.sender.LinkUp("")
	p.until("a word to the server", func() bool { return !p.a.sender.Status()[0].Failing })
	if got := p.straight(); len(got) > 0 {
		t.Errorf("%d events were sent at once", len(got))
	}
	ids = append(ids, say(t, p.anna, p.id, 1, "dazu")...)
	p.b.await("all, straight", func() bool { return p.b.has(p.id, ids) && len(words(t, p.bert)) == 1 })
	p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[3]) })
	p.restart()
	p.until("nothing to be out any more", func() bool { return len(p.a.sender.Status()) > 0 })
	if n := p.a.sender.Left(); n != 0 {
		t.Errorf("%d letters came back at the start", n)
	}
}

// A hub that is gone cannot be told that letters are taken back. The box tells it at the next contact, after a restart as well, before it leaves anything else there; what the server appends has gone straight in the very form that
// the letter had.
func TestLettersHubGoneUntold(t *testing.T) {
	p := newPostPair(t)
	p.a.sender.hubGone.Store(int64(400 * time.Millisecond))
	p.b.link.Cut()
	ids := say(t, p.anna, p.id, 3, "fort")
	mail(t, p.a, p.anna, p.bert, p.b, "eins")
	p.left("the letters", ids)
	p.until("all letters", func() bool { return p.a.sender.Left() >= 2 })
	before := slices.Clone(p.post.letters)
	away := errors.New("no route to the hub")
	p.post.set(func(p *testPost) { p.epoch, p.deaf = "", away })
	p.b.link.Join()
	p.a.sender.LinkUp("")
	p.b.await("all, straight", func() bool { return p.b.has(p.id, ids) && len(words(t, p.bert)) == 1 })
	p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[2]) })
	for _, l := range before {
		id := l.Sends[0].URI[strings.LastIndexByte(l.Sends[0].URI, '/')+1:]
		p.s.mu.Lock()
		same := slices.ContainsFunc(p.s.txns, func(txn sentTxn) bool { return txn.id == id && txn.body == string(l.Body) })
		p.s.mu.Unlock()
		if l.Once != same {
			t.Errorf("transaction %s with messages between devices: %v, sent straight: %v", id, l.Once, same)
		}
	}
	p.until("the end of what is out", func() bool { return p.a.sender.Left() == 0 })

	p.restart()
	p.b.link.Cut()
	more := say(t, p.anna, p.id, 2, "wieder fort")
	p.until("the server to count as away", func() bool { return len(p.a.sender.Status()) > 0 && p.a.sender.Status()[0].Failing })
	asked := p.post.asked
	p.post.set(func(p *testPost) { p.epoch = "e1" })
	p.a.sender.LinkUp("")
	p.until("a try to tell the hub", func() bool { p.post.mu.Lock(); defer p.post.mu.Unlock(); return p.post.asked > asked })
	if got := p.post.has(); !slices.Equal(got, ids) {
		t.Errorf("left before the hub was told: %d events", len(got)-len(ids))
	}
	p.post.set(func(p *testPost) { p.deaf = nil })
	p.until("what came then to be left, alone", func() bool { return slices.Equal(p.post.has(), more) })
	p.post.mu.Lock()
	back := slices.Clone(p.post.back)
	p.post.mu.Unlock()
	if !slices.Equal(back, []string{before[0].Series}) {
		t.Errorf("taken back: %q, want %q", back, before[0].Series)
	}
	p.until("the note of it", func() bool { return p.a.sender.Left() > 0 })
	p.bring(len(p.post.letters))
	p.tell(time.Now(), nil)
	p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(more[1]) })
	p.restart()
	p.until("the start", func() bool { return len(p.a.sender.Status()) > 0 })
	if got := words(t, p.bert); len(got) > 1 || p.post.asked != asked+2 {
		t.Errorf("messages %q; the hub was told %d times", got, p.post.asked-asked)
	}
}

// What the hub could not bring: events that the server does not keep are parked and offered again; where it says nothing, the writers hear of it; what it refuses as a whole goes straight, and is cut smaller there.
func TestLettersAmiss(t *testing.T) {
	for _, what := range []string{api.Unkept, api.Barred, "refused"} {
		t.Run(what, func(t *testing.T) {
			p := newPostPair(t)
			p.b.link.Cut()
			ids := say(t, p.anna, p.id, 2, "fort")
			p.left("the letter", ids)
			p.until("the note of it", func() bool { return p.a.sender.Left() > 0 })
			if what == api.Barred { // of a letter that counts as out nothing is heard
				p.tell(time.Time{}, func(s *api.Standing) {
					l := p.post.letters[0]
					s.Amiss = []api.Amiss{{Series: l.Series, N: l.N, Event: l.Events[0], What: what}, {Series: "before", N: 1, Event: "$x", What: what}}
				})
				p.until("word of another series alone", func() bool {
					heeded := must[api.Letters](t)(p.a.sender.Heeded(t.Context()))
					if len(heeded.To) == 1 && len(heeded.To[0].Amiss) > 1 {
						t.Error("heard of what is out")
					}
					return len(heeded.To) == 1
				})
			}
			p.post.set(func(p *testPost) { p.brought = len(p.letters) })
			if what == "refused" {
				p.tell(time.Time{}, func(s *api.Standing) { s.Status, s.Done = 413, nil })
				p.until("the taking back", func() bool { p.post.mu.Lock(); defer p.post.mu.Unlock(); return len(p.post.back) == 1 })
				p.b.link.Join()
				p.a.sender.LinkUp("")
				p.b.await("all, straight", func() bool { return p.b.has(p.id, ids) })
				return
			}
			next := api.Amiss{Event: "$next", What: what} // of a letter of which the box has not noted yet that it was left
			var amiss []api.Amiss
			p.tell(time.Time{}, func(s *api.Standing) {
				for _, l := range p.post.letters {
					amiss = append(amiss, api.Amiss{Series: l.Series, N: l.N, Event: l.Events[len(l.Events)-1], What: what})
					next.Series, next.N = l.Series, l.N+1
				}
				s.Amiss = append(amiss, next)
			})
			p.until("what the hub need not say again", func() bool {
				heeded := must[api.Letters](t)(p.a.sender.Heeded(t.Context()))
				return len(heeded.To) == 1 && heeded.To[0].To == p.b.name && heeded.Epoch == "e1" && slices.Equal(heeded.To[0].Amiss, amiss) && p.a.cursor(p.b.name, p.id) == p.a.pos(ids[1])
			})
			p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[1]) })
			_, told := p.a.refusals.Load(p.b.name + " " + p.id)
			if parked := len(p.a.parked(p.b.name)); (parked == 2) != (what == api.Unkept) || told != (what == api.Barred) {
				t.Errorf("%d parked, told %v", parked, told)
			}
			if what == api.Unkept {
				p.b.link.Join()
				p.a.sender.LinkUp("")
				p.b.await("what was parked", func() bool { return p.b.has(p.id, ids) })
			}
		})
	}
}

// A hub without room leaves everything with the box, which sends it when it can.
func TestLettersNoRoom(t *testing.T) {
	for _, why := range []error{ErrNoRoom, errors.New("the hub hangs up")} {
		p := newPostPair(t)
		p.post.set(func(p *testPost) { p.fails = fmt.Errorf("leave: %w", why) })
		p.b.link.Cut()
		ids := say(t, p.anna, p.id, 60, "voll")
		p.until("the server to count as away", func() bool { return p.a.sender.Status()[0].Failing })
		if n := p.a.sender.Left(); n != 0 {
			t.Errorf("%d letters are out", n)
		}
		p.b.link.Join()
		p.a.sender.LinkUp("")
		p.b.await("all, straight", func() bool { return p.b.has(p.id, ids) })
		p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[59]) })
	}
}

// A box that is set up from an old backup knows nothing of its last letters. They are brought all the same; what it hears of them confuses nobody, and what it writes then arrives.
func TestLettersOldBackup(t *testing.T) {
	p := newPostPair(t)
	p.b.link.Cut()
	ids := say(t, p.anna, p.id, 2, "vor der Sicherung")
	p.left("the first letters", ids)
	p.until("the note of each", func() bool {
		p.post.mu.Lock()
		defer p.post.mu.Unlock()
		return p.a.sender.Left() == len(p.post.letters)
	})
	p.a.stop()
	db := filepath.Join(p.a.dir, "hallig.db")
	backup := must[[]byte](t)(os.ReadFile(db))
	p.a.start()
	p.anna.Base = p.a.url
	p.a.sender.retry.Store(int64(20 * time.Millisecond))
	lost := say(t, p.anna, p.id, 2, "danach")
	p.left("the letters after it", append(slices.Clone(ids), lost...))
	p.a.stop()
	if err := os.WriteFile(db, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	p.a.start()
	p.anna.Base = p.a.url
	p.bring(len(p.post.letters))
	p.tell(time.Now(), nil)
	p.a.await("the cursor's move", func() bool { return p.a.cursor(p.b.name, p.id) == p.a.pos(ids[1]) })
	p.b.link.Join()
	p.a.sender.LinkUp(p.b.name)
	more := say(t, p.anna, p.id, 1, "mit der Sicherung")
	p.b.await("what was written before, after and now", func() bool { return p.b.has(p.id, slices.Concat(ids, lost, more)) })
	p.a.await("what only the other server had", func() bool { return p.a.has(p.id, lost) })
	for _, id := range p.straight() { // what only the other server had may go to it once more: others may lack it
		if slices.Contains(ids, string(id)) {
			t.Errorf("%s was sent again", id)
		}
	}
}
