// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/sync/hub/spool"
)

// What the box takes from nobody holds up nobody else, under however many names it was sent.
func TestWhatIsNotTakenHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.away()
	const strangers = 3 * playQueues
	for n := range strangers {
		q := spool.Queue{Box: "box1.test", Other: fmt.Sprintf("a%d.test", n), In: true}
		r := spool.Request{Key: "k", Method: "PUT", URI: sendPath + "stranger", Authorization: "X-Matrix stranger", Body: []byte(`{}`)}
		if _, err := w.spool.Append(t.Context(), q, time.Now(), r); err != nil {
			t.Fatal(err)
		}
	}
	uri, header, body := w.far.transaction("box1.test", 1)
	w.ask("box1.test", "PUT", uri, header, body)
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "stranger") {
			answer(w, 401, map[string]string{})
		}
	})
	b.back()
	w.await("what can be taken to be taken", func() bool { return w.waiting("box1.test") == strangers })
}

// What failed rests for longer each time, comes after what flows and leaves it half of the places; in every group those come first who have waited for longest.
func TestTurns(t *testing.T) {
	queues := func(names ...string) (out []spool.Waiting) {
		for _, n := range names {
			out = append(out, spool.Waiting{Queue: spool.Queue{Box: "box1.test", Other: n, In: true}})
		}
		return out
	}
	names := func(qs []spool.Queue) (out []string) {
		for _, q := range qs {
			out = append(out, q.Other)
		}
		return out
	}
	now, ts := time.Unix(1000, 0), newTurns()
	bad := []string{"a", "b", "c", "d", "e", "f"}
	begin, _ := ts.next(append(queues(bad...), spool.Waiting{Queue: spool.Queue{Box: "box1.test", Other: "out"}}), now)
	if !slices.Equal(names(begin), bad) {
		t.Fatalf("at first %v", names(begin))
	}
	for _, n := range bad {
		ts.over(n, false, true, now)
	}
	if begin, again := ts.next(queues(bad...), now); len(begin) > 0 || again != againFirst {
		t.Errorf("while all rest: %v, again in %s", names(begin), again)
	}
	now = now.Add(againFirst)
	all := append(queues(bad...), queues("x", "y")...)
	if begin, _ = ts.next(all, now); !slices.Equal(names(begin), []string{"x", "y", "a", "b", "c", "d"}) {
		t.Errorf("after the rest %v", names(begin))
	}
	if begin, _ = ts.next(all, now); len(begin) > 0 {
		t.Errorf("twice at a time: %v", names(begin))
	}
	ts.over("x", true, false, now)
	ts.over("a", false, true, now)
	ts.over("b", true, true, now)
	if begin, again := ts.next(all, now); !slices.Equal(names(begin), []string{"x", "e", "f"}) || again != againFirst {
		t.Errorf("x flows, a and b rest: %v, again in %s", names(begin), again)
	}
	now = now.Add(againFirst)
	ts.over("e", false, true, now)
	ts.over("f", false, true, now)
	if begin, again := ts.next(all, now); !slices.Equal(names(begin), []string{"b"}) || again != againFirst {
		t.Errorf("b moved, a did not: %v, again in %s", names(begin), again)
	}
	for _, n := range []string{"x", "y", "b", "c", "d"} {
		ts.over(n, true, false, now)
	}
	if ts.next(nil, now); len(ts.past) > 0 {
		t.Errorf("of empty queues it remembers %v", ts.past)
	}
	many := make([]string, 2*playQueues)
	for i := range many {
		many[i] = fmt.Sprint(10 + i)
	}
	if begin, _ = ts.next(queues(many...), now); !slices.Equal(names(begin), many[:playQueues]) {
		t.Errorf("of many %v", names(begin))
	}
	for _, n := range many[:playQueues] {
		ts.over(n, true, false, now) // more waits there
	}
	if begin, _ = ts.next(queues(many...), now); !slices.Equal(names(begin), many[playQueues:]) {
		t.Errorf("then %v", names(begin))
	}
}
