// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answers makes a box answer questions, and counts them.
func (b *box) answers() *[]string {
	got := &[]string{}
	b.courier.c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			b.t.Error(err)
		}
		*got = append(*got, fmt.Sprintf("%s %s %s %s %s", r.Method, r.Host, r.RequestURI, r.Header.Get("Authorization"), body))
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"n":%d}`, len(*got))
	})
	return got
}

type reply struct {
	text string
	err  error
}

// asks sends a question by stick; the reply comes when it comes.
func (b *box) asks(ctx context.Context, to *box, path, body string) chan reply {
	b.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "matrix-federation://"+to.name+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "X-Matrix a")
	r.Header.Set("Cookie", "secret")
	out := make(chan reply, 1)
	before := b.open(to)
	go func() { // ends with its answer, or with ctx
		resp, err := b.courier.RoundTrip(r)
		if err != nil {
			out <- reply{err: err}
			return
		}
		raw, err := io.ReadAll(resp.Body)
		out <- reply{fmt.Sprint(resp.StatusCode, " ", string(raw)), err}
	}()
	for end := time.Now().Add(10 * time.Second); b.open(to) == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("the question was not put")
		}
	}
	return out
}

func (b *box) open(to *box) int {
	q := &b.courier.questions
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.open[to.peer.ID])
}

func TestQuestions(t *testing.T) {
	_, a, b, _ := pair(t)
	atB := b.answers()
	place := t.TempDir()
	d := openStick(t, place)
	const invite = "/_matrix/federation/v2/invite/!r/$e"
	if a.courier.Serves("b.test", invite) {
		t.Error("a stick is relied on before there was one")
	}
	a.export(d)
	for path, want := range map[string]bool{invite: true, "/_matrix/federation/v1/query/profile": false} {
		if got := a.courier.Serves("b.test", path); got != want {
			t.Errorf("%s by stick: %v", path, got)
		}
	}
	if a.courier.Serves("c.test", invite) {
		t.Error("a stick leads to a box that is not paired")
	}
	one := a.asks(t.Context(), b, invite, `{"x":1}`)
	a.export(d)
	older := snapshot(t, place)
	a.export(d) // goes along until it is answered
	old := snapshot(t, place)
	in := b.imports(d)
	if want := "PUT b.test " + invite + ` X-Matrix a {"x":1}`; len(*atB) != 1 || (*atB)[0] != want || of(in, a).Asked != 1 {
		t.Errorf("asked %q, %+v", *atB, of(in, a))
	}
	b.export(d)
	if in := a.imports(d); of(in, b).Answers != 1 {
		t.Errorf("%+v", of(in, b))
	}
	if got := <-one; got.text != `202 {"n":1}` || got.err != nil {
		t.Errorf("answer %+v", got)
	}
	// What is answered does not go round for ever, and an old stick asks nothing anew.
	a.export(d)
	b.imports(d)
	b.export(d)
	for _, x := range []*box{a, b} {
		for _, e := range readIndex(d, x.peer.ID, func(n string, err error) { t.Error(n, err) }).entries {
			if e.kind == kindAsks && x == a {
				t.Error("an answered question is still on the stick")
			}
		}
	}
	restore(t, place, old)
	b.imports(d)
	if len(*atB) != 1 {
		t.Errorf("an old stick was heard: %q", *atB)
	}
	b.courier.questions = newQuestions() // as after a restart
	restore(t, place, older)
	b.imports(d)
	if len(*atB) != 1 {
		t.Errorf("an old stick was heard after a restart: %q", *atB)
	}
	// A box that was restored numbers its sticks from a lower number on, in a new epoch.
	b.courier.questions.newest[a.peer.ID] = askSerial{epoch: 1, serial: 1 << 40}
	// In reach by a link: asked there.
	two := a.asks(t.Context(), b, invite, "")
	a.courier.InReach("b.test")
	if got := <-two; !errors.Is(got.err, errInReach) {
		t.Errorf("%+v", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	three := a.asks(ctx, b, invite, "")
	stop()
	if got := <-three; !errors.Is(got.err, context.Canceled) || a.open(b) != 0 {
		t.Errorf("%+v, %d open", got, a.open(b))
	}
	// A box that is paired asks for what does not travel so.
	four := a.asks(t.Context(), b, "/_matrix/federation/v1/state/!r", "")
	a.export(d)
	b.imports(d)
	b.export(d)
	a.imports(d)
	if got := <-four; !strings.HasPrefix(got.text, "400") || len(*atB) != 1 {
		t.Errorf("%+v, asked %q", got, *atB)
	}
}

// TestLargeAnswers: what a box asks for cannot make another hold more than goes along with one stick; the rest is answered after that.
func TestLargeAnswers(t *testing.T) {
	_, a, b, _ := pair(t)
	b.courier.c.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 3<<20))
	})
	d := openStick(t, t.TempDir())
	var open []chan reply
	for i := range 5 {
		open = append(open, a.asks(t.Context(), b, fmt.Sprintf("/_matrix/federation/v1/make_join/!r/@u%d", i), ""))
	}
	for round := 0; a.open(b) > 0; round++ {
		if round > len(open) {
			t.Fatalf("%d questions are never answered", a.open(b))
		}
		a.export(d)
		b.imports(d)
		held := 0
		for _, x := range b.courier.questions.answers[a.peer.ID] {
			held += len(x.body)
		}
		if held > maxAnswers+maxAsked {
			t.Fatalf("holds %d bytes of answers", held)
		}
		b.export(d)
		a.imports(d)
	}
	for _, c := range open {
		if got := <-c; got.err != nil || !strings.HasPrefix(got.text, "200") {
			t.Errorf("%.20s, %v", got.text, got.err)
		}
	}
}

// TestJoinBesideTheSignedInvite: one trip brings the signed invite and the question of who was invited. The invite becomes an event only beside the
// import; the question is not refused because of that. Without a signed invite a refusal is one at once.
func TestJoinBesideTheSignedInvite(t *testing.T) {
	const join = "/_matrix/federation/v1/make_join/!r/@b:b.test"
	_, a, b, _ := pair(t)
	b.answers()
	calls := 0
	a.courier.c.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls <= 3 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, "{}")
	})
	d := openStick(t, t.TempDir())
	for _, tc := range []struct {
		invite bool
		before int // calls that count towards the three refusals
		calls  int
		want   string
	}{{false, 0, 1, "403 "}, {true, 1, 3, "200 {}"}} {
		calls = tc.before
		if tc.invite {
			one := a.asks(t.Context(), b, "/_matrix/federation/v2/invite/!r/$e", "{}")
			defer func() { <-one }()
		}
		a.export(d)
		b.imports(d)
		two := b.asks(t.Context(), a, join, "")
		b.export(d)
		a.imports(d)
		a.export(d)
		b.imports(d)
		if got := <-two; got.err != nil || got.text != tc.want {
			t.Errorf("with a signed invite %v: %+v, want %q", tc.invite, got, tc.want)
		}
		if n := calls - tc.before; n != tc.calls {
			t.Errorf("with a signed invite %v: asked %d times, want %d", tc.invite, n, tc.calls)
		}
	}
}
