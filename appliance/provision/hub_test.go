// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"errors"
	"strings"
	"testing"
)

// TestHub: what is wrong with the hub is said when the file is read, before an account fixes the box's name.
func TestHub(t *testing.T) {
	const id = "/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
	for _, tt := range []struct{ config, de, en string }{
		{`{}`, "", ""},
		{`{"hub":{"server":"hub.example.org"}}`, "", ""},
		{`{"hub":{"server":"hub.example.org","mode":"sealed","peers":["/dns/hub.example.org/tcp/4001` + id + `","/ip6/2001:db8::1/udp/4001/quic-v1` + id + `","/dnsaddr/hub.example.org` + id + `","/ip6zone/eth0/ip6/fe80::1/tcp/4001` + id + `"]}}`, "", ""},
		{`{"hub":{"server":"hub.example.org","mode":"delegat"}}`, "„config.hub.mode“ muss sealed sein", `"config.hub.mode" must be sealed`},
		{`{"hub":{"mode":"delegate"}}`, "„config.hub.server“ fehlt", `"config.hub.server" is missing`},
		{`{"hub":{"server":"https://hub.example.org/"}}`, "„config.hub.server“ muss der Name", "without https://"},
		{`{"hub":{"server":"hub.example.org","peers":["hub.example.org:4001"]}}`, "„config.hub.peers[0]“ muss eine Adresse wie /dns/hub.example.org/tcp/4001/p2p/", `"config.hub.peers[0]" must be an address like /dns/hub.example.org/tcp/4001/p2p/`},
		{`{"hub":{"server":"hub.example.org","peers":["/dns/hub.example.org/tcp/4001"]}}`, "mit der Kennung am Ende", "with the id at its end"},
		{`{"hub":{"server":"hub.example.org","peers":["/ip4/hub.example.org/tcp/4001` + id + `"]}}`, "peers[0]", "peers[0]"},
		{`{"hub":{"server":"hub.example.org","peers":["/ip4/192.0.2.1/tcp/70000` + id + `"]}}`, "peers[0]", "peers[0]"},
		{`{"p2p":{"peers":["192.0.2.7:4001"]}}`, "„config.p2p.peers[0]“", `"config.p2p.peers[0]"`},
		{`{"hub":{"server":"hub.example.org","modus":"sealed"}}`, "Zeile 1, Spalte 57: „config.hub.modus“ ist unbekannt; gemeint ist wohl „mode“", "Line 1, column 57"},
		{`{"hub":{"server":"hub.example.org","peers":"x"}}`, "„config.hub.peers“ muss eine Liste", "must be a list"},
	} {
		_, err := Parse([]byte(`{"hallig":1,"config":` + tt.config + `}`))
		var e Error
		switch {
		case tt.en == "" && err != nil:
			t.Errorf("%s: %v", tt.config, err)
		case tt.en != "" && (!errors.As(err, &e) || !strings.Contains(e.De, tt.de) || !strings.Contains(e.En, tt.en)):
			t.Errorf("%s: got %q, %q; want %q", tt.config, e.De, e.En, tt.en)
		}
	}
}
