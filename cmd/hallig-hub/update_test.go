// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"strings"
	"testing"
	"time"

	"hallig/sync/hub"
	"hallig/sync/hub/fleet"
)

func TestPrintUpdates(t *testing.T) {
	box := func(name, board string, release int64) hub.BoxStatus {
		return hub.BoxStatus{Server: name, Said: fleet.Said{Board: board, Release: release}}
	}
	gone := box("box5.test", "amd64", 9)
	gone.Revoked = "stolen"
	var out strings.Builder
	printUpdates(&out, hub.Status{
		Boxes: []hub.BoxStatus{box("box1.test", "amd64", 8), box("box2.test", "amd64", 9), box("box3.test", "rpi", 9), box("box4.test", "", 0), gone},
		Updates: []hub.UpdateFile{{Board: "amd64", Version: "1.3.0", Release: 9, Bytes: 4096, Added: time.Date(2026, 11, 27, 3, 0, 0, 0, time.Local), Share: 10, Boxes: []string{"box1.test"},
			Stopped: "box1.test: no answer on trial", Failed: map[string]string{"box1.test": "no answer on trial"}}},
	})
	want := `1.3.0  amd64, release 9, 4 kB, since 2026-11-27 03:00
    rolled out to 10 % of the boxes and box1.test; on 1 of 2 of its board
    stopped: box1.test: no answer on trial
    did not work on box1.test: no answer on trial
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}
