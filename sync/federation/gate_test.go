// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// never is a body that must not be read.
type never struct{ t *testing.T }

func (n never) Read([]byte) (int, error) {
	n.t.Error("the body was read")
	return 0, io.EOF
}

// stuck is a body that does not come.
type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestTooLongBodyIsNotRead(t *testing.T) {
	local := Local{Server: "a", Key: testKey(0)}
	h := NewHandler(HandlerConfig{Locals: Only(local), Ring: NewKeyRing(KeyRingConfig{Locals: Only(local)})})
	r := httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/send/1", never{t})
	r.ContentLength = maxRequest + 1
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), "M_TOO_LARGE") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// So many bodies may be on their way; the next sender is told to come again, and gets in when one has ended. Long ones that do not come keep no small one out.
func TestBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		ctx, hangUp := context.WithCancel(t.Context())
		stick := func(n int, size int64) {
			for range n {
				go func() {
					r := httptest.NewRequest(http.MethodPut, "/", stuck{ctx})
					r.ContentLength = size
					if _, _, err := g.body(httptest.NewRecorder(), r); err == nil {
						t.Error("a body that never came was read")
					}
				}()
			}
			synctest.Wait()
		}
		one := func(size int) error {
			text := strings.Repeat(" ", size)
			r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader(text))
			raw, release, err := g.body(httptest.NewRecorder(), r)
			if err == nil {
				defer release()
				if string(raw) != text {
					t.Errorf("read %d bytes of %d", len(raw), size)
				}
			}
			return err
		}
		full := func(size int) {
			t.Helper()
			if began, err := time.Now(), one(size); !errors.Is(err, ErrBusy) || time.Since(began) != gateWait {
				t.Errorf("full, %d bytes: %v after %v", size, err, time.Since(began))
			}
		}
		stick(maxBodies/maxRequest, -1)
		full(smallBody + 1)
		if err := one(smallBody); err != nil {
			t.Errorf("a small one behind long ones that do not come: %v", err)
		}
		stick(maxSmall/smallBody, smallBody)
		full(2)
		hangUp()
		synctest.Wait()
		for _, size := range []int{2, smallBody + 1} {
			if err := one(size); err != nil {
				t.Errorf("with room, %d bytes: %v", size, err)
			}
		}
	})
}

// dripping is a body that comes at a rate, and the connection that it comes on.
type dripping struct {
	http.ResponseWriter
	rate int // bytes a second
	left int
	cut  chan struct{}
}

func (d *dripping) Read(p []byte) (int, error) {
	n := min(len(p), d.left, 4<<10)
	if d.left -= n; n == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(time.Duration(n) * time.Second / time.Duration(d.rate)):
		return n, nil
	case <-d.cut:
		return 0, os.ErrDeadlineExceeded
	}
}

func (d *dripping) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		close(d.cut)
	}
	return nil
}

// Bodies that trickle keep their places only for as long as nobody else wants one; who is hung up on may come again, and who keeps pace stays.
func TestTricklesGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		const size = maxBodies / 8
		ended := map[int]error{}
		var mu sync.Mutex
		var all sync.WaitGroup
		come := func(i, rate int) {
			all.Go(func() {
				d := &dripping{httptest.NewRecorder(), rate, size, make(chan struct{})}
				r := httptest.NewRequest(http.MethodPut, "/", d)
				r.ContentLength = size
				_, release, err := g.body(d, r)
				if err == nil {
					release()
				}
				mu.Lock()
				ended[i] = err
				mu.Unlock()
			})
		}
		for i := range 8 {
			come(i, map[bool]int{true: bodyRate, false: bodyRate / 2}[i == 0])
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(bodyWait / 2)
		if len(ended) != 0 {
			t.Fatalf("ended before anybody else came: %v", ended)
		}
		for i := range 2 {
			began := time.Now()
			come(8+i, size)
			time.Sleep(3 * time.Second)
			if err, ok := ended[8+i]; !ok || err != nil {
				t.Errorf("a fast one, after %v: %v %v", time.Since(began), ok, err)
			}
			if err := ended[1+i]; !errors.Is(err, ErrBusy) {
				t.Errorf("the oldest that trickles: %v", err)
			}
			if i == 0 && len(ended) != 2 {
				t.Errorf("ended: %v", ended)
			}
			come(20+i, bodyRate/2) // takes the place again
			time.Sleep(time.Second)
		}
		if err, ok := ended[0]; ok {
			t.Errorf("the one that kept pace: %v", err)
		}
		all.Wait()
	})
}

// Strangers' keys are fetched by so many at once; who is known waits for nobody.
func TestKeyFetchesOfStrangersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := Local{Server: "a", Key: testKey(0)}
		var asked atomic.Int64
		ctx, hangUp := context.WithCancel(t.Context())
		defer hangUp()
		ring := NewKeyRing(KeyRingConfig{Locals: Only(local), Fetch: func(context.Context, string) ([]byte, error) {
			asked.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		friend := Local{Server: "friend", Key: testKey(1)}
		theirs := NewKeyRing(KeyRingConfig{Locals: Only(friend)})
		if err := ring.Learn(t.Context(), must[[]byte](t)(theirs.Document(friend)), SourceTLS); err != nil {
			t.Fatal(err)
		}
		g := newGate()
		for i := range 3 * maxFetches {
			go func() {
				_, err := g.key(ctx, ring, "stranger"+strings.Repeat("x", i)+".example", "ed25519:1", millis(time.Now()))
				if err == nil {
					t.Error("a key came from nowhere")
				}
			}()
		}
		synctest.Wait()
		if n := asked.Load(); n != maxFetches {
			t.Errorf("%d keys are fetched at once", n)
		}
		began := time.Now()
		if _, err := g.key(t.Context(), ring, "friend", friend.Key.ID, millis(time.Now())); err != nil || time.Since(began) != 0 {
			t.Errorf("who is known: %v after %v", err, time.Since(began))
		}
		if _, err := g.key(t.Context(), ring, "late.example", "ed25519:1", 1); !errors.Is(err, ErrBusy) {
			t.Errorf("one more stranger: %v", err)
		}
	})
}

// The servers that made a transaction's events are out of reach and let us wait: the sender has its answer in time all the same, and all is kept.
func TestTransactionDoesNotWaitForAllKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := must[*store.DB](t)(store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1}))
		defer db.Close()
		local := Local{Server: "a", Key: testKey(0)}
		ring := NewKeyRing(KeyRingConfig{Locals: Only(local), DB: db, Fetch: func(ctx context.Context, _ string) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		rooms := room.New(db, room.Identity{Server: "a", Key: local.Key}, room.Options{})
		in := NewIntake(IntakeConfig{Local: local, DB: db, Rooms: rooms, Client: NewClient(ClientConfig{Local: local, Ring: ring, Rooms: rooms, Transport: refusing{}})})
		v, _ := event.Lookup("11")
		var pdus []*event.PDU
		for i := range 20 {
			server := fmt.Sprintf("far%d.example", i)
			pdus = append(pdus, must[*event.PDU](t)(event.Build(v, event.Proto{RoomID: "!r:a", Sender: event.UserID("@u:" + server), Type: "m.room.message",
				Content: json.RawMessage(`{}`), Prev: []event.ID{"$x"}, Auth: []event.ID{"$y"}, Depth: 2, TS: time.Now().UnixMilli()}, server, testKey(1))))
		}
		began := time.Now()
		for i, err := range in.TakeAll(t.Context(), "giver.example", pdus) {
			if err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		}
		if took := time.Since(began); took > 2*keysSoon {
			t.Errorf("it took %v", took)
		}
		if err := db.View(t.Context(), func(r *store.Read) error {
			n, err := r.StagedCount("!r:a")
			if n != len(pdus) {
				t.Errorf("%d of %d are kept", n, len(pdus))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// refusing is a way to nobody.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no way")
}

// Who asked has gone: there is no event and no verdict, but an error.
func TestCheckAfterTheRequestHasEnded(t *testing.T) {
	b := newTestBox(t, testCA(t))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if ready, err := b.intake.checkSoon(gone, gone, "far.example", nil); ready != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", ready, err)
	}
}
