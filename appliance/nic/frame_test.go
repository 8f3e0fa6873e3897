// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"
)

func sample() datagram {
	return datagram{netip.MustParseAddr("10.83.7.1"), netip.MustParseAddr("255.255.255.255"), 67, 68, []byte("Hallig!")}
}

// TestDatagram is the wire.
func TestDatagram(t *testing.T) {
	raw := sample().bytes()
	d, err := parseDatagram(raw)
	if err != nil || d.src != sample().src || d.dst != sample().dst || d.srcPort != 67 || d.dstPort != 68 || !bytes.Equal(d.payload, sample().payload) {
		t.Fatalf("read %+v, %v", d, err)
	}
	// RFC 1071: the sum over a header with its own checksum is all ones.
	if got := checksum(0, raw[:ipHeader]); got != 0 {
		t.Errorf("IP checksum is off by %04x", got)
	}
	if got := checksum(protoUDP+uint32(len(raw)-ipHeader)+words(raw[12:20]), raw[ipHeader:]); got != 0 {
		t.Errorf("UDP checksum is off by %04x", got)
	}
	if got := hex.EncodeToString(raw[:12]); got[:8] != "45c00023" {
		t.Errorf("begins %s", got)
	}
	for n := range raw {
		if _, err := parseDatagram(raw[:n]); err == nil {
			t.Errorf("%d bytes were taken", n)
		}
	}
	change := func(at int, to byte) []byte {
		b := bytes.Clone(raw)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"IPv6": change(0, 0x65), "short header": change(0, 0x44), "TCP": change(9, 6), "a fragment": change(7, 1), "more fragments": change(6, 0x20),
		"UDP longer than IP": change(25, 200), "UDP too short": change(25, 7), "IP shorter than UDP": change(3, 27),
	} {
		if _, err := parseDatagram(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzDatagram(f *testing.F) {
	f.Add(sample().bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDatagram(b)
		if err != nil {
			return
		}
		again, err := parseDatagram(d.bytes())
		if err != nil || again.dstPort != d.dstPort || again.src != d.src || !bytes.Equal(again.payload, d.payload) {
			t.Fatalf("%+v came back as %+v, %v", d, again, err)
		}
	})
}
