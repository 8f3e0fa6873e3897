// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestFindPlaces(t *testing.T) {
	wellKnown := map[string]string{"delegates.example": "other.example:443", "toaddress.example": "198.51.100.7", "broken.example": "no such name/"}
	d := NewDiscovery(DiscoveryConfig{
		Addresses: map[string]string{"central.example": "10.0.0.5:8448", "bare.example": "10.0.0.6"},
		wellKnown: func(_ context.Context, host string) (string, time.Duration, error) {
			if s, ok := wellKnown[host]; ok {
				return s, wellKnownKept, nil
			}
			return "", 0, errors.New("none")
		},
	})
	for _, tc := range []struct {
		name, host, cert, dial string
	}{
		{"central.example", "central.example", "central.example", "10.0.0.5:8448"},
		{"bare.example", "bare.example", "bare.example", "10.0.0.6:8448"},
		{"127.0.0.11:8448", "127.0.0.11:8448", "127.0.0.11", "127.0.0.11:8448"},
		{"127.0.0.11", "127.0.0.11", "127.0.0.11", "127.0.0.11:8448"},
		{"[::1]", "[::1]", "::1", "[::1]:8448"},
		{"[::1]:99", "[::1]:99", "::1", "[::1]:99"},
		{"port.example:1234", "port.example:1234", "port.example", "port.example:1234"},
		{"delegates.example", "other.example:443", "other.example", "other.example:443"},
		{"toaddress.example", "198.51.100.7", "198.51.100.7", "198.51.100.7:8448"},
	} {
		p, err := d.find(t.Context(), tc.name)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if p.host != tc.host || p.cert != tc.cert || !slices.Equal(p.dial, []string{tc.dial}) {
			t.Errorf("%s: got host %s, certificate %s, address %v; want %s, %s, %s", tc.name, p.host, p.cert, p.dial, tc.host, tc.cert, tc.dial)
		}
	}
	if _, err := d.find(t.Context(), "no name/at all"); err == nil {
		t.Error("a bad name was found")
	}
}

func TestPublicAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "2a00:1450::1": true,
		"127.0.0.1": false, "10.1.2.3": false, "192.168.1.1": false, "169.254.1.1": false, "100.64.1.1": false, "0.0.0.0": false, "::1": false,
		"fe80::1": false, "fd00::1": false, "::ffff:10.0.0.1": false, "224.0.0.1": false,
	} {
		if got := public(netip.MustParseAddr(addr)); got != want {
			t.Errorf("public(%s) = %v, want %v", addr, got, want)
		}
	}
}

func TestWellKnownLife(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 24 * time.Hour, "max-age=10": time.Hour, "public, max-age=7200": 2 * time.Hour, "max-age=99999999": 48 * time.Hour, "no-store": 24 * time.Hour,
	} {
		if got := wellKnownLife(header); got != want {
			t.Errorf("%q: got %v, want %v", header, got, want)
		}
	}
}
