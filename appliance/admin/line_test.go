// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"strings"
	"testing"

	"hallig/appliance/health"
)

func radioLines() []Line {
	rssi, snr := -97, -6.25
	return []Line{
		{Name: "serial:radio0", Device: "/dev/hallig/radio", Modem: "rnode", Band: "eu868-10", Open: true, Up: true, Boxes: []string{"hooge.example", "oland.example"}, BitsPerSecond: 1561, Frames: 120, Repeated: 7, Refused: 3, ModemRefused: 2, RSSI: &rssi, SNR: &snr, Note: "RNode 1.80"},
		{Name: "serial:a", Device: "/dev/hallig/a", Modem: "null", Open: true, BitsPerSecond: 9600},
		{Name: "serial:c", Device: "/dev/hallig/c", Modem: "null", Open: true, Up: true, BitsPerSecond: 9600},
		{Name: "serial:b", Device: "/dev/hallig/b", Modem: "meshcore", Trouble: health.Sentence{DE: "Es antwortet nicht <b>.", EN: "It does not answer <b>."}},
	}
}

// TestLinesOnPage: the page of boxes tells of each line in the reader's language, and what a modem says of itself is text.
func TestLinesOnPage(t *testing.T) {
	s := newSite(t, nil)
	s.signIn()
	for lang, words := range map[string][]string{
		"de": {"/dev/hallig/radio", "rnode, RNode 1.80, eu868-10", "verbunden mit hooge.example, oland.example", "es antwortet eine Box, mit der diese (noch) nicht gekoppelt ist", "-97 dBm, SNR -6.2 dB", "7 von 120 wiederholt, 3 nicht angenommen, 2 vom Modem abgelehnt", "bereit, noch keine Antwort", "Es antwortet nicht &lt;b&gt;."},
		"en": {"connected to hooge.example, oland.example", "a box answers that is not paired with this one (yet)", "7 of 120 repeated, 3 not taken, 2 refused by the modem", "ready, no answer yet", "It does not answer &lt;b&gt;."},
	} {
		_, body, _ := s.get("/admin/boxes?lang=" + lang)
		for _, w := range words {
			if !strings.Contains(body, w) {
				t.Errorf("%s: the page lacks %q:\n%s", lang, w, body)
			}
		}
	}
}

// TestAirTimeText: an hour is not told in seconds.
func TestAirTimeText(t *testing.T) {
	left := 12.34
	for in, want := range map[float64]string{0: "12.3 s of air time left", 2.1: "12.3 s of air time left, next frame in 3 s", 3271: "12.3 s of air time left, next frame in 55 min"} {
		if got := (Line{AirLeft: &left, SendIn: in}).AirTime(); got != want {
			t.Errorf("%v s: %q, want %q", in, got, want)
		}
	}
	if got := (Line{}).AirTime(); got != "" {
		t.Errorf("without a duty cycle: %q", got)
	}
}
