// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"path"
	"slices"
	"strings"
	"unicode"

	"hallig/radio/airtime"
)

// Serial is one line to another box, in hallig.json as in config.json. Fields that the modem does not have must be left out; what is left out
// has a value that suits the modem.
type Serial struct {
	Device string `json:"device"` // /dev/hallig/radio; for kiss and rnode also tcp:HOST:PORT
	// Modem: "transparent", "null", "rs485", "at", "kiss", "rnode", "meshcore"; "": a cable, or with half_duplex a transparent radio modem.
	Modem         string `json:"modem,omitempty"`
	Baud          int    `json:"baud,omitempty"`            // of the port; 0: 9600, for rnode and meshcore 115200
	BitsPerSecond int    `json:"bits_per_second,omitempty"` // of the air or wire behind it; transparent: must be said; 0: the port's rate, for kiss 1200
	HalfDuplex    bool   `json:"half_duplex,omitempty"`     // one channel for both directions; transparent, rs485 and radios have it anyway
	RTSCTS        bool   `json:"rts_cts,omitempty"`         // hardware flow control
	TurnDelayMS   int    `json:"turn_delay_ms,omitempty"`   // key-up delay of the radio; kiss: TXDELAY, 0: 300
	// Band is what the medium allows: "wire", "eu868-10", "eu868-1", "eu868-0.1" with their duty cycles, "amateur", "licensed". "": a wire; for LoRa
	// that of the frequency.
	Band     string `json:"band,omitempty"`
	CallSign string `json:"call_sign,omitempty"` // of the station, DL1ABC-7; amateur: must be said

	// Stations is "shared" where more than one other box hears this channel or bus; every box on it must be set so. "": one far end.
	Stations string `json:"stations,omitempty"`
	Polls    bool   `json:"polls,omitempty"` // shared: this box gives out the turns, as the master of an RS-485 bus; one box only

	// Correction: "on" sends with Reed-Solomon from the start, "off" never; "": as soon as bit errors make that worth while. Not with kiss, rnode,
	// meshcore, whose modems check or correct themselves, and not on a shared channel.
	Correction string `json:"correction,omitempty"`

	TNCPort     int `json:"tnc_port,omitempty"`     // kiss: which radio of the TNC
	Persistence int `json:"persistence,omitempty"`  // kiss, meshcore: chance of 256 to send on a free channel; 0: 250
	SlotTimeMS  int `json:"slot_time_ms,omitempty"` // kiss, meshcore: between two tries; 0: 100
	TXTailMS    int `json:"tx_tail_ms,omitempty"`   // kiss: keyed after the last bit; 0: 50

	Init   string `json:"init,omitempty"`   // at, kiss: commands at the start, separated by blanks
	Number string `json:"number,omitempty"` // at: whom to call; "": wait for calls

	RS485Adapter bool `json:"rs485_adapter,omitempty"` // rs485: the adapter turns its direction by itself

	FrequencyHz       int     `json:"frequency_hz,omitempty"`        // rnode, meshcore: must be said, 869525000
	BandwidthHz       int     `json:"bandwidth_hz,omitempty"`        // 0: 125000
	SpreadingFactor   int     `json:"spreading_factor,omitempty"`    // 5 to 12; 0: 9
	CodingRate        int     `json:"coding_rate,omitempty"`         // 5 to 8; 0: 5
	TXPowerDBm        int     `json:"tx_power_dbm,omitempty"`        // 0: 14
	AirtimeLimitShort float64 `json:"airtime_limit_short,omitempty"` // rnode: percent of 15 s that the device itself keeps to
	AirtimeLimitLong  float64 `json:"airtime_limit_long,omitempty"`  // rnode: percent of an hour
}

// modems are the kinds, in the order in which people are told of them.
var modems = []string{"transparent", "null", "rs485", "at", "kiss", "rnode", "meshcore"}

// field is one that only some modems have, or with bounds.
type field struct {
	name        string
	set         bool
	modems      string // that have it; "": all
	value       float64
	least, most float64 // when set
	unit        string
}

func (s Serial) fields() []field {
	n := func(name string, v int, modems string, least, most int, unit string) field {
		return field{name, v != 0, modems, float64(v), float64(least), float64(most), unit}
	}
	f := func(name string, set bool, modems string) field { return field{name: name, set: set, modems: modems} }
	return []field{
		n("baud", s.Baud, "", 50, 4_000_000, "bit/s"),
		n("bits_per_second", s.BitsPerSecond, "transparent null rs485 at kiss", 1, 4_000_000, "bit/s"),
		f("half_duplex", s.HalfDuplex, "transparent rs485 kiss rnode meshcore"),
		f("rts_cts", s.RTSCTS, "transparent null at kiss"),
		n("turn_delay_ms", s.TurnDelayMS, "", 1, 60_000, "ms"),
		n("tnc_port", s.TNCPort, "kiss", 0, 15, ""),
		n("persistence", s.Persistence, "kiss meshcore", 1, 255, ""),
		n("slot_time_ms", s.SlotTimeMS, "kiss meshcore", 10, 2550, "ms"),
		n("tx_tail_ms", s.TXTailMS, "kiss", 10, 2550, "ms"),
		f("init", s.Init != "", "at kiss"),
		f("number", s.Number != "", "at"),
		f("rs485_adapter", s.RS485Adapter, "rs485"),
		n("frequency_hz", s.FrequencyHz, "rnode meshcore", 137_000_000, 3_000_000_000, "Hz"),
		n("bandwidth_hz", s.BandwidthHz, "rnode meshcore", 7_800, 1_625_000, "Hz"),
		n("spreading_factor", s.SpreadingFactor, "rnode meshcore", 5, 12, ""),
		n("coding_rate", s.CodingRate, "rnode meshcore", 5, 8, ""),
		n("tx_power_dbm", s.TXPowerDBm, "rnode meshcore", 1, 37, "dBm"),
		{"airtime_limit_short", s.AirtimeLimitShort != 0, "rnode", s.AirtimeLimitShort, 0.01, 99.99, "%"},
		{"airtime_limit_long", s.AirtimeLimitLong != 0, "rnode", s.AirtimeLimitLong, 0.01, 99.99, "%"},
	}
}

// Check refuses what cannot work; the error is an Error that names the field, with at ("serial[0]") before it.
func (s Serial) Check(at string) error {
	at += "."
	if s.Device == "" {
		return wrong(at+"device", "fehlt; zum Beispiel /dev/hallig/radio oder /dev/ttyUSB0, die Geräteseite zeigt die Namen", "is missing; for example /dev/hallig/radio or /dev/ttyUSB0, the device page shows the names")
	}
	if s.Modem != "" && !slices.Contains(modems, s.Modem) {
		list := strings.Join(modems, ", ")
		return wrong(at+"modem", fmt.Sprintf("kennt %q nicht; möglich sind %s", s.Modem, list), fmt.Sprintf("does not know %q; it may be %s", s.Modem, list))
	}
	if err := s.checkNetwork(at); err != nil {
		return err
	}
	for _, f := range s.fields() {
		if err := s.checkField(at, f); err != nil {
			return err
		}
	}
	if s.Modem == "transparent" && s.BitsPerSecond == 0 { // taken for the plug's, every deadline would be wrong
		return wrong(at+"bits_per_second", "fehlt: die Rate in der Luft aus dem Handbuch des Funkgeräts, zum Beispiel 1200; sie ist meist kleiner als baud, die am Stecker", "is missing: the rate on the air from the radio's manual, for example 1200; most often it is lower than baud, that of the plug")
	}
	if err := s.checkBand(at); err != nil {
		return err
	}
	if err := s.checkCorrection(at); err != nil {
		return err
	}
	if err := s.checkStations(at); err != nil {
		return err
	}
	if s.Modem == "at" && strings.ContainsFunc(s.Number, func(c rune) bool { return !strings.ContainsRune("0123456789+*#,TPWtpw", c) }) {
		return wrong(at+"number", "darf nur aus Ziffern und + * # , T P W bestehen, zum Beispiel T0484123456", "may only hold digits and + * # , T P W, for example T0484123456")
	}
	if i := strings.IndexFunc(s.Init, func(c rune) bool { return c < ' ' || c > '~' }); i >= 0 {
		return wrong(at+"init", "darf nur aus druckbaren ASCII-Zeichen bestehen; Befehle werden durch Leerzeichen getrennt", "may only hold printable ASCII characters; commands are separated by blanks")
	}
	if s.CallSign != "" && !validCall(s.CallSign) {
		return wrong(at+"call_sign", "muss ein Rufzeichen in Großbuchstaben sein, höchstens sechs Zeichen, dahinter vielleicht -1 bis -15: DL1ABC-7", "must be a call sign in capital letters, six characters at most, perhaps -1 to -15 behind them: DL1ABC-7")
	}
	return nil
}

// lora says whether the modem's frequency is known.
func (s Serial) lora() bool { return s.Modem == "rnode" || s.Modem == "meshcore" }

// bandOf finds the band with a duty cycle that holds the whole signal.
func (s Serial) bandOf() (airtime.Band, bool) {
	half := cmp.Or(s.BandwidthHz, 125_000) / 2
	for _, b := range airtime.Bands() {
		if b.Limited() && s.FrequencyHz-half >= b.LowKHz*1000 && s.FrequencyHz+half <= b.HighKHz*1000 {
			return b, true
		}
	}
	return airtime.Band{}, false
}

// InBand is the band of the line: the one that is named, or else, for LoRa, that of its frequency.
func (s Serial) InBand() string {
	if b, ok := s.bandOf(); ok && s.Band == "" && s.lora() {
		return b.Name
	}
	return s.Band
}

// checkBand keeps a radio in a band that somebody has named or that follows from its frequency, and within the band's power.
func (s Serial) checkBand(at string) error {
	band, ok := airtime.Lookup(s.Band)
	if !ok {
		names := strings.Join(airtime.Names(), ", ")
		return wrong(at+"band", "ist keines von "+names, "is none of "+names)
	}
	if band.OpenLanguageOnly && s.CallSign == "" {
		return wrong(at+"call_sign", "fehlt; auf Amateurfunkbändern muss jede Station ihr Rufzeichen nennen", "is missing; on amateur bands each station has to tell its call sign")
	}
	if s.Modem == "kiss" && s.Band == "" {
		return wrong(at+"band", "fehlt: amateur (mit call_sign, unverschlüsselt), licensed (eigene Frequenz) oder wire (kein Funk)", "is missing: amateur (with call_sign, unencrypted), licensed (a frequency of your own) or wire (no radio)")
	}
	if !s.lora() {
		return nil
	}
	if s.FrequencyHz == 0 {
		return wrong(at+"frequency_hz", "fehlt; für 868-MHz-Geräte in der EU zum Beispiel 869525000 (10 % Sendezeit, bis 27 dBm), auf allen Boxen gleich", "is missing; for 868 MHz devices in the EU for example 869525000 (10 % duty cycle, up to 27 dBm), the same on all boxes")
	}
	own, inside := s.bandOf()
	switch {
	case s.Band == "" && !inside:
		return wrong(at+"band", "fehlt: die Frequenz liegt mit ihrer Bandbreite in keinem Band, dessen Sendezeit die Box kennt (eu868-10, eu868-1, eu868-0.1); sonst amateur oder licensed eintragen",
			"is missing: the frequency with its bandwidth lies in no band whose duty cycle the box knows (eu868-10, eu868-1, eu868-0.1); otherwise enter amateur or licensed")
	case s.Band == "":
		band = own
	case band.Limited() && own.Name != band.Name:
		return wrong(at+"frequency_hz", fmt.Sprintf("liegt mit der Bandbreite nicht in %s (%s bis %s MHz)", band.Name, number(float64(band.LowKHz)/1000), number(float64(band.HighKHz)/1000)),
			fmt.Sprintf("is not in %s with its bandwidth (%s to %s MHz)", band.Name, number(float64(band.LowKHz)/1000), number(float64(band.HighKHz)/1000)))
	case !band.Radio:
		return wrong(at+"band", "kann bei einem Funkmodem nicht wire sein", "cannot be wire with a radio modem")
	}
	if most := milliwatts(band.PowerMilliwatt); band.PowerMilliwatt > 0 && s.TXPowerDBm > most {
		return wrong(at+"tx_power_dbm", fmt.Sprintf("darf in %s höchstens %d sein", band.Name, most), fmt.Sprintf("may be %d at most in %s", most, band.Name))
	}
	return nil
}

// milliwatts as dBm, rounded up: 25 mW are 14 dBm, 500 mW are 27.
func milliwatts(n int) int { return int(math.Ceil(10*math.Log10(float64(max(n, 1))) - 0.5)) }

// Raw says whether what is written goes over the line as it is, to one far end.
func (s Serial) Raw() bool {
	return s.Stations == "" && !slices.Contains([]string{"kiss", "rnode", "meshcore"}, s.Modem)
}

func (s Serial) checkCorrection(at string) error {
	switch {
	case s.Correction != "" && s.Correction != "on" && s.Correction != "off":
		return wrong(at+"correction", "kann nur \"on\" oder \"off\" sein; ohne Angabe entscheidet die Box nach dem, was verloren geht", "can only be \"on\" or \"off\"; left out, the box decides by what is lost")
	case s.Correction == "on" && !s.Raw():
		return wrong(at+"correction", "gibt es nicht mit kiss, rnode, meshcore und nicht auf einem geteilten Kanal", "does not exist with kiss, rnode, meshcore, nor on a shared channel")
	}
	return nil
}

func (s Serial) checkStations(at string) error {
	switch {
	case s.Stations != "" && s.Stations != "shared":
		return wrong(at+"stations", "kann nur \"shared\" sein (mehrere Boxen auf einem Kanal); bei einer einzigen Gegenstelle bitte weglassen", "can only be \"shared\" (several boxes on one channel); with a single far end please leave it out")
	case s.Stations == "" && s.Polls:
		return wrong(at+"polls", "gibt es nur mit \"stations\": \"shared\"", "exists with \"stations\": \"shared\" only")
	case s.Stations != "" && (s.Modem == "null" || s.Modem == "at" || s.Modem == "" && !s.HalfDuplex):
		return wrong(at+"stations", "braucht einen Kanal, den alle hören: transparent, rs485, kiss, rnode oder meshcore", "needs a channel that all hear: transparent, rs485, kiss, rnode or meshcore")
	}
	return nil
}

func (s Serial) checkNetwork(at string) error {
	addr, ok := strings.CutPrefix(s.Device, "tcp:")
	if !ok {
		return nil
	}
	if s.Modem != "kiss" && s.Modem != "rnode" {
		return wrong(at+"device", "kann nur für kiss und rnode eine Netzadresse sein", "can be a network address for kiss and rnode only")
	}
	if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
		return wrong(at+"device", "muss mit Rechner und Anschluss geschrieben werden, zum Beispiel tcp:127.0.0.1:8001", "must be written with host and port, for example tcp:127.0.0.1:8001")
	}
	if s.Baud != 0 {
		return wrong(at+"baud", "gibt es bei einer Netzadresse nicht; bitte weglassen", "does not exist with a network address; please leave it out")
	}
	return nil
}

func (s Serial) checkField(at string, f field) error {
	if !f.set {
		return nil
	}
	if f.modems != "" && !slices.Contains(strings.Fields(f.modems), cmp.Or(s.Modem, "transparent")) {
		list := strings.Join(strings.Fields(f.modems), ", ")
		if s.Modem == "" {
			return wrong(at+f.name, fmt.Sprintf("gibt es nur mit \"modem\" (%s); bitte das Modem eintragen oder das Feld weglassen", list), fmt.Sprintf("exists with \"modem\" only (%s); please enter the modem or leave the field out", list))
		}
		return wrong(at+f.name, fmt.Sprintf("hat ein Modem der Art %s nicht (nur %s); bitte weglassen", s.Modem, list), fmt.Sprintf("is nothing that a modem of kind %s has (only %s); please leave it out", s.Modem, list))
	}
	if f.least == 0 && f.most == 0 || f.value >= f.least && f.value <= f.most {
		return nil
	}
	unit := strings.TrimSpace(" " + f.unit)
	hint := Error{}
	if f.name == "frequency_hz" && f.value > 0 && f.value < 1e6 {
		hint = Error{De: "; in Hertz, also 869525000 für 869,525 MHz", En: "; in hertz, so 869525000 for 869.525 MHz"}
	}
	return wrong(at+f.name, strings.TrimSpace(fmt.Sprintf("muss zwischen %s und %s liegen %s", number(f.least), number(f.most), unit))+hint.De,
		strings.TrimSpace(fmt.Sprintf("must be between %s and %s %s", number(f.least), number(f.most), unit))+hint.En)
}

func number(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// validCall knows call signs with or without SSID; radio/frame does, too, and a test of the box compares them.
func validCall(s string) bool {
	name, ssid, hyphen := strings.Cut(s, "-")
	if hyphen && !slices.Contains([]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"}, ssid) {
		return false
	}
	return len(name) >= 1 && len(name) <= 6 && !strings.ContainsFunc(name, func(c rune) bool { return (c < 'A' || c > 'Z') && (c < '0' || c > '9') })
}

// checkSerial holds what is more for a file than for a box's own configuration: whoever writes it does not see the box.
func checkSerial(f *File) error {
	seen := map[string]bool{}
	for i, s := range f.Serial {
		at := fmt.Sprintf("serial[%d]", i)
		if !strings.HasPrefix(s.Device, "tcp:") && (!strings.HasPrefix(s.Device, "/dev/") || path.Clean(s.Device) != s.Device) || strings.ContainsFunc(s.Device, unicode.IsControl) {
			return wrong(at+".device", "muss ein Anschluss sein, zum Beispiel /dev/hallig/radio oder /dev/ttyUSB0", "must be a port, for example /dev/hallig/radio or /dev/ttyUSB0")
		}
		if seen[s.Device] {
			return wrong(at+".device", "steht schon in einem anderen Eintrag", "is in another entry already")
		}
		seen[s.Device] = true
		if err := s.Check(at); err != nil {
			return err
		}
	}
	return nil
}
