// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/appliance/store"
	"hallig/sync/peer"
)

// Invites, joins and leaves are questions that need an answer. Where no link leads to a box and a stick comes by now and then, they wait for it: each export takes the open questions of this
// box along and its answers to those of others, as pairs of a head (JSON) and a body. A question goes along until it was answered, and is answered as often as it comes; the handler knows
// what it has done. After a restart nothing is known of them: who asked asks again.

// AskFor is how long a question stays open.
const AskFor = 14 * 24 * time.Hour

const (
	sticksLast = 14 * 24 * time.Hour // sticks count as in use so long after the last one
	maxAsks    = 64                  // open questions to one box, and answers to one
	maxAsked   = 4 << 20             // bytes of one body
	maxAnswers = maxSegment - fillTo // bytes of the answers to one box: as much as goes along
)

// askHead is what goes before a body.
type askHead struct {
	ID     uint64      `json:"id"`
	Answer bool        `json:"answer,omitempty"`
	To     string      `json:"to,omitempty"`
	Method string      `json:"method,omitempty"`
	Target string      `json:"target,omitempty"`
	Status int         `json:"status,omitempty"`
	Header http.Header `json:"header,omitempty"`
}

type asked struct {
	head askHead
	body []byte
}

type ask struct {
	asked
	answer chan asked // capacity 1
	failed chan error // capacity 1
}

// questions are the open ones, and the answers that go back.
type questions struct {
	mu      sync.Mutex
	next    uint64
	open    map[peer.ID]map[uint64]*ask
	answers map[peer.ID]map[uint64]asked
	newest  map[peer.ID]askSerial // of the questions that were taken last
	used    time.Time             // when a stick was here last
}

// askSerial is which export of a box questions come from: numbers count anew in each epoch.
type askSerial struct {
	epoch  uint32
	serial uint64
}

func newQuestions() questions {
	return questions{open: map[peer.ID]map[uint64]*ask{}, answers: map[peer.ID]map[uint64]asked{}, newest: map[peer.ID]askSerial{}}
}

// visited notes that a stick is here.
func (q *questions) visited() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used = time.Now()
}

// worth says whether a request may wait for a stick: people do, programs do not.
func worth(path string) bool {
	for _, part := range []string{"/invite/", "/make_join/", "/send_join/", "/make_leave/", "/send_leave/"} {
		if strings.Contains(path, part) {
			return true
		}
	}
	return false
}

// Serves says whether a request to a server may travel by stick: it goes to a paired box, people wait for it, and sticks are in use here.
func (c *Courier) Serves(server, path string) bool {
	if _, ok := c.c.Roster().ByServer(server); !ok || !worth(path) {
		return false
	}
	q := &c.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.used.IsZero() && time.Since(q.used) < sticksLast
}

var (
	errNoStick  = errors.New("courier: no stick has come from that box lately")
	errInReach  = errors.New("courier: the box is in reach now; ask it directly")
	errTooMuch  = errors.New("courier: too much for a stick")
	errNoAnswer = errors.New("courier: no stick has brought an answer")
)

// RoundTrip asks a box by stick. It waits for the answer, for days if need be.
func (c *Courier) RoundTrip(r *http.Request) (*http.Response, error) {
	var content []byte
	if r.Body != nil {
		var err error
		content, err = io.ReadAll(io.LimitReader(r.Body, maxAsked+1))
		r.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("read request body: %w", err)
		}
	}
	p, ok := c.c.Roster().ByServer(r.URL.Host)
	if !ok {
		return nil, errNoStick
	}
	a := &ask{answer: make(chan asked, 1), failed: make(chan error, 1),
		asked: asked{askHead{To: r.URL.Host, Method: r.Method, Target: r.URL.RequestURI(), Header: worthy(r.Header)}, content}}
	q := &c.questions
	q.mu.Lock()
	if q.open[p.ID] == nil {
		q.open[p.ID] = map[uint64]*ask{}
	}
	if len(q.open[p.ID]) >= maxAsks || len(content) > maxAsked {
		q.mu.Unlock()
		return nil, errTooMuch
	}
	if q.next == 0 {
		q.next = uint64(draw()) << 24 // numbers of an earlier life are not met again
	}
	q.next++
	a.head.ID = q.next
	q.open[p.ID][a.head.ID] = a
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.open[p.ID], a.head.ID)
	}()
	over := time.NewTimer(AskFor)
	defer over.Stop()
	select {
	case got := <-a.answer:
		return &http.Response{Status: fmt.Sprint(got.head.Status, " ", http.StatusText(got.head.Status)), StatusCode: got.head.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: got.head.Header, ContentLength: int64(len(got.body)), Body: io.NopCloser(bytes.NewReader(got.body)), Request: r}, nil
	case err := <-a.failed:
		return nil, err
	case <-over.C:
		return nil, errNoAnswer
	case <-r.Context().Done():
		return nil, fmt.Errorf("ask %s by stick: %w", r.URL.Host, r.Context().Err())
	}
}

// InReach gives up what waits for a stick from a box: it can be asked directly.
func (c *Courier) InReach(server string) {
	p, ok := c.c.Roster().ByServer(server)
	if !ok {
		return
	}
	q := &c.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, a := range q.open[p.ID] {
		delete(q.open[p.ID], id)
		a.failed <- errInReach
	}
}

// worthy keeps the header fields that mean something there.
func worthy(h http.Header) http.Header {
	out := http.Header{}
	for _, name := range []string{"Authorization", "Content-Type"} {
		if v := h.Values(name); len(v) > 0 {
			out[name] = v
		}
	}
	return out
}

// asksFor makes the segment of questions and answers for a box; nil when there are none.
func (c *Courier) asksFor(p peer.Peer) (*segment, error) {
	q := &c.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []asked
	for _, a := range q.answers[p.ID] {
		all = append(all, a)
	}
	for _, a := range q.open[p.ID] {
		all = append(all, a.asked)
	}
	slices.SortFunc(all, func(a, b asked) int {
		return cmpBool(a.head.Answer, b.head.Answer)*2 + cmpUint(a.head.ID, b.head.ID)
	})
	s := c.build(p, kindAsks).s
	size := 0
	for _, a := range all {
		head, err := json.Marshal(a.head)
		if err != nil {
			return nil, fmt.Errorf("write question: %w", err)
		}
		if size += len(head) + len(a.body); size > maxAnswers {
			break // the next stick takes the rest
		}
		s.messages = append(s.messages, head, a.body)
	}
	if len(s.messages) == 0 {
		return nil, nil
	}
	return s, nil
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// asks takes questions and answers that a box has put on a stick.
func (t *taking) asks(ctx context.Context) {
	var over bool // by the letter of a later export, of this life of the program or an earlier one
	err := t.c.c.DB.View(ctx, func(r *store.Read) (err error) {
		over, err = r.LetterOver(string(t.p.ID), t.s.epoch, t.s.serial)
		return err
	})
	if err != nil {
		t.bad++
		return
	}
	q := &t.c.questions
	q.mu.Lock()
	if last := q.newest[t.p.ID]; over || last.epoch == t.s.epoch && t.s.serial <= last.serial {
		q.mu.Unlock()
		return // what is open lies on a later stick, too
	}
	q.newest[t.p.ID] = askSerial{t.s.epoch, t.s.serial}
	q.mu.Unlock()
	answers, size, signed := map[uint64]asked{}, 0, false
	for i := 0; i+1 < len(t.s.messages) && i < 4*maxAsks; i += 2 {
		a := asked{body: t.s.messages[i+1]}
		if json.Unmarshal(t.s.messages[i], &a.head) != nil {
			t.bad++
			continue
		}
		if !a.head.Answer {
			if _, twice := answers[a.head.ID]; !twice && len(answers) < maxAsks && size < maxAnswers && t.c.c.Handler != nil {
				answers[a.head.ID] = t.c.handleAfter(ctx, t.p, a, signed) // the others are asked again, once these have been heard
				size += len(answers[a.head.ID].body)
				t.box.Asked++
			}
			continue
		}
		q.mu.Lock()
		open := q.open[t.p.ID][a.head.ID]
		delete(q.open[t.p.ID], a.head.ID)
		q.mu.Unlock()
		if open != nil && a.head.Status >= 100 && a.head.Status < 600 {
			if a.head.Header == nil {
				a.head.Header = http.Header{}
			}
			open.answer <- a
			t.box.Answers++
			signed = signed || strings.Contains(open.head.Target, "/invite/")
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.answers[t.p.ID] = answers // what is not asked any more was answered
}

// questionsTo writes what is asked and answered, last of all: what an import brought may have led to new questions.
func (e *export) questionsTo(p peer.Peer) error {
	s, err := e.c.asksFor(p)
	if err != nil {
		return err
	}
	var old []entry
	e.x.entries = slices.DeleteFunc(e.x.entries, func(it entry) bool {
		is := it.kind == kindAsks && it.reader == p.ID.Brief()
		if is {
			old = append(old, it)
		}
		return is
	})
	for _, it := range old {
		e.gone = append(e.gone, it.name(e.c.self))
	}
	if s == nil {
		return nil
	}
	s.serial = e.seen
	return e.write(s, entry{})
}

// handleAfter is handle for a question that may lie on the stick with what makes it right: a box that has signed an invite asks to join with the
// same trip, and the invite becomes an event only beside this import.
func (c *Courier) handleAfter(ctx context.Context, p peer.Peer, a asked, signed bool) asked {
	const every, most = 200 * time.Millisecond, 50
	out := c.handle(ctx, p, a)
	for range most {
		if !signed || out.head.Status != http.StatusForbidden || !strings.Contains(a.head.Target, "/make_join/") {
			break
		}
		select {
		case <-ctx.Done():
			return out
		case <-time.After(every):
		}
		out = c.handle(ctx, p, a)
	}
	return out
}

// handle runs the handler on a question.
func (c *Courier) handle(ctx context.Context, p peer.Peer, a asked) asked {
	out := asked{head: askHead{ID: a.head.ID, Answer: true, Status: http.StatusBadRequest, Header: http.Header{"Content-Type": {"application/json"}}}}
	u, err := url.ParseRequestURI(a.head.Target)
	if err != nil || u.Host != "" || !worth(u.Path) {
		return out
	}
	r := (&http.Request{Method: a.head.Method, URL: u, RequestURI: a.head.Target, Host: a.head.To, Header: worthy(a.head.Header), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), RemoteAddr: "box:" + string(p.ID)}).WithContext(ctx)
	w := &recorder{header: http.Header{}}
	c.c.Handler.ServeHTTP(w, r)
	out.head.Status, out.body = max(w.status, 200), w.body.Bytes()
	if w.long {
		out.head.Status, out.body = http.StatusRequestEntityTooLarge, nil
	}
	return out
}

// recorder is a ResponseWriter into memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
	long   bool
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(p) > maxAsked {
		w.long = true
		return 0, errTooMuch
	}
	return w.body.Write(p)
}
