// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallig/sync/hub/api"
	"hallig/sync/parcel"
)

var (
	errClosed      = errors.New("link: the box is no longer paired")
	errUnreachable = errors.New("link: the box is out of reach")
	errTooLong     = errors.New("link: the body is too long for this link")
)

// maxBody bounds what one request or response may carry over parcels.
const maxBody = 32 << 20

// RoundTripper takes HTTP requests to the boxes in the roster: the host of the URL is a server name. A request to a box
// that is out of reach fails at once. What was asked goes on over a change of transport.
func (l *Link) RoundTripper() http.RoundTripper { return roundTripper{l, ""} }

type roundTripper struct {
	l   *Link
	via string // the box to hand requests to; "": the one that they are for
}

// ask is a request under way.
type ask struct {
	request  *parcel.Request
	short    *parcel.Send // the same without its events; nil: it crosses whole
	priority int
	sent     bool
	clear    bool                  // may be asked over open language
	answer   chan *parcel.Response // capacity 1
	err      chan error            // capacity 1
}

func (rt roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	var content []byte
	if r.Body != nil {
		var err error
		content, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		r.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("read request body: %w", err)
		}
		if len(content) > maxBody {
			return nil, errTooLong
		}
	}
	host := r.URL.Host
	if rt.via != "" {
		host = rt.via
	}
	q := &parcel.Request{To: r.URL.Host, Method: r.Method, Target: r.URL.RequestURI(), Header: fieldsOf(r.Header), Body: content}
	a := &ask{request: q, priority: urgency(r.Method, r.URL.Path, len(content)), answer: make(chan *parcel.Response, 1), err: make(chan error, 1)}
	ctx := r.Context()
	if rt.via != "" {
		a.short = rt.l.shorten(ctx, q)
	}
	rt.l.post(func() { rt.l.start(a, host) })
	select {
	case p := <-a.answer:
		return &http.Response{Status: strconv.Itoa(p.Status) + " " + http.StatusText(p.Status), StatusCode: p.Status,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: headerOf(p.Header), ContentLength: int64(len(p.Body)),
			Body: io.NopCloser(bytes.NewReader(p.Body)), Request: r}, nil
	case err := <-a.err:
		return nil, fmt.Errorf("%s %s: %w", r.Method, host, err)
	case <-ctx.Done():
		rt.l.post(func() { rt.l.drop(a, host) })
		return nil, fmt.Errorf("%s %s over a link between boxes: %w", r.Method, host, ctx.Err())
	}
}

// Reaches says whether a server is a paired box that some transport has in reach now.
func (l *Link) Reaches(server string) bool {
	for _, s := range l.Status() {
		if s.Peer.Server == server {
			return s.Carries != ""
		}
	}
	return false
}

// Rate is the rate in bit/s of the way that carries to a server; 0 when it is out of reach.
func (l *Link) Rate(server string) int {
	for _, s := range l.Status() {
		if s.Peer.Server == server && s.Carries != "" {
			return s.BitsPerSecond
		}
	}
	return 0
}

func (l *Link) start(a *ask, server string) {
	var f *far
	for _, o := range l.fars {
		if o.p.Server == server {
			f = o
		}
	}
	if f == nil || f.active == nil || !f.active.near() {
		a.err <- errUnreachable
		return
	}
	f.nextAsk++
	a.request.ID = f.nextAsk
	f.asks[a.request.ID] = a
	l.c.Observe(Event{What: "asked", Peer: f.p, Transport: f.active.t.Name(), Note: a.request.Method + " " + pathOf(a.request.Target)})
	f.pump()
}

func (l *Link) drop(a *ask, server string) {
	for _, f := range l.fars {
		if f.p.Server == server && f.asks[a.request.ID] == a {
			delete(f.asks, a.request.ID)
		}
	}
}

func (f *far) fail(id uint32, err error) {
	if a := f.asks[id]; a != nil {
		delete(f.asks, id)
		a.err <- err
	}
}

// ask puts requests that are not under way into the queues: new ones, and those of before a change of transport.
func (f *far) ask() {
	for id, a := range f.asks {
		if a.sent {
			continue
		}
		a.sent = true
		if f.active != nil && f.active.open && !a.clear {
			f.askOpenly(id, a)
			continue
		}
		if a.short != nil && f.mayHear(parcel.FeatureSend) && !(f.active != nil && f.active.open) {
			p := *a.short
			p.ID = id
			f.sure(a.priority, &p)
			continue
		}
		f.sendBody(a.priority, id, false, a.request.Body, func(first []byte, more bool) parcel.Parcel {
			q := *a.request
			q.Body, q.More = first, more
			return &q
		})
	}
}

// chunkSize is how much of a packed body goes into one message.
func (f *far) chunkSize() int {
	if f.active != nil && f.active.slow() {
		return max(400, f.active.limit())
	}
	return 30 << 10
}

// sendBody queues a request or response with its body, in chunks where it is long. A part that does not arrive goes again
// by itself as long as both ends remember the conversation; after that the asking side begins anew.
func (f *far) sendBody(priority int, id uint32, answer bool, content []byte, head func(first []byte, more bool) parcel.Parcel) {
	if len(content) <= 24<<10 { // packed with the head, it surely fits one message
		f.sure(priority, head(content, false))
		return
	}
	packed := f.pack(content)
	size := f.chunkSize()
	first := min(size, len(packed))
	f.sure(priority, head(packed[:first], true))
	for at := first; at < len(packed); at += size {
		end := min(at+size, len(packed))
		f.sure(max(priority, parcel.Routine), &parcel.Chunk{ID: id, Answer: answer, Offset: uint64(at), Last: end == len(packed), Data: packed[at:end]})
	}
}

// sure queues a part of a request or response; it goes again until it has arrived.
func (f *far) sure(priority int, p parcel.Parcel) {
	session := f.session
	f.enqueue(priority, p, func(arrived bool) {
		if !arrived && !f.closed && f.session == session && !f.pointless(p) {
			f.sure(priority, p)
		}
	})
}

// pack packs a body as the far end reads it.
func (f *far) pack(content []byte) []byte {
	if f.session == nil {
		return f.l.codec.Pack(content)
	}
	return f.session.Pack(content)
}

// dropBodies forgets what waits to be sent of requests and responses: the far end has lost what came before.
func (f *far) dropBodies() {
	for i, q := range f.queues {
		f.queues[i] = slices.DeleteFunc(q, func(e entry) bool {
			k := e.p.Kind()
			return k == parcel.KindRequest || k == parcel.KindResponse || k == parcel.KindChunk || k == parcel.KindSend
		})
	}
	for _, a := range f.asks {
		a.sent, a.clear = false, false
	}
}

// body is a long body that is being put together. Parts may come in any order, more than once and cut in other ways.
type body struct {
	head  parcel.Parcel // nil: not here yet
	data  []byte
	have  []stretch // what of data is here: in order, apart from each other
	total int       // 0: the last part is not here yet
}

type stretch struct{ from, to int }

// put adds a part; false when it reaches too far.
func (b *body) put(at uint64, part []byte) bool {
	if at > maxBody || len(part) > maxBody-int(at) {
		return false
	}
	n := stretch{int(at), int(at) + len(part)}
	if n.to > len(b.data) {
		b.data = append(b.data, make([]byte, n.to-len(b.data))...)
	}
	copy(b.data[n.from:], part)
	b.have = append(b.have, n)
	slices.SortFunc(b.have, func(x, y stretch) int { return x.from - y.from })
	joined := b.have[:1]
	for _, s := range b.have[1:] {
		last := &joined[len(joined)-1]
		if s.from <= last.to {
			last.to = max(last.to, s.to)
			continue
		}
		joined = append(joined, s)
	}
	b.have = joined
	return true
}

// whole says whether all parts are here.
func (b *body) whole() bool {
	return b.head != nil && b.total > 0 && len(b.have) == 1 && b.have[0] == (stretch{0, b.total})
}

type chunkName struct {
	id     uint32
	answer bool
}

func (f *far) assemble(n chunkName) *body {
	b := f.bodies[n]
	if b == nil {
		if len(f.bodies) > 64 {
			clear(f.bodies) // their senders ask again
		}
		b = &body{}
		f.bodies[n] = b
	}
	return b
}

func (f *far) chunk(c *parcel.Chunk) {
	n := chunkName{c.ID, c.Answer}
	b := f.assemble(n)
	if c.Last {
		b.total = int(min(c.Offset, maxBody)) + len(c.Data)
	}
	f.complete(n, b, b.put(c.Offset, c.Data))
}

func (f *far) begun(n chunkName, head parcel.Parcel, first []byte) {
	b := f.assemble(n)
	b.head = head
	f.complete(n, b, b.put(0, first))
}

// complete hands a body on when all its parts are here.
func (f *far) complete(n chunkName, b *body, fits bool) {
	if !fits {
		delete(f.bodies, n)
		f.l.log.Warn("body too long", "peer", f.p.Server)
		return
	}
	if !b.whole() {
		return
	}
	delete(f.bodies, n)
	content, err := f.l.codec.Unpack(b.data[:b.total], maxBody)
	if err != nil {
		f.l.log.Warn("body could not be unpacked", "peer", f.p.Server, "err", err)
		return
	}
	switch h := b.head.(type) {
	case *parcel.Request:
		h.Body, h.More = content, false
		f.serve(h)
	case *parcel.Response:
		h.Body, h.More = content, false
		f.answered(h)
	}
}

// answered hands a response to whoever waits for it.
func (f *far) answered(p *parcel.Response) {
	if p.More {
		f.begun(chunkName{p.ID, true}, p, p.Body)
		return
	}
	a := f.asks[p.ID]
	if a == nil {
		return // nobody waits any more
	}
	if p.Status == parcel.StatusWhole {
		if a.short != nil {
			a.short, a.sent = nil, false
			f.pump()
		}
		return
	}
	delete(f.asks, p.ID)
	f.l.c.Observe(Event{What: "answered", Peer: f.p, Note: a.request.Method + " " + pathOf(a.request.Target) + " " + strconv.Itoa(p.Status)})
	a.answer <- p
}

// served is a request of the far end: asked once more, it gets the same answer.
type served struct {
	response *parcel.Response // nil: still being worked on
	open     bool             // made for open language
	priority int
	at       time.Time
}

// keepAnswers is how long an answer is kept for a repeated request.
const keepAnswers = 10 * time.Minute

func (f *far) serve(q *parcel.Request) {
	if q.More {
		f.begun(chunkName{q.ID, false}, q, q.Body)
		return
	}
	if s := f.serving[q.ID]; s != nil {
		if s.response != nil {
			f.respond(s)
		}
		return
	}
	for id, s := range f.serving {
		if s.response != nil && time.Since(s.at) > keepAnswers {
			delete(f.serving, id)
		}
	}
	s := &served{priority: urgency(q.Method, pathOf(q.Target), 0), open: f.active != nil && f.active.open}
	f.serving[q.ID] = s
	f.l.work(func(ctx context.Context) func() {
		handle := f.handle
		if s.open {
			handle = f.handleOpenly
		}
		r := handle(ctx, q)
		return func() {
			if f.closed {
				return
			}
			s.response, s.at = r, time.Now()
			f.respond(s)
			f.pump()
		}
	})
}

func (f *far) respond(s *served) {
	if f.active != nil && f.active.open && !s.open {
		delete(f.serving, s.response.ID) // it was made for another way; it will be asked for again
		return
	}
	f.sendBody(s.priority, s.response.ID, true, s.response.Body, func(first []byte, more bool) parcel.Parcel {
		r := *s.response
		r.Body, r.More = first, more
		return &r
	})
}

// handle runs the handler on a request from the far end.
func (f *far) handle(ctx context.Context, q *parcel.Request) *parcel.Response {
	if f.l.c.Handler == nil {
		return &parcel.Response{ID: q.ID, Status: http.StatusNotImplemented}
	}
	u, err := url.ParseRequestURI(q.Target)
	if err != nil || u.Host != "" {
		return &parcel.Response{ID: q.ID, Status: http.StatusBadRequest}
	}
	r := (&http.Request{Method: q.Method, URL: u, RequestURI: q.Target, Host: q.To, Header: headerOf(q.Header), Proto: "HTTP/1.1", ProtoMajor: 1,
		ProtoMinor: 1, Body: io.NopCloser(bytes.NewReader(q.Body)), ContentLength: int64(len(q.Body)), RemoteAddr: "box:" + string(f.p.ID)}).WithContext(ctx)
	w := &recorder{header: http.Header{}}
	f.l.c.Handler.ServeHTTP(w, r)
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.long {
		return &parcel.Response{ID: q.ID, Status: http.StatusRequestEntityTooLarge}
	}
	return &parcel.Response{ID: q.ID, Status: w.status, Header: fieldsOf(w.header), Body: w.body.Bytes()}
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
	if w.body.Len()+len(p) > maxBody {
		w.long = true
		return 0, errTooLong
	}
	return w.body.Write(p)
}

// fieldsOf keeps the header fields that mean something at the far end; the rest only costs bytes.
func fieldsOf(h http.Header) []parcel.Field {
	var out []parcel.Field
	for name, values := range h {
		switch name {
		case "Authorization", "Content-Type", "Content-Disposition", "Retry-After", "Location":
		default:
			continue
		}
		for _, v := range values {
			if name == "Content-Type" && strings.HasPrefix(v, "application/json") {
				continue // what is not named is JSON
			}
			out = append(out, parcel.Field{Name: name, Value: v})
		}
	}
	slices.SortFunc(out, func(a, b parcel.Field) int { return strings.Compare(a.Name+a.Value, b.Name+b.Value) })
	return out
}

func headerOf(fields []parcel.Field) http.Header {
	h := http.Header{}
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/json")
	}
	return h
}

// history are the questions of servers that fill gaps. Their answers are long (a hundred events are twenty kilobytes packed, three
// minutes of a 1200 bit/s line), and what people write meanwhile must not wait behind them.
var history = []string{"/media/", "/backfill/", "/get_missing_events/", "/state/", "/state_ids/", "/event/", "/event_auth/"}

func isHistory(path string) bool {
	return slices.ContainsFunc(history, func(part string) bool { return strings.Contains(path, part) })
}

// historyBytes is what an answer with history takes on a line at most, with what else there is to say meanwhile.
const historyBytes = 40 << 10

// Patience says how long the answer to a question for history may take by the way that carries to a server's box now; 0: as long as anywhere, for that
// way, that question or that server. Whoever gives up earlier gets nothing, and asks for it again.
func (l *Link) Patience(server, path string) time.Duration {
	if !isHistory(path) {
		return 0
	}
	l.statusMu.Lock()
	c, ok := l.carriers[server]
	l.statusMu.Unlock()
	if !ok {
		return 0
	}
	if _, ok := c.t.(Relay); ok {
		return askLife
	}
	if c.bps >= slowBelow {
		return 0
	}
	return min(time.Minute+historyBytes*10*time.Second/time.Duration(max(c.bps, 1)), askLife)
}

// ferriedShort is how many bytes of what a hub hands on through a box to another one (sync/hub/ferry) go among what people write to each other: keys of messages and receipts mostly. What is longer has waited at the
// hub for hours or weeks, and comes after that.
const ferriedShort = 1000

// urgency says how soon a request with so many bytes should go: people wait for joins and invites, nobody for media and history.
func urgency(method, path string, size int) int {
	switch {
	case path == api.FerriedPath && size <= ferriedShort:
		return parcel.Routine
	case isHistory(path), path == api.FerriedPath:
		return parcel.Bulk
	case strings.Contains(path, "/make_join/"), strings.Contains(path, "/send_join/"), strings.Contains(path, "/invite/"),
		strings.Contains(path, "/make_leave/"), strings.Contains(path, "/send_leave/"), method == http.MethodPost && strings.HasSuffix(path, "/claim"):
		return parcel.Immediate
	}
	return parcel.Priority
}

func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}
