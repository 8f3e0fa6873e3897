// SPDX-License-Identifier: EUPL-1.2

package federation

import "testing"

func TestServerACL(t *testing.T) {
	a := parseACL([]byte(`{"allow":["*"],"deny":["*.evil.example","bad?.example"],"allow_ip_literals":false}`))
	for server, want := range map[string]bool{
		"good.example": true, "evil.example": true, "x.evil.example": false, "X.EVIL.example:8448": false, "bad1.example": false, "bad.example": true,
		"10.0.0.1": false, "10.0.0.1:8448": false, "[::1]:8448": false, "[::1]": false,
	} {
		if got := a.allows(server); got != want {
			t.Errorf("%s: got %v, want %v", server, got, want)
		}
	}
	if parseACL([]byte(`{"deny":[]}`)).allows("good.example") {
		t.Error("a list that allows nobody lets somebody in")
	}
	if !parseACL([]byte(`{"allow":["*"]}`)).allows("10.0.0.1") {
		t.Error("addresses are allowed unless forbidden")
	}
}

func TestGlob(t *testing.T) {
	for _, tc := range []struct {
		glob, s string
		want    bool
	}{
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"a*c", "abc", true}, {"a*c", "ac", true}, {"a*c", "ab", false}, {"*.example", "a.b.example", true},
		{"?", "a", true}, {"?", "", false}, {"a?c", "abc", true}, {"**a", "bbba", true}, {"*a*b*c", "xaybzc", true}, {"*a*b*c", "xaybz", false},
	} {
		if got := globMatch(tc.glob, tc.s); got != tc.want {
			t.Errorf("%q on %q: got %v", tc.glob, tc.s, got)
		}
	}
}
