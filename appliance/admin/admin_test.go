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
			if w.Code == http.StatusOK && tt.path != "/watch" && w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("content type %q", w.Header().Get("Content-Type"))
			}
		})
	}
}
