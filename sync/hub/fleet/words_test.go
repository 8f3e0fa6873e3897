// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hallig/appliance/update"
	"hallig/sync/hub/api"
)

// says fails unless a page has all of these.
func (s *site) says(path, lang string, want ...string) {
	s.Helper()
	_, body, _ := s.get(path, lang)
	for _, w := range want {
		if !strings.Contains(body, w) {
			s.Errorf("%s in %s does not say %q:\n%s", path, lang, w, body)
		}
	}
}

func TestWords(t *testing.T) {
	s := newSite(t)
	s.signIn()
	b := well()
	b.KeyUntil, b.Keys = now.Add(-time.Hour), Stock{Devices: 1, Left: 19, Given: 12345}
	b.Said.Clock += (3 * time.Hour).Milliseconds()
	b.Said.Update = &api.UpdateState{State: api.UpdateFailed, Version: "1.3.0", Release: 9, Error: "no answer on trial", ErrorDE: "keine Antwort auf Probe"}
	s.boxes = []Box{b}
	s.says("/", "de", "1 Box, 1 verbunden, 1 anzusehen.")
	s.says("/", "en", "1 box, 1 connected, 1 to look at.")
	s.says("/box/box1.test", "de", "19 für 1 Gerät; 12.345 ausgegeben", "; geht 3 Stunden vor", "(keine Antwort auf Probe)", "Bis dahin nehmen andere Server nicht an")
	s.says("/box/box1.test", "en", "19 for 1 device; 12,345 given away", "; 3 hours fast", "(no answer on trial)", "until then other servers refuse")
	b.Said.Clock = b.Seen.Add(time.Second).UnixMilli()
	s.boxes = []Box{b, well()}
	if _, body, _ := s.get("/box/box1.test", "de"); strings.Contains(body, "Sekunde") || strings.Contains(body, "1s") {
		t.Error("a second is told of as if it mattered")
	}
	s.says("/", "de", "2 Boxen, 2 verbunden")
	s.says("/?name=NIRGENDS", "de", "Keine Box heißt so.", `value="NIRGENDS"`, "0 von 2")
	s.says("/?name=BOX1", "en", `href="/box/box1.test"`)
	if _, body, _ := s.get("/?name=box1", "en"); strings.Contains(body, "http-equiv") {
		t.Error("the page goes while somebody looks for a box")
	}
}

func TestUpdateFailures(t *testing.T) {
	s := newSite(t)
	s.signIn()
	var file bytes.Buffer
	if _, err := update.Write(&file, update.Manifest{Product: update.Product, Board: "amd64", Version: "1.3.0", Release: 9}, []update.Source{{File: update.RootPart, Data: strings.NewReader("root"), Size: 4}},
		update.GenerateKey("Werkstatt")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.shelf.Add(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	for box, why := range map[string]string{"box1.test": "no answer on trial", "box2.test": api.WentBack, "box3.test": "an older word"} {
		if err := s.shelf.Roll("", "1.3.0", 100, nil); err != nil {
			t.Fatal(err)
		}
		if stopped, err := s.shelf.Failed(box, "amd64", 9, why); !stopped || err != nil {
			t.Fatal(stopped, err)
		}
	}
	b := well()
	b.Said.Update = &api.UpdateState{State: api.UpdateFailed, Version: "1.3.0", Release: 9, Error: "no answer on trial", ErrorDE: "keine Antwort auf Probe"}
	s.boxes = []Box{b}
	s.says("/updates", "de", "Angehalten: Auf mindestens einer Box", "„Freigeben“ macht ohne sie weiter", ">box1.test</a>: keine Antwort auf Probe<", ">box2.test</a>: Dort ist jemand zum vorigen System zurückgegangen.<", ">box3.test</a>: an older word<")
	s.says("/updates", "en", "Stopped: It did not work on at least one box.", ">box1.test</a>: no answer on trial<", ">box2.test</a>: somebody went back from it<")
}
