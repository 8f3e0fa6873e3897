// SPDX-License-Identifier: EUPL-1.2

package steward

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// door serves h at a unix socket and gives a client of it.
func door(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return Dial(socket)
}

func TestClientSaysWhatTheDoorExpects(t *testing.T) {
	var got string
	c := door(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.RequestURI + " " + string(body)
		w.WriteHeader(http.StatusAccepted)
	})
	ctx := t.Context()
	for _, tc := range []struct {
		call func() error
		want string
	}{
		{func() error { return c.Update(ctx, strings.NewReader("file")) }, "POST /update file"},
		{func() error { return c.UpdateFrom(ctx, "/run/hallig/sticks/a b/x.hallig-update") }, "POST /update?path=%2Frun%2Fhallig%2Fsticks%2Fa+b%2Fx.hallig-update "},
		{func() error { return c.StartUpdate(ctx) }, "POST /update/start "},
		{func() error { return c.UpdateBack(ctx) }, "POST /update/back "},
		{func() error { return c.Reboot(ctx) }, "POST /reboot "},
		{func() error { return c.PowerOff(ctx) }, "POST /poweroff "},
		{func() error { return c.FactoryReset(ctx, "box.example") }, `POST /factory-reset {"confirm":"box.example"}`},
		{func() error { return c.SetClock(ctx, time.Unix(0, 0).UTC()) }, `PUT /clock {"time":"1970-01-01T00:00:00Z"}`},
		{func() error { return c.SetLED(ctx, LEDLook) }, `PUT /led {"state":"look"}`},
		{func() error { return c.Eject(ctx, "KINGSTON 8/G") }, "POST /stick/KINGSTON%208%2FG/eject "},
		{func() error { return c.WriteStick(ctx, "A") }, "PUT /stick/A/write "},
		{func() error { return c.UpdateFile(ctx, io.Discard) }, "GET /update/file "},
		{func() error { return c.Log(ctx, "hallig", io.Discard) }, "GET /log?process=hallig "},
	} {
		if err := tc.call(); err != nil {
			t.Errorf("%s: %v", tc.want, err)
		}
		if got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestRefusalIsASentence(t *testing.T) {
	want := Text{De: "Die Datei ist zu alt.", En: "The file is too old."}
	c := door(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusConflict)
		json.NewEncoder(w).Encode(Answer{want})
	})
	var got Text
	if err := c.StartUpdate(t.Context()); !errors.As(err, &got) || got != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestRefusalWithoutSentence(t *testing.T) {
	c := door(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	if _, err := c.State(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v, want the status", err)
	}
}

func TestAbsent(t *testing.T) {
	c := Dial(filepath.Join(t.TempDir(), "none"))
	if _, err := c.State(t.Context()); !errors.Is(err, ErrAbsent) {
		t.Errorf("got %v, want ErrAbsent", err)
	}
}

func TestStateTravels(t *testing.T) {
	want := State{Version: "1", Release: 3, Slot: "b", Sticks: []Stick{{Name: "x", Updates: []Bundle{{Path: "/p", Newer: true}}}}, Trouble: []Text{{"a", "b"}}}
	c := door(t, func(w http.ResponseWriter, r *http.Request) { json.NewEncoder(w).Encode(want) })
	got, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("got %s, want %s", a, b)
	}
}

func TestDecode(t *testing.T) {
	for body, ok := range map[string]bool{
		`{"confirm":"x"}`:                                 true,
		`{"confirm":"x","more":1}`:                        false,
		`{"confirm":"x"} {}`:                              false,
		`{"confirm":"` + strings.Repeat("x", 5000) + `"}`: false,
		``: false,
	} {
		var c Confirm
		if err := Decode(strings.NewReader(body), &c); (err == nil) != ok {
			t.Errorf("%.40q: %v, want ok %v", body, err, ok)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(`{"time":"2026-01-01T00:00:00Z"}`)
	f.Fuzz(func(t *testing.T, body string) {
		var v Time
		if Decode(strings.NewReader(body), &v) == nil && !json.Valid([]byte(body)) {
			t.Errorf("took %q", body)
		}
	})
}
