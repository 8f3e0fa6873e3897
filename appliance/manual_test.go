// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/provision"
	"hallig/radio/serial"
)

// TestExamplesOfManual: every example on the pages for the person at the cable is taken by the box, each modem has one, both languages
// have the same, and the pages can be found.
func TestExamplesOfManual(t *testing.T) {
	code := regexp.MustCompile("(?ms)^ *```json\n(.*?)```")
	var examples [2][]string
	for i, page := range []string{"funk.md", "radio.md"} {
		text, err := os.ReadFile("../doc/" + page)
		if err != nil {
			t.Fatal(err)
		}
		shown := map[string]bool{}
		for n, block := range code.FindAllStringSubmatch(string(text), -1) {
			examples[i] = append(examples[i], block[1])
			if n == 0 {
				if _, err := provision.Parse([]byte(block[1])); err != nil {
					t.Errorf("%s: %v in %s", page, err, block[1])
				}
				continue
			}
			for line := range strings.Lines(block[1]) {
				var s SerialConfig
				d := json.NewDecoder(bytes.NewReader([]byte(line)))
				d.DisallowUnknownFields()
				err := d.Decode(&s)
				if err == nil {
					err = s.Check("serial[0]")
				}
				if err != nil {
					t.Errorf("%s: %v in %s", page, err, line)
				}
				shown[s.Modem] = true
			}
		}
		inline := regexp.MustCompile("`(\"(?:p2p|config)\":[^`]*)`").FindAllStringSubmatch(string(text), -1)
		if len(inline) != 2 {
			t.Errorf("%s: %d examples of how libp2p is switched off, want one for each file", page, len(inline))
		}
		for _, m := range inline {
			var c Config
			err := parseConfig([]byte("{"+m[1]+"}"), &c)
			if strings.HasPrefix(m[1], `"config"`) {
				var f provision.File
				if f, err = provision.Parse([]byte(`{"hallig": 1, ` + m[1] + "}")); err == nil {
					err = parseConfig(f.Config, &c)
				}
			}
			if err != nil || !c.P2P.Off {
				t.Errorf("%s: %s: %v, %+v", page, m[1], err, c.P2P)
			}
		}
		for _, k := range serial.Kinds() {
			if !shown[string(k)] {
				t.Errorf("%s has no line for a modem of kind %s", page, k)
			}
		}
		for _, from := range []string{"../README.md", "../doc/handbuch.md", "../doc/manual.md"} {
			link, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if page == "funk.md" && from == "../doc/manual.md" || page == "radio.md" && from == "../doc/handbuch.md" {
				continue
			}
			if !bytes.Contains(link, []byte(page)) {
				t.Errorf("%s does not lead to %s", from, page)
			}
		}
	}
	if !slices.Equal(examples[0], examples[1]) {
		t.Error("the examples of funk.md and radio.md differ")
	}
}
