// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"net/http"
	"strings"
	"testing"
)

func TestErrors(t *testing.T) {
	b := newBox(t)
	tok := b.user("alice").Token
	big := `{"x":"` + strings.Repeat("a", maxBody) + `"}`
	for _, tc := range []struct {
		method, path, token, body string
		status                    int
		code                      string
	}{
		{"GET", "/_matrix/unknown", tok, "", 404, "M_UNRECOGNIZED"},
		{"GET", "/_matrix", "", "", 404, "M_UNRECOGNIZED"},
		{"GET", "/_matrix/client/v3/nothing", "", "", 404, "M_UNRECOGNIZED"},
		{"PUT", "/_matrix/client/v3/login", "", "{}", 405, "M_UNRECOGNIZED"},
		{"PATCH", "/_matrix/client/v3/rooms/!a:b/send/t/1", tok, "{}", 405, "M_UNRECOGNIZED"},
		{"GET", "/_matrix/client/v3/sync", "", "", 401, "M_MISSING_TOKEN"},
		{"GET", "/_matrix/client/v3/sync", "wrong", "", 401, "M_UNKNOWN_TOKEN"},
		{"POST", "/_matrix/client/v3/login", "", "{", 400, "M_NOT_JSON"},
		{"POST", "/_matrix/client/v3/login", "", "[]", 400, "M_BAD_JSON"},
		{"POST", "/_matrix/client/v3/login", "", `{"type":5}`, 400, "M_BAD_JSON"},
		{"POST", "/_matrix/client/v3/login", "", `{}`, 400, "M_MISSING_PARAM"},
		{"POST", "/_matrix/client/v3/login", "", `{"type":"m.login.magic"}`, 400, "M_UNKNOWN"},
		{"POST", "/_matrix/client/v3/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"no"}`, 403, "M_FORBIDDEN"},
		{"POST", "/_matrix/client/v3/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"nobody"},"password":"no"}`, 403, "M_FORBIDDEN"},
		{"POST", "/_matrix/client/v3/register", "", "{\"test\":\"a\x81\"}", 400, "M_NOT_JSON"},
		{"POST", "/_matrix/client/v3/register?kind=guest", "", "{}", 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"POST", "/_matrix/client/v3/register", "", `{"username":"alice"}`, 400, "M_USER_IN_USE"},
		{"POST", "/_matrix/client/v3/register", "", `{"username":"ä"}`, 400, "M_INVALID_USERNAME"},
		{"POST", "/_matrix/client/v3/createRoom", tok, big, 413, "M_TOO_LARGE"},
		{"POST", "/_matrix/client/v3/createRoom", tok, `{"room_version":"99"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"POST", "/_matrix/client/v3/createRoom", tok, `{"room_version":"1"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{"POST", "/_matrix/client/v3/createRoom", tok, `{"name":5}`, 400, "M_BAD_JSON"},
		{"POST", "/_matrix/client/v3/createRoom", tok, `{"preset":"odd"}`, 400, "M_INVALID_PARAM"},
		{"POST", "/_matrix/client/v3/createRoom", tok, `{"invite":["bob"]}`, 400, "M_INVALID_PARAM"},
		{"POST", "/_matrix/client/v3/createRoom", tok, `{"invite":["@nobody:box.example"]}`, 404, "M_NOT_FOUND"},
		{"PUT", "/_matrix/client/v3/rooms/!no:where/send/m.room.message/1", tok, `{}`, 404, "M_NOT_FOUND"},
		{"PUT", "/_matrix/client/v3/rooms/nothing/send/m.room.message/1", tok, `{}`, 400, "M_INVALID_PARAM"},
		{"GET", "/_matrix/client/v3/rooms/%ff/state", tok, "", 400, "M_INVALID_PARAM"},
		{"POST", "/_matrix/client/v3/join/%23none:box.example", tok, "", 404, "M_NOT_FOUND"},
		{"POST", "/_matrix/client/v3/join/%23none:far.example", tok, "", 404, "M_NOT_FOUND"},
		{"POST", "/_matrix/client/v3/join/!far:far.example", tok, "", 404, "M_NOT_FOUND"},
		{"GET", "/_matrix/client/v3/profile/@nobody:box.example", "", "", 404, "M_NOT_FOUND"},
		{"GET", "/_matrix/client/v3/profile/@x:far.example", "", "", 404, "M_NOT_FOUND"},
		{"PUT", "/_matrix/client/v3/user/@bob:box.example/account_data/x", tok, "{}", 403, "M_FORBIDDEN"},
		{"GET", "/_matrix/client/v3/user/@alice:box.example/account_data/none", tok, "", 404, "M_NOT_FOUND"},
		{"GET", "/_matrix/client/v3/devices/NONE", tok, "", 404, "M_NOT_FOUND"},
		{"GET", "/_matrix/client/v3/room_keys/version", tok, "", 404, "M_NOT_FOUND"},
		{"POST", "/_matrix/client/v3/keys/query", tok, `{"device_keys":{"@a:b":{"x":"y"}}}`, 400, "M_BAD_JSON"},
		{"GET", "/_matrix/client/v1/media/download/box.example/none", tok, "", 404, "M_NOT_FOUND"},
		{"GET", "/_matrix/client/v1/media/download/far.example/none", tok, "", 404, "M_NOT_FOUND"},
		{"GET", "/_matrix/client/v1/media/download/box.example/none", "", "", 401, "M_MISSING_TOKEN"},
		{"GET", "/_synapse/admin/v1/whois/x", tok, "", 404, "M_UNRECOGNIZED"},
		{"POST", "/_synapse/admin/v1/register", "", `{"nonce":"x","username":"a","password":"b","mac":"00"}`, 400, "M_UNKNOWN"},
		{"GET", "/.well-known/matrix/server", "", "", 404, "M_UNRECOGNIZED"},
	} {
		status, head, body := b.raw(tc.method, tc.path, tc.token, tc.body)
		if status != tc.status || body["errcode"] != tc.code {
			t.Errorf("%s %s %.60s: got %d %v, want %d %s", tc.method, tc.path, tc.body, status, body["errcode"], tc.status, tc.code)
		}
		if text, _ := body["error"].(string); text == "" {
			t.Errorf("%s %s: no error text", tc.method, tc.path)
		}
		if head.Get("Access-Control-Allow-Origin") != "*" || head.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: headers %v", tc.method, tc.path, head)
		}
	}
}

func TestPreflight(t *testing.T) {
	b := newBox(t)
	for _, path := range []string{"/_matrix/client/v3/sync", "/_matrix/client/v3/nothing", "/_matrix/media/v3/upload"} {
		status, head, _ := b.raw("OPTIONS", path, "", "")
		if status/100 != 2 || !strings.Contains(head.Get("Access-Control-Allow-Headers"), "Authorization") ||
			!strings.Contains(head.Get("Access-Control-Allow-Methods"), "PUT") {
			t.Errorf("OPTIONS %s: %d %v", path, status, head)
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	b := newBox(t)
	b.h.open("GET", "/_matrix/test/panic", handlerThatPanics)
	status, _, body := b.raw("GET", "/_matrix/test/panic", "", "")
	if text, _ := body["error"].(string); status != 500 || body["errcode"] != "M_UNKNOWN" || !strings.HasPrefix(text, "internal error ") {
		t.Errorf("got %d %v", status, body)
	}
	if status, _, _ := b.raw("GET", "/_matrix/client/versions", "", ""); status != 200 {
		t.Errorf("after the panic: %d", status)
	}
}

func TestRateLimit(t *testing.T) {
	b := newBox(t, func(c *Config) { c.Limits = Limits{Login: Rate{PerSecond: 0.1, Burst: 2}} })
	for i, want := range []int{403, 403, 429} {
		status, head, body := b.raw("POST", "/_matrix/client/v3/login", "", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"x"},"password":"y"}`)
		if status != want {
			t.Errorf("login %d: got %d, want %d", i, status, want)
		}
		if status == 429 {
			if ms, _ := body["retry_after_ms"].(float64); body["errcode"] != "M_LIMIT_EXCEEDED" || head.Get("Retry-After") == "" || ms <= 0 || ms > 10_000 {
				t.Errorf("429 says %v, Retry-After %q", body, head.Get("Retry-After"))
			}
		}
	}
	if status, _, _ := b.raw("GET", "/_matrix/client/v3/login", "", ""); status != 200 {
		t.Errorf("the flows are limited too: %d", status)
	}
}

func TestHomePageAndVersions(t *testing.T) {
	b := newBox(t, func(c *Config) {
		c.PublicBaseURL = "https://box.example:8443"
		c.Federation = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) })
		c.Home = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	})
	if status, _, _ := b.raw("PATCH", "/_matrix/federation/v1/version", "", ""); status != 405 {
		t.Errorf("federation: %d", status)
	}
	if status, head, _ := b.raw("GET", "/", "", ""); status != 418 || head.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("home: %d %v", status, head)
	}
	_, _, v := b.raw("GET", "/_matrix/client/versions", "", "")
	if list, _ := v["versions"].([]any); len(list) < 10 {
		t.Errorf("versions: %v", v)
	}
	_, _, wk := b.raw("GET", "/.well-known/matrix/client", "", "")
	if hs, _ := wk["m.homeserver"].(map[string]any); hs["base_url"] != "https://box.example:8443" {
		t.Errorf("well-known client: %v", wk)
	}
	if status, _, _ := b.raw("PATCH", "/.well-known/matrix/server", "", ""); status != 405 {
		t.Errorf("well-known server is not left to the federation: %d", status)
	}
}
