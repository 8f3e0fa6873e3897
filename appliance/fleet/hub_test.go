// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"encoding/json"
	"strings"
	"testing"

	"hallig/appliance/provision"
)

// TestHubMode: each box of a table is served as its line says, and all else that all boxes have stays.
func TestHubMode(t *testing.T) {
	o := options()
	o.Domain = "feuerwehr.example"
	o.Base.Config = json.RawMessage(`{"presence":true,"hub":{"server":"hub.example","peers":["/dns/hub.example/tcp/4001/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"]}}`)
	boxes, err := Prepare([]byte("label;hubmodus\neins;Vollmacht\nzwei;\ndrei;versiegelt\n"), o)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"delegate", "", "sealed"} {
		var c struct {
			Presence bool
			Hub      struct {
				Server, Mode string
				Peers        []string
			}
		}
		if err := json.Unmarshal(boxes[i].File.Config, &c); err != nil || c.Hub.Mode != want || c.Hub.Server != "hub.example" || len(c.Hub.Peers) != 1 || !c.Presence {
			t.Errorf("line %d: %s, %v; want mode %q", i, boxes[i].File.Config, err, want)
		}
	}
	for _, tt := range []struct{ base, mode, want string }{{`{"presence":true}`, "delegate", "needs a hub"}, {"", "delegate", "needs a hub"}, {`{"hub":{"server":"hub.example"}}`, "open", "sealed or delegate"}} {
		o.Base.Config = json.RawMessage(tt.base)
		if _, err := Prepare([]byte("label,hub_mode\neins,"+tt.mode+"\n"), o); err == nil || !strings.Contains(provision.ErrorOf(err).En, tt.want) {
			t.Errorf("%s: %v, want %q", tt.base, err, tt.want)
		}
	}
}
