// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"

	"hallig/appliance/event"
)

// Hub is the box's hub, "hub" in config.json and "config.hub" in hallig.json.
type Hub struct {
	Server string `json:"server"` // the hub's own server name: "hub.example.org"
	// Mode: "sealed" or "": the hub has no key of this box. "delegate": it makes itself a second key of the box's name, with which it can sign anything in that name; doc/hub.md says what for.
	Mode  string   `json:"mode,omitempty"`
	Peers []string `json:"peers,omitempty"` // where it is: multiaddresses ending in /p2p/ID, as `hallig-hub status` shows them; empty: where it was paired
}

// Check refuses what cannot work; the error is an Error that names the field. path is how the file calls the hub: "hub", "config.hub".
func (h Hub) Check(path string) error {
	switch {
	case h.Server == "" && (len(h.Peers) > 0 || h.Mode != ""):
		return wrong(path+".server", "fehlt: der Name des Hubs selbst, zum Beispiel hub.example.org", "is missing: the hub's own name, for example hub.example.org")
	case h.Server != "" && !event.ValidServerName(h.Server):
		return wrong(path+".server", "muss der Name des Hubs selbst sein, zum Beispiel hub.example.org, ohne https:// und ohne /", "must be the hub's own name, for example hub.example.org, without https:// and without /")
	case h.Mode != "" && h.Mode != "sealed" && h.Mode != "delegate":
		return wrong(path+".mode", "muss sealed sein (der Hub hat keinen Schlüssel der Box) oder delegate (er darf in ihrem Namen unterschreiben)", "must be sealed (the hub has no key of the box) or delegate (it may sign in its name)")
	}
	return CheckPeers(path+".peers", h.Peers)
}

// peerAddress and peerName are where a box or a hub can be reached, and who it is: https://docs.libp2p.io/concepts/fundamentals/addressing/
var (
	peerAddress = regexp.MustCompile(`^(?:/ip6zone/[^/\s]+)?/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/(?:tcp|udp)/([0-9]{1,5})(?:/[^/\s]+)*/p2p/12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$`)
	peerName    = regexp.MustCompile(`^/dnsaddr/[^/\s]+/p2p/12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$`)
)

// CheckPeers refuses addresses that name no place or do not say who is there; the error is an Error that names the field and the number in the list.
func CheckPeers(field string, addrs []string) error {
	for i, a := range addrs {
		if peerName.MatchString(a) {
			continue
		}
		m := peerAddress.FindStringSubmatch(a)
		ok := m != nil
		if ok {
			port, err := strconv.ParseUint(m[3], 10, 16)
			ok = err == nil && port > 0
			if ip, err := netip.ParseAddr(m[2]); m[1] == "ip4" || m[1] == "ip6" {
				ok = ok && err == nil && ip.Is4() == (m[1] == "ip4")
			}
		}
		if !ok {
			return wrong(fmt.Sprintf("%s[%d]", field, i), "muss eine Adresse wie /dns/hub.example.org/tcp/4001/p2p/12D3KooW… sein, mit der Kennung am Ende; hallig-hub status (bei Boxen hallig status) zeigt sie",
				"must be an address like /dns/hub.example.org/tcp/4001/p2p/12D3KooW…, with the id at its end; hallig-hub status (for boxes hallig status) shows it")
		}
	}
	return nil
}

// checkHub looks at what of "config" has to do with the hub: whoever prepares a box shall hear of it before its first account fixes the name.
func checkHub(f *File) error {
	var c struct {
		Hub Hub `json:"hub"`
		P2P struct {
			Peers []string `json:"peers"`
		} `json:"p2p"`
	}
	if len(f.Config) == 0 {
		return nil
	}
	if err := json.Unmarshal(f.Config, &c); err != nil {
		return nil //nolint:nilerr // the types within "config" are the reader's of config.json, which names the field
	}
	if err := c.Hub.Check("config.hub"); err != nil {
		return err
	}
	return CheckPeers("config.p2p.peers", c.P2P.Peers)
}
