// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"strings"
	"testing"

	"hallig/appliance/admin"
	"hallig/tools/matrixclient"
)

// TestSheetOfWhichRoom: a room that the box does not have is told as that, with those that it has; a name will do where one room has it.
func TestSheetOfWhichRoom(t *testing.T) {
	a := startBox(t, "a.test")
	refused := func(room string, words ...string) {
		t.Helper()
		_, err := Courier(t.Context(), a.cfg.Data, admin.CourierOrder{Do: "sheet", Box: "b.test", Room: room, Codes: 1}, nil)
		if err == nil {
			t.Fatalf("room %q: a sheet", room)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("room %q: %v, want %q in it", room, err, w)
			}
		}
	}
	refused("!nowhere:a.test", "this box has no rooms yet")
	anna := a.phone("anna")
	var ids []string
	for _, name := range []string{"Lage", "Deich", "Deich"} {
		id, err := anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat", Name: name})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	refused("!nowhere:a.test", "no room !nowhere:a.test", "Lage ("+ids[0]+")", "Deich ("+ids[1]+")")
	refused("Deich", "several rooms", ids[1], ids[2])
	refused("Lage", "no such box is paired") // the room is clear now
	refused(ids[0], "no such box is paired")
}
