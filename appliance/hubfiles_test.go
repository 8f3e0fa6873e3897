// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/sync/hub/api"
	"hallig/tools/matrixclient"
)

// TestPhotosOfAnAbsentBox: somebody far away opens what people of a box have sent before it went away, in clear and in encrypted rooms. What the box has to itself the hub never gets.
func TestPhotosOfAnAbsentBox(t *testing.T) {
	a := newLonely(t)
	ctx, id := t.Context(), must[string](t)
	anna, carl := a.box.phone("anna"), a.far.phone("carl")
	files := map[string][]byte{}
	upload := func(what, typ, name string, n int) string {
		t.Helper()
		file := make([]byte, n)
		_, _ = rand.Read(file) // never fails
		mxc := id(anna.Upload(ctx, typ, name, bytes.NewReader(file)))
		files[mxc] = file
		t.Logf("%s is %s", what, mxc)
		return mxc
	}
	send := func(room string, content map[string]any) {
		t.Helper()
		anna.until("her own photo", anna.has(id(anna.Send(ctx, room, "m.room.message", anna.NextTxn(), content))))
	}
	room := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"}))
	hidden := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", InitialState: []map[string]any{{"type": "m.room.encryption", "state_key": "", "content": map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}}}}))
	for _, r := range []string{room, hidden} {
		id(carl.Join(ctx, r, "box1.test"))
	}
	alone := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat"}))

	photo, thumb := upload("the photo", "image/jpeg", "Deich.jpg", 400_000), upload("its thumbnail", "image/jpeg", "", 10_000)
	send(room, map[string]any{"msgtype": "m.image", "body": "Deich.jpg", "url": photo, "info": map[string]any{"thumbnail_url": thumb}})
	face := upload("an avatar", "image/png", "ich.png", 5000)
	id(anna.SetState(ctx, room, "m.room.member", anna.UserID, map[string]string{"membership": "join", "displayname": "Anna", "avatar_url": face}))
	cipher := upload("a file of the encrypted room", "application/octet-stream", "", 200_000)
	id(anna.Send(ctx, hidden, "m.room.encrypted", anna.NextTxn(), map[string]string{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgA"}))
	private := upload("a photo in a room that is nobody else's", "image/jpeg", "privat.jpg", 3000)
	send(alone, map[string]any{"msgtype": "m.image", "body": "privat.jpg", "url": private})
	draft := upload("a photo that was never sent", "image/jpeg", "", 3000)

	shared := []string{photo, thumb, face, cipher}
	awaitHub(t, "the hub to have the files", func() bool { return a.status().Boxes[0].Files.Count == int64(len(shared)) })
	a.gone()
	for _, mxc := range shared {
		got, head, err := carl.Download(ctx, mxc)
		if err != nil || !bytes.Equal(got, files[mxc]) {
			t.Errorf("%s: %d bytes, %v", mxc, len(got), err)
		}
		if mxc == photo && (head.Get("Content-Type") != "image/jpeg" || !strings.Contains(head.Get("Content-Disposition"), "Deich.jpg")) {
			t.Errorf("the photo is called %q, %q", head.Get("Content-Type"), head.Get("Content-Disposition"))
		}
	}
	for _, mxc := range []string{private, draft} {
		if got, _, err := carl.Download(ctx, mxc); err == nil {
			t.Errorf("%s: %d bytes", mxc, len(got))
		}
	}
	if s := a.status(); s.Boxes[0].Files.Count != int64(len(shared)) || s.Hub.Files.Bytes != s.Boxes[0].Files.Bytes || s.Hub.Files.Full {
		t.Errorf("%+v, %+v", s.Boxes[0].Files, s.Hub.Files)
	}
}

// Which files an event names.
func TestNamedIn(t *testing.T) {
	for content, want := range map[string][]string{
		`{"url":"mxc://box1.test/abc","info":{"thumbnail_url":"mxc://box1.test/d-E_9"}}`: {"abc", "d-E_9"},
		`{"file":{"url":"mxc://box1.test/abc"},"body":"see mxc://box1.test/none"}`:       {"abc"},
		`{"url":"mxc://box1.test.example/abc"}`:                                          nil,
		`{"url":"mxc://far.test/abc","x":"mxc://box1.test/a/b","y":"mxc://box1.test/"}`:  nil,
		`{"url":"mxc://box1.test/` + strings.Repeat("a", 256) + `"}`:                     nil,
		`{"url":"mxc://box1.test/abc`:                                                    nil,
	} {
		if got := namedIn([]byte(content), "box1.test"); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", content, got, want)
		}
	}
}

func FuzzNamedIn(f *testing.F) {
	f.Add([]byte(`{"url":"mxc://box1.test/abc"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, id := range namedIn(raw, "box1.test") {
			one, err := json.Marshal(api.Files{Files: []api.File{{ID: id}}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := api.ReadFiles(one); err != nil {
				t.Fatalf("%q names %q, which no hub takes", raw, id)
			}
		}
	})
}

// Rooms are looked at anew when their ends have moved, and forgotten when they are shared no more.
func TestOfferedSee(t *testing.T) {
	var o offered
	is := func(want ...event.RoomID) {
		t.Helper()
		var got []event.RoomID
		for id, r := range o.rooms {
			if !r.looked {
				got = append(got, id)
			}
			r.looked = true
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || o.stale != (len(want) > 0) {
			t.Errorf("to be looked at: %q, %v, want %q", got, o.stale, want)
		}
		o.stale = false
	}
	tips := func(all bool, of map[string]string, gone ...string) api.Rooms {
		told := api.Rooms{All: all, Gone: gone}
		for id, tip := range of {
			told.Rooms = append(told.Rooms, api.Room{ID: id, Tips: []string{tip}})
		}
		return told
	}
	o.see(tips(true, map[string]string{"!a": "$1", "!b": "$1", "!c": "$1"}))
	is("!a", "!b", "!c")
	o.see(tips(false, map[string]string{"!a": "$2"}))
	is("!a")
	o.see(tips(true, map[string]string{"!a": "$2", "!b": "$1", "!c": "$1"}))
	is()
	o.see(tips(false, nil, "!b"))
	if !o.stale || len(o.rooms) != 2 {
		t.Errorf("%v, %d rooms", o.stale, len(o.rooms))
	}
	o.stale = false
	o.see(tips(true, map[string]string{"!c": "$1"}))
	if !o.stale || len(o.rooms) != 1 {
		t.Errorf("%v, %d rooms", o.stale, len(o.rooms))
	}
}
