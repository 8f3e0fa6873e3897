// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"errors"
	"fmt"
	"strings"
)

// UISize is what addresses, control and protocol of an unnumbered frame of packet radio add.
const UISize = 7 + 7 + 1 + 1

// ErrCall says that a text is no call sign with or without SSID.
var ErrCall = errors.New("no call sign")

// UI is the address field of an unnumbered information frame without repeaters (AX.25 2.2, 3.12 and 4.3.3.6): what a TNC
// must find in a packet to let it pass.
type UI struct {
	To, From string // "DL1ABC" or "DL1ABC-7"
}

const (
	uiControl = 0x03 // unnumbered information, no poll
	// A layer 3 of its own (AX.25 2.2, 3.4: bits xx01xxxx). "None" (0xF0) would be APRS: its gateways would take our frames to the Internet,
	// and TNCs that know it send each one in a transmission of its own.
	protocol = 0x5A
)

// ValidCall says whether s is a call sign: one to six letters and digits, perhaps an SSID of 0 to 15 behind a hyphen.
func ValidCall(s string) bool {
	_, err := appendCall(nil, s, 0)
	return err == nil
}

// Append appends addresses, control, protocol and raw.
func (u UI) Append(dst, raw []byte) ([]byte, error) {
	dst, err := appendCall(dst, u.To, 0x80) // a command, as UI frames are
	if err != nil {
		return dst, err
	}
	if dst, err = appendCall(dst, u.From, 1); err != nil { // 1: the last address
		return dst, err
	}
	return append(append(dst, uiControl, protocol), raw...), nil
}

// appendCall appends one address: six characters shifted left, then C or H bit, two reserved ones, SSID, end.
func appendCall(dst []byte, call string, bits byte) ([]byte, error) {
	name, ssid, hyphen := strings.Cut(call, "-")
	n := 0
	if hyphen {
		if len(ssid) == 0 || len(ssid) > 2 {
			return dst, fmt.Errorf("%q: %w", call, ErrCall)
		}
		for _, c := range []byte(ssid) {
			if c < '0' || c > '9' {
				return dst, fmt.Errorf("%q: %w", call, ErrCall)
			}
			n = 10*n + int(c-'0')
		}
	}
	if len(name) < 1 || len(name) > 6 || n > 15 {
		return dst, fmt.Errorf("%q: %w", call, ErrCall)
	}
	for i := range 6 {
		c := byte(' ')
		if i < len(name) {
			c = name[i]
			if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
				return dst, fmt.Errorf("%q: %w", call, ErrCall)
			}
		}
		dst = append(dst, c<<1)
	}
	return append(dst, bits|0x60|byte(n)<<1), nil
}

// ParseUI takes a packet apart: false for anything but an unnumbered information frame of our protocol. Repeaters on its
// way are skipped. raw points into b.
func ParseUI(b []byte) (u UI, raw []byte, ok bool) {
	var calls []string
	for {
		if len(b) < 7 || len(calls) == 10 {
			return UI{}, nil, false
		}
		call, ok := parseCall(b[:7])
		if !ok {
			return UI{}, nil, false
		}
		calls = append(calls, call)
		last := b[6]&1 != 0
		b = b[7:]
		if last {
			break
		}
	}
	if len(calls) < 2 || len(b) < 2 || b[0]&^0x10 != uiControl || b[1] != protocol {
		return UI{}, nil, false
	}
	return UI{To: calls[0], From: calls[1]}, b[2:], true
}

func parseCall(b []byte) (string, bool) {
	var name [6]byte
	for i := range name {
		c := b[i] >> 1
		if b[i]&1 != 0 || c != ' ' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return "", false
		}
		name[i] = c
	}
	s := strings.TrimRight(string(name[:]), " ")
	if s == "" || strings.Contains(s, " ") {
		return "", false
	}
	if n := b[6] >> 1 & 15; n != 0 {
		s += fmt.Sprintf("-%d", n)
	}
	return s, true
}
