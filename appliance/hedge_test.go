// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// oneWay is a way that takes its time.
type oneWay struct {
	after time.Duration
	says  string // "": it fails
	sure  bool   // and the request went nowhere

	bodies []string
	closed int
	ended  int // by who asked
}

func (o *oneWay) take(r *http.Request) (*http.Response, error) {
	body := ""
	if r.Body != nil {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(raw)
	}
	o.bodies = append(o.bodies, body)
	select {
	case <-time.After(o.after):
	case <-r.Context().Done():
		o.ended++
		return nil, r.Context().Err()
	}
	if o.says == "" && o.sure {
		return nil, notTaken{errors.New("no way")}
	}
	if o.says == "" {
		return nil, errors.New("broken")
	}
	return &http.Response{StatusCode: 200, Body: &noted{strings.NewReader(o.says), &o.closed}}, nil
}

type noted struct {
	io.Reader
	closed *int
}

func (n *noted) Close() error {
	*n.closed++
	return nil
}

// Whatever becomes of one way, the other one is tried in time, the first answer counts, and what must arrive once does.
func TestHedge(t *testing.T) {
	const wait, never = 10 * time.Second, time.Hour
	for name, tt := range map[string]struct {
		first, second oneWay
		once          bool
		want          string // answer, way and seconds
	}{
		"the first answers":             {oneWay{after: time.Second, says: "a"}, oneWay{says: "b"}, false, "a 0 1s"},
		"the first fails":               {oneWay{after: time.Second}, oneWay{after: time.Second, says: "b"}, false, "b 1 2s"},
		"the first went nowhere":        {oneWay{sure: true}, oneWay{says: "b"}, true, "b 1 0s"},
		"the first is silent":           {oneWay{after: never}, oneWay{after: time.Second, says: "b"}, false, "b 1 11s"},
		"the first is slow, no second":  {oneWay{after: 15 * time.Second, says: "a"}, oneWay{}, false, "a 0 15s"},
		"the first fails late":          {oneWay{after: 15 * time.Second}, oneWay{after: 10 * time.Second, says: "b"}, false, "b 1 20s"},
		"both fail":                     {oneWay{}, oneWay{}, false, "broken; and the other way: broken 0s"},
		"once: silence is no refusal":   {oneWay{after: 15 * time.Second, says: "a"}, oneWay{says: "b"}, true, "a 0 15s"},
		"once: it may have got through": {oneWay{after: time.Second}, oneWay{says: "b"}, true, "broken 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://far.test/x", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				if !tt.once {
					req.Header["Idempotency-Key"] = []string{}
				}
				began := time.Now()
				resp, way, err := hedge(req, wait, [2]roundTrip{tt.first.take, tt.second.take})
				got := fmt.Sprint(err, " ", time.Since(began))
				if err == nil {
					text, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					got = fmt.Sprint(string(text), " ", way, " ", time.Since(began))
					if err := resp.Body.Close(); err != nil {
						t.Error(err)
					}
				}
				if got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
				synctest.Wait()
				for i, o := range []*oneWay{&tt.first, &tt.second} {
					if len(o.bodies) > 1 || len(o.bodies) == 1 && o.bodies[0] != "body" {
						t.Errorf("way %d was given %q", i, o.bodies)
					}
				}
				if tt.first.after == never && tt.first.ended != 1 {
					t.Error("the one that nobody waits for goes on")
				}
			})
		})
	}
}

// An answer that comes too late is closed.
func TestHedgeClosesTheLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := oneWay{after: 11 * time.Second, says: "a"}, oneWay{after: time.Second, says: "b"}
		deaf := func(r *http.Request) (*http.Response, error) { // it does not hear that nobody wants it any more
			return first.take(r.WithContext(t.Context()))
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://far.test/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, way, err := hedge(req, 10*time.Second, [2]roundTrip{deaf, second.take})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if resp.Body.Close(); first.closed+second.closed != 2 {
			t.Errorf("way %d answered; closed %d and %d", way, first.closed, second.closed)
		}
	})
}
