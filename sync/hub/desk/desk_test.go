// SPDX-License-Identifier: EUPL-1.2

package desk

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// ask asks in the name of an origin and says with which status that ended. It is told of nothing before hear is closed.
func ask(ctx context.Context, d *Desk, origin string, hear chan struct{}) chan int {
	done := make(chan int, 1)
	r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	go func() { // the test waits for it
		done <- d.Answer(httptest.NewRecorder(), r, origin, func(w http.ResponseWriter, _ *http.Request) bool {
			<-hear
			w.WriteHeader(http.StatusOK)
			return true
		})
	}()
	return done
}

// Who does not read what it is told keeps places from itself alone.
func TestPlacesOfOneOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(8, time.Minute)
		at := make(chan struct{})
		close(at)
		hear := make(chan struct{})
		slow := []chan int{ask(t.Context(), d, "far.test", hear), ask(t.Context(), d, "far.test", hear)}
		synctest.Wait()
		third := ask(t.Context(), d, "far.test", at)
		synctest.Wait()
		if got := <-ask(t.Context(), d, "box2.test", at); got != 200 {
			t.Errorf("another one is answered %d", got)
		}
		if got := <-third; got != 0 {
			t.Errorf("a third one at once: %d", got)
		}
		ctx, hangUp := context.WithCancel(t.Context())
		fourth := ask(ctx, d, "far.test", at)
		hangUp()
		if got := <-fourth; got != 0 {
			t.Errorf("one that has hung up: %d", got)
		}
		close(hear)
		for _, s := range slow {
			if got := <-s; got != 200 {
				t.Errorf("a slow one: %d", got)
			}
		}
		if got := <-ask(t.Context(), d, "far.test", at); got != 200 {
			t.Errorf("afterwards it is answered %d", got)
		}
		if len(d.shares) > 0 {
			t.Errorf("%d shares are left", len(d.shares))
		}
	})
}

// However many ask, no more than there are places are answered at once.
func TestPlacesOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(2, time.Minute)
		hear := make(chan struct{})
		a, b := ask(t.Context(), d, "a", hear), ask(t.Context(), d, "b", hear)
		synctest.Wait()
		if got := <-ask(t.Context(), d, "c", hear); got != 0 {
			t.Errorf("beyond the places: %d", got)
		}
		close(hear)
		if x, y := <-a, <-b; x != 200 || y != 200 {
			t.Errorf("%d %d", x, y)
		}
	})
}

// trickling takes each piece in the end, without heed to deadlines.
type trickling struct {
	http.ResponseWriter
	until time.Time
}

func (w trickling) Write(b []byte) (int, error) {
	time.Sleep(time.Until(w.until))
	return len(b), nil
}

// Who takes each piece of an answer just in time does not get more time for the whole.
func TestTricklingReaderEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Minute)
		w := trickling{httptest.NewRecorder(), end}
		c := &timed{ResponseWriter: w, out: http.NewResponseController(w), end: end}
		if n, err := c.Write(make([]byte, 3*piece)); n != piece || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
	})
}
