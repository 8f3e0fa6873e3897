// SPDX-License-Identifier: EUPL-1.2

package compact

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"

	"hallig/appliance/event"
)

// JSON text never holds a byte below 0x20: these are free to stand for more. A text in this form ends with 0.
const (
	end     = 0 // of the text
	run     = 1 // uvarint n, 3n bytes: 4n characters of base64
	eventIs = 2 // 32 bytes: an event id of room version 4 or later
	first   = 3 // from here on a phrase each
	minRun  = 24
)

// phrases are what first, first+1 ... stand for. The list is for ever.
var phrases = [...]string{
	`{"body":"`,
	`","msgtype":"m.text"}`,
	`","m.mentions":{},"msgtype":"m.text"}`,
	`{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"`,
	`","device_id":"`,
	`","sender_key":"`,
	`","session_id":"`,
	`{"m.relates_to":{"event_id":"`,
	`,"m.relates_to":{"event_id":"`,
	`"m.relates_to":{"m.in_reply_to":{"event_id":"`,
	`"m.in_reply_to":{"event_id":"`,
	`","rel_type":"m.`,
	`"rel_type":"m.thread"}`,
	`"is_falling_back":true,`,
	`"m.mentions":{"user_ids":["@`,
	`"m.new_content":{"body":"`,
	`","format":"org.matrix.custom.html","formatted_body":"`,
	`{"displayname":"`,
	`","membership":"join"}`,
	`"membership":"`,
	`{"avatar_url":"mxc://`,
	`"url":"mxc://`,
	`"info":{"h":`,
	`"mimetype":"image/`,
	`,"msgtype":"m.`,
	`{"sha256":"`,
	`"ed25519:`,
	`"key_ops":["encrypt","decrypt"],"kty":"oct"},"v":"v2"`,
	`"}`,
}

// starting lists the phrases by their first byte, the longest first.
var starting = func() (t [256][]byte) {
	for i, p := range phrases {
		list := t[p[0]]
		at := len(list)
		for at > 0 && len(phrases[list[at-1]]) < len(p) {
			at--
		}
		list = append(list, 0)
		copy(list[at+1:], list[at:])
		list[at] = byte(i)
		t[p[0]] = list
	}
	return t
}()

// in64 marks the alphabet of base64.
var in64 = func() (t [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		t[c] = true
	}
	return t
}()

// appendPhrases writes text in short. ok is false if text holds a byte that no JSON text has.
func appendPhrases(out, text []byte) (short []byte, ok bool) {
	lit, letters := 0, 0 // where what is not written yet begins; where the run of base64 begins that goes on at i
	for i := 0; i < len(text); {
		c := text[i]
		if in64[c] {
			i++
			continue
		}
		if c < 0x20 {
			return out, false
		}
		if out, lit = appendRun(out, text, lit, letters, i); c == '$' && len(text)-i >= 44 {
			if h, ok := hashOf(text[i : i+44]); ok {
				out = append(append(append(out, text[lit:i]...), eventIs), h[:]...)
				i += 44
				lit, letters = i, i
				continue
			}
		}
		n := 1
		for _, p := range starting[c] {
			if bytes.HasPrefix(text[i:], []byte(phrases[p])) {
				n = len(phrases[p])
				out = append(append(out, text[lit:i]...), first+p)
				lit = i + n
				break
			}
		}
		i += n
		letters = i
	}
	out, lit = appendRun(out, text, lit, letters, len(text))
	return append(append(out, text[lit:]...), end), true
}

// appendRun writes the characters of base64 in text[from:to], if they are many, and what waits before them.
func appendRun(out, text []byte, lit, from, to int) ([]byte, int) {
	if to-from < minRun {
		return out, lit
	}
	n := (to - from) / 4
	out = append(append(out, text[lit:from]...), run)
	out = binary.AppendUvarint(out, uint64(n))
	out, _ = base64.RawStdEncoding.AppendDecode(out, text[from:from+4*n]) // whole groups of the alphabet: no error
	return out, from + 4*n
}

// phrases reads a text that appendPhrases wrote.
func (d *decoder) phrases() bool {
	for len(d.out) <= event.MaxSize {
		n := 0
		for n < len(d.in) && d.in[n] >= 0x20 {
			n++
		}
		d.out = append(d.out, d.in[:n]...)
		if n == len(d.in) {
			return false
		}
		c := d.in[n]
		switch d.in = d.in[n+1:]; {
		case c == end:
			return true
		case c == run:
			n, ok := d.uvarint()
			if !ok || n > uint64(len(d.in)/3) {
				return false
			}
			d.out = base64.RawStdEncoding.AppendEncode(d.out, d.in[:3*n])
			d.in = d.in[3*n:]
		case c == eventIs:
			if len(d.in) < 32 {
				return false
			}
			d.out = base64.RawURLEncoding.AppendEncode(append(d.out, '$'), d.in[:32])
			d.in = d.in[32:]
		case int(c-first) < len(phrases):
			d.out = append(d.out, phrases[c-first]...)
		default:
			return false
		}
	}
	return false
}
