// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

func freshDeposited() *deposited {
	return &deposited{epoch: "e 1", users: map[event.UserID][sha256.Size]byte{}, wrong: map[event.UserID]refused{}}
}

// The hub's word on given keys is heard page by page, each crossed out before the next is asked for; a hub that never comes to an end costs one round.
func TestGivenKeysAreHeardToTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		page  func(after int64) api.Given
		asked int
		after int64
		fails string
	}{
		"three pages": {func(after int64) api.Given {
			return api.Given{Epoch: "e 1", Keys: []api.GivenKey{{Place: after + 5, ID: fmt.Sprint("a:", after)}}, More: after < 10}
		}, 3, 15, ""},
		"nothing":            {func(int64) api.Given { return api.Given{Epoch: "e 1"} }, 1, 0, ""},
		"more, and no names": {func(int64) api.Given { return api.Given{Epoch: "e 1", More: true} }, 1, 0, "does not name them"},
		"the same again":     {func(int64) api.Given { return api.Given{Epoch: "e 1", Keys: []api.GivenKey{{Place: 7}}, More: true} }, 2, 7, "does not name them"},
		"without end": {func(after int64) api.Given {
			return api.Given{Epoch: "e 1", Keys: []api.GivenKey{{Place: after + 1}}, More: true}
		}, givenPages, givenPages, "in the next"},
		"another memory": {func(int64) api.Given { return api.Given{Epoch: "e 2", Keys: []api.GivenKey{{Place: 1}}} }, 1, 0, "replaced"},
	} {
		t.Run(name, func(t *testing.T) {
			d, asked, crossed := freshDeposited(), 0, int64(0)
			err := hearGivenKeys(t.Context(), func(_ context.Context, _, uri string, _ []byte, out any) error {
				asked++
				u, err := url.Parse(uri)
				if err != nil {
					t.Fatal(err)
				}
				var after int64
				fmt.Sscan(u.Query().Get("after"), &after)
				if u.Query().Get("epoch") != "e 1" || after != crossed {
					t.Errorf("asked %s, with all up to %d crossed out", uri, crossed)
				}
				*out.(*api.Given) = tt.page(after)
				return nil
			}, func(_ context.Context, keys []account.GivenKey) error {
				crossed += tt.page(crossed).Keys[len(keys)-1].Place - crossed
				return nil
			}, d)
			if asked != tt.asked || d.after != tt.after || (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("asked %d times, then after %d, %v; want %d, %d, %q", asked, d.after, err, tt.asked, tt.after, tt.fails)
			}
		})
	}
}

// A user whom the hub refuses holds up nobody else, and is offered again when something has changed, or with the next look at all.
func TestRefusedUserHoldsNobodyUp(t *testing.T) {
	d := freshDeposited()
	var put []string
	status := map[string]int{"@big:b.test": http.StatusRequestEntityTooLarge, "@odd:b.test": http.StatusBadRequest}
	offer := func(again bool, profile string) error {
		put = nil
		for _, user := range []event.UserID{"@anna:b.test", "@big:b.test", "@odd:b.test", "@zoe:b.test"} {
			err := putUser(t.Context(), func(_ context.Context, _, uri string, _ []byte, _ any) error {
				name, err := url.PathUnescape(strings.TrimPrefix(strings.Split(uri, "?")[0], api.UserPath))
				if err != nil {
					t.Fatal(err)
				}
				put = append(put, name)
				if s := status[name]; s != 0 {
					return &hubRefusal{s, "no"}
				}
				return nil
			}, d, user, api.User{Profile: json.RawMessage(profile)}, again)
			if err != nil {
				return err
			}
		}
		return nil
	}
	for _, step := range []struct {
		what    string
		again   bool
		profile string
		want    string
		wrong   int
	}{
		{"first", true, `{}`, "@anna:b.test @big:b.test @odd:b.test @zoe:b.test", 2},
		{"at once", false, `{}`, "", 2},
		{"an hour later", true, `{}`, "@big:b.test @odd:b.test", 2},
		{"something has changed", false, `{"a":1}`, "@anna:b.test @big:b.test @odd:b.test @zoe:b.test", 2},
	} {
		if err := offer(step.again, step.profile); err != nil || strings.Join(put, " ") != step.want || len(d.wrong) != step.wrong {
			t.Errorf("%s: %v, %v, %d are refused", step.what, put, err, len(d.wrong))
		}
	}
	status = map[string]int{}
	if err := offer(true, `{"a":1}`); err != nil || len(d.wrong) != 0 {
		t.Errorf("the hub takes them: %v, %v", err, d.wrong)
	}
	status = map[string]int{"@anna:b.test": http.StatusServiceUnavailable}
	if err := offer(true, `{"a":2}`); err == nil || len(put) != 1 || len(d.wrong) != 0 {
		t.Errorf("the hub cannot take anything now: %v, %v", put, err)
	}
}

// What changes while no hub is in reach is not collected by name for ever.
func TestTouchedUsersAreBounded(t *testing.T) {
	var some touched
	for i := range 3 * touchedMost {
		some.add(event.UserID(fmt.Sprint("@u", i, ":b.test")))
		if len(some.users) > touchedMost || some.none() {
			t.Fatalf("after %d: %d by name, none %v", i, len(some.users), some.none())
		}
	}
	if !some.all || some.users != nil {
		t.Errorf("all %v, %d by name", some.all, len(some.users))
	}
	h := &hubParts{touchedRooms: map[event.RoomID]bool{}}
	for _, up := range []bool{false, true} {
		h.up = up
		h.changed(store.Commit{Users: []event.UserID{"@anna:b.test"}, Rooms: []event.RoomID{"!r:b.test"}})
		if h.touched.none() == up || len(h.touchedRooms) > 0 != up {
			t.Errorf("hub in reach %v: remembered %v, %v", up, h.touched.users, h.touchedRooms)
		}
	}
}
