// SPDX-License-Identifier: EUPL-1.2

package steward

// ScreenFile is where hallig writes what the screen shows, under the run directory (/run/hallig): whole, and only when something changed.
const ScreenFile = "box/screen.json"

// Screen is what a person at the box's screen or serial console is shown.
type Screen struct {
	ServerName  string `json:"server_name"`
	NameFixed   bool   `json:"name_fixed"`            // the first account has fixed the name
	URL         string `json:"url"`                   // what phones open; "": the box has no address yet
	Code        string `json:"code,omitempty"`        // with which the first administrator registers; "": there is one
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the box's certificate authority

	State    string `json:"state"`          // ok, look or trouble, as the light
	Sentence Text   `json:"sentence"`       // that all is well, or the one thing to do
	More     []Text `json:"more,omitempty"` // further things to do
}
