// SPDX-License-Identifier: EUPL-1.2

package account

import "testing"

// People type tokens on phones: case, dashes and blanks do not count, so no two tokens may differ in them alone.
func TestTokensAsPeopleTypeThem(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	for _, token := range []string{"SW4X-7HKC", "Ab1"} {
		if _, err := h.CreateRegistrationToken(ctx, RegistrationToken{Token: token, Uses: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.CreateRegistrationToken(ctx, RegistrationToken{Token: "a-b1", Uses: 1}); err == nil {
		t.Error("a token was made that people cannot tell from another")
	}
	for typed, want := range map[string]bool{
		"SW4X-7HKC": true, "sw4x7hkc": true, "sw4x 7hkc": true, "SW4X7HK": false, "Ab1": true, "aB-1": true, "": false, "%": false,
	} {
		if got, err := h.RegistrationTokenValid(ctx, typed); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", typed, got, err, want)
		}
	}
}
