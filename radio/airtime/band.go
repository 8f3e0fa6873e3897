// SPDX-License-Identifier: EUPL-1.2

// Package airtime keeps the book of how long a transmitter may be on the air. It is pure: bands and their duty cycles, the
// exact air time of a LoRa frame, and a Budget that says when a transmission may begin.
//
// A duty cycle of a tenth means: in no window of 3600 s, wherever it begins, more than 360 s of transmission. The Budget holds
// that exactly, not by slots of a clock: a transmission may begin when the window that ends with it has room for it. That is
// enough, because the sum over a window grows or stays as its end moves through a transmission, and falls or stays outside.
//
// What it cannot know is how long a modem holds bytes back. So its window is Slip longer than the law's: however transmissions
// move against the book by up to Slip, no true window holds more than one of the book.
//
// A tenth of the budget is kept for flash, half of that also for acknowledgements: without them a far end would send again and
// again what has arrived. Below that mark, traffic slows down as the hour fills, so that it does not end in an hour's silence.
//
// Over a restart of the process the book is carried in a State. It is written before air time is used (a lease), and what is left of a
// lease counts as used at the very moment of the restart. The age of entries comes from the time since boot, which no one sets; after
// a reboot at least the time since it has passed. A book that cannot be read counts as a full hour used just now, and so does one that was
// kept before and is gone: the limit is never exceeded, at the price of an hour's silence. Only whoever has never kept one has never sent. Which
// of the two a missing book is, the keeper of the file must know (radio leaves a mark beside it).
package airtime

import "time"

// Band is what a line's medium allows.
type Band struct {
	Name             string
	LowKHz, HighKHz  int // 0: not a question of frequency
	Permille         int // share of each hour that a transmitter may use; 0: no limit
	Radio            bool
	PowerMilliwatt   int // highest radiated power; 0: by the licence
	OpenLanguageOnly bool
}

// Limited says whether there is a duty cycle.
func (b Band) Limited() bool { return b.Permille > 0 }

// Limit is the air time in each window.
func (b Band) Limit() time.Duration { return Window * time.Duration(b.Permille) / 1000 }

// Bands are all that a configuration can name. Sub-bands of EU868: ETSI EN 300 220-2, annex B.
func Bands() []Band {
	return []Band{
		{Name: "wire"},
		{Name: "eu868-10", LowKHz: 869400, HighKHz: 869650, Permille: 100, Radio: true, PowerMilliwatt: 500},
		{Name: "eu868-1", LowKHz: 868000, HighKHz: 868600, Permille: 10, Radio: true, PowerMilliwatt: 25},
		{Name: "eu868-0.1", LowKHz: 868700, HighKHz: 869200, Permille: 1, Radio: true, PowerMilliwatt: 25},
		{Name: "amateur", Radio: true, OpenLanguageOnly: true},
		{Name: "licensed", Radio: true},
	}
}

// Names are those of all bands.
func Names() (names []string) {
	for _, b := range Bands() {
		names = append(names, b.Name)
	}
	return names
}

// Lookup finds a band by its name. The empty name is a wire.
func Lookup(name string) (Band, bool) {
	for _, b := range Bands() {
		if b.Name == name || name == "" {
			return b, true
		}
	}
	return Band{}, false
}

// LoRa is a modulation. The zero value is none.
type LoRa struct {
	SpreadingFactor int // 5..12
	BandwidthHz     int
	CodingRate      int  // 5..8, the denominator of 4/5 .. 4/8
	Preamble        int  // symbols; 0: 8
	Implicit        bool // no header: both ends know the length
	NoCRC           bool
}

// Set says whether this is a modulation.
func (m LoRa) Set() bool { return m.SpreadingFactor > 0 }

// Symbol is how long one takes.
func (m LoRa) Symbol() time.Duration {
	return time.Duration((int64(1) << m.SpreadingFactor) * int64(time.Second) / int64(m.BandwidthHz))
}

// Airtime of one frame of n bytes, by the formula of Semtech's SX1276 data sheet, section 4.1.1.7, and of the SX1262's, 6.1.4, for SF 5 and
// 6, with the optimisation for low data rates where a symbol takes 16 ms or more, as the chips demand.
func (m LoRa) Airtime(n int) time.Duration {
	preamble, low, header, crc := int64(m.Preamble), int64(0), int64(1), int64(1)
	if preamble == 0 {
		preamble = 8
	}
	if m.Symbol() >= 16*time.Millisecond {
		low = 1
	}
	if m.Implicit {
		header = 0
	}
	if m.NoCRC {
		crc = 0
	}
	sf := int64(m.SpreadingFactor)
	sync, lead := int64(17), int64(8) // quarters of a symbol: sync word and down-chirps
	if sf < 7 {
		sync, lead = 25, 0
	}
	over, per := 8*int64(n)-4*sf+lead+16*crc+20*header, 4*(sf-2*low)
	symbols := int64(8)
	if over > 0 {
		symbols += (over + per - 1) / per * int64(m.CodingRate)
	}
	quarters := 4*(preamble+symbols) + sync
	return time.Duration(quarters * (int64(1) << sf) * int64(time.Second) / (4 * int64(m.BandwidthHz)))
}
