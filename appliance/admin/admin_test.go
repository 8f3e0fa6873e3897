// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hallig/appliance/health"
)

func options(t *testing.T) Options {
	return Options{
		Status: func(context.Context) (Status, error) { return Status{ServerName: "box.example", Accounts: 3}, nil },
		Health: func(context.Context) health.Tree {
			return health.Judge(health.Facts{Database: &health.Probe{}, Homeserver: &health.Probe{Err: "no answer"}, Links: &health.Probe{}})
		},
		ShowCode: func(context.Context) (PairCode, error) { return PairCode{Code: "1234", Expires: time.Unix(60, 0)}, nil },
		Take: func(_ context.Context, code, _ string) (Peer, error) {
			if code != "1234" {
				return Peer{}, &Refusal{Text: "this code is wrong; show a new one with: hallig pair"}
			}
			return Peer{ID: "12D3"}, nil
		},
		Forget:   func(context.Context, string) error { return errors.New("disk on fire") },
		NewToken: func(_ context.Context, uses int, admin bool) (string, error) { return "tok", nil },
		Courier: func(_ context.Context, o CourierOrder, note func(CourierStep)) (CourierReport, error) {
			switch o.Do {
			case "rooms":
				return CourierReport{Rooms: []CourierRoom{{ID: "!r", Name: "Lage"}}}, nil
			case "sheet":
				return CourierReport{Codes: []string{"HALLIG:1/1:ABCD:" + o.Room[1:] + o.Box}, Sentence: health.Sentence{DE: "Drei.", EN: "Three."}}, nil
			case "read":
				return CourierReport{}, &Refusal{Text: "this is not the text of a sheet", DE: "Das ist kein Blatt."}
			}
			note(CourierStep{Step: "events", Events: 7})
			return CourierReport{Full: true, Sentence: health.Sentence{DE: o.Place, EN: o.Place}}, nil
		},
		Watch: func(_ context.Context, f func(Travel) error) error {
			return errors.Join(f(Travel{What: "sent", Event: "$1"}), f(Travel{What: "kept", Event: "$1"}))
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func TestLocalAPI(t *testing.T) {
	tests := []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"status", "GET", "/status", "", 200, `"accounts":3`},
		{"health", "GET", "/health", "", 200, `"state":"trouble"`},
		{"show", "POST", "/pair/show", "", 200, `"code":"1234"`},
		{"take", "POST", "/pair/take", `{"code":"1234"}`, 200, `"id":"12D3"`},
		{"wrong code tells the next step", "POST", "/pair/take", `{"code":"9"}`, 400, "hallig pair"},
		{"unknown field", "POST", "/pair/take", `{"kode":"1"}`, 400, "kode"},
		{"not JSON", "POST", "/token", `uses=1`, 400, "not the JSON"},
		{"token", "POST", "/token", `{"uses":1}`, 200, `"token":"tok"`},
		{"inner error stays in the log", "POST", "/pair/forget", `{"id":"x"}`, 500, "its log says why"},
		{"commentary", "GET", "/watch", "", 200, `"what":"kept","event":"$1"`},
		{"courier tells how far it is", "POST", "/courier", `{"do":"export","place":"/stick"}`, 200, `{"step":{"step":"events","events":7,"bytes":0}}` + "\n" + `{"report":{"boxes":null,"full":true`},
		{"courier refuses", "POST", "/courier", `{"do":"read","text":"x"}`, 200, `{"error":"this is not the text of a sheet"}`},
		{"wrong method", "DELETE", "/status", "", 405, ""},
	}
	h := NewHandler(options(t))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, strings.NewReader(tt.body)))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("got %d %s, want %d with %q", w.Code, w.Body, tt.status, tt.want)
			}
			if strings.Contains(w.Body.String(), "fire") {
				t.Errorf("the cause went to the client: %s", w.Body)
			}
			if w.Code == http.StatusOK && tt.path != "/watch" && tt.path != "/courier" && w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("content type %q", w.Header().Get("Content-Type"))
			}
		})
	}
}
