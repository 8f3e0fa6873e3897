// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"strings"
	"testing"
)

func testRouter() *router {
	rt := new(router)
	for _, p := range []string{
		"/_matrix/client/versions",
		"/_matrix/client/v3/rooms/{room}/state",
		"/_matrix/client/v3/rooms/{room}/state/{type}",
		"/_matrix/client/v3/rooms/{room}/state/{type}/",
		"/_matrix/client/v3/rooms/{room}/state/{type}/{key}",
		"/_matrix/client/v3/directory/room/{alias}",
		"/_matrix/client/v3/directory/list/room/{room}",
	} {
		rt.add("GET", p, &endpoint{name: p})
	}
	return rt
}

func TestRouterFind(t *testing.T) {
	rt := testRouter()
	for _, tc := range []struct{ path, want, params string }{
		{"/_matrix/client/versions", "/_matrix/client/versions", ""},
		{"/_matrix/client/versions/", "", ""},
		{"/_matrix/client/r0/rooms/!a:b/state", "/_matrix/client/v3/rooms/{room}/state", "!a:b"},
		{"/_matrix/client/v3/rooms/%21a%3Ab/state/m.room.name/", "/_matrix/client/v3/rooms/{room}/state/{type}/", "!a:b|m.room.name"},
		{"/_matrix/client/v3/rooms/!a/state/t/a%2Fb%2f", "/_matrix/client/v3/rooms/{room}/state/{type}/{key}", "!a|t|a/b/"},
		{"/_matrix/client/v3/rooms/!a/state/t/..", "/_matrix/client/v3/rooms/{room}/state/{type}/{key}", "!a|t|.."},
		{"/_matrix/client/v3/rooms//state", "", ""},
		{"/_matrix/client/v3/rooms/!a/state/t/a/b", "", ""},
		{"/_matrix/client/v3/directory/list/room/!x", "/_matrix/client/v3/directory/list/room/{room}", "!x"},
		{"/_matrix/client/v3/directory/room/%23list:b", "/_matrix/client/v3/directory/room/{alias}", "#list:b"},
		{"/" + strings.Repeat("a/", 4000), "", ""},
		{"", "", ""},
		{"/", "", ""},
	} {
		var params [maxParams]string
		methods, bad := rt.find(tc.path, &params)
		got := ""
		if methods != nil {
			got = methods["GET"].name
		}
		if got != tc.want || bad {
			t.Errorf("find(%.60q) = %q, bad %v; want %q", tc.path, got, bad, tc.want)
			continue
		}
		if p := strings.TrimRight(strings.Join(params[:], "|"), "|"); p != tc.params {
			t.Errorf("find(%q) params = %q, want %q", tc.path, p, tc.params)
		}
	}
}

func TestRouterBadEscape(t *testing.T) {
	rt := testRouter()
	for _, path := range []string{"/_matrix/client/v3/directory/room/%ff", "/_matrix/client/v3/directory/room/%zz"} {
		var params [maxParams]string
		if methods, bad := rt.find(path, &params); methods == nil || !bad {
			t.Errorf("find(%q): found %v, bad %v; want found and bad", path, methods != nil, bad)
		}
	}
}

func FuzzRouterFind(f *testing.F) {
	rt := testRouter()
	f.Add("/_matrix/client/v3/rooms/!a/state/t/a%2Fb")
	f.Add("//%%%/..")
	f.Fuzz(func(t *testing.T, path string) {
		var params [maxParams]string
		methods, _ := rt.find(path, &params)
		if methods != nil && !strings.HasPrefix(path, "/_matrix") && !strings.HasPrefix(path, "_matrix") && !strings.Contains(path, "%") {
			t.Errorf("find(%q) found a route outside /_matrix", path)
		}
	})
}
