// SPDX-License-Identifier: EUPL-1.2

package pcap

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

func frame(t testing.TB, text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const ether = "ffffffffffff 525400123456 "

// frames as they travel, and what they are.
var frames = []struct{ name, text, kind, says string }{
	{"arp", ether + "0806 0001080006040001 525400123456 0a00020f 000000000000 0a000202", "ARP", ""},
	{"dhcp discover", ether + "0800 4500012000000000401179ce00000000ffffffff 00440043010c0000", "DHCP", ""},
	{"dhcp answer", ether + "0800 4500012000000000401179ce0a000202ffffffff 00430044010c0000", "DHCP", ""},
	{"mdns", ether + "0800 4500004000000000ff1100000a00020fe00000fb 14e914e9002c0000", "mDNS", ""},
	{"mdns over IPv6", ether + "86dd 60000000 0008 11 ff fe800000000000000000000000000001 ff0200000000000000000000000000fb 14e914e900080000", "mDNS", ""},
	{"igmp", ether + "0800 46c00028000040000102 0000 0a00020f e0000016 94040000 2200f9020000000104000000e00000fb", "multicast membership", ""},
	{"mld", ether + "86dd 60000000 0024 00 01 fe800000000000000000000000000001 ff020000000000000000000000000016 3a00050200000100 8f00000000000001", "multicast membership", ""},
	{"router solicitation", ether + "86dd 60000000 0008 3a ff fe800000000000000000000000000001 ff020000000000000000000000000002 8500000000000000", "IPv6 neighbour discovery", ""},
	{"ping6", ether + "86dd 60000000 0008 3a ff fe800000000000000000000000000001 ff020000000000000000000000000002 8000000000000000", "other", "ICMPv6 type 128 fe80::1 -> ff02::2"},
	{"dns", ether + "0800 4500003c0000000040110000 0a00020f 0a000203 d0000035002c0000", "other", "UDP 10.0.2.15:53248 -> 10.0.2.3:53"},
	{"ntp", ether + "0800 4500004c0000000040110000 0a00020f 01020304 007b007b00380000", "other", "UDP 10.0.2.15:123 -> 1.2.3.4:123"},
	{"tcp", ether + "0800 4500003c0000000040060000 0a00020f 01020304 d00001bb00000000", "other", "TCP 10.0.2.15:53248 -> 1.2.3.4:443"},
	{"unicast to port 5353", ether + "0800 4500004000000000ff1100000a00020f01020304 14e914e9002c0000", "other", "UDP 10.0.2.15:5353 -> 1.2.3.4:5353"},
	{"fragment", ether + "0800 4500004000002001ff1100000a00020fe00000fb 14e914e9002c0000", "other", "IPv4 fragment 10.0.2.15 -> 224.0.0.251"},
	{"lldp", ether + "88cc 0000", "other", "EtherType 0x88cc"},
	{"short", "ffff", "other", "a frame without a header"},
	{"short ipv4", ether + "0800 4f00", "other", "damaged IPv4"},
	{"short ipv6", ether + "86dd 6000", "other", "damaged IPv6"},
	{"long options", ether + "86dd 60000000 0024 00 01 fe800000000000000000000000000001 ff020000000000000000000000000016 3aff050200000100", "other", "damaged IPv6"},
}

func TestClassify(t *testing.T) {
	for _, f := range frames {
		got := Classify(frame(t, f.text))
		if string(got.Kind) != f.kind || got.Text != f.says {
			t.Errorf("%s: %q %q, want %q %q", f.name, got.Kind, got.Text, f.kind, f.says)
		}
	}
}

func file(t testing.TB) []byte {
	le := binary.LittleEndian
	b := make([]byte, 24)
	le.PutUint32(b, 0xa1b2c3d4)
	le.PutUint32(b[20:], 1)
	for i, f := range frames {
		raw := frame(t, f.text)
		h := make([]byte, 16)
		le.PutUint32(h, 1000+uint32(i))
		le.PutUint32(h[4:], 500_000)
		le.PutUint32(h[8:], uint32(len(raw)))
		le.PutUint32(h[12:], uint32(len(raw)))
		b = append(append(b, h...), raw...)
	}
	return b
}

func TestRead(t *testing.T) {
	b := file(t)
	n := 0
	if err := Read(bytes.NewReader(b), func(f Frame) error {
		if want := time.Unix(1000+int64(n), 500_000_000); !f.At.Equal(want) {
			t.Errorf("frame %d at %v, want %v", n, f.At, want)
		}
		n++
		return nil
	}); err != nil || n != len(frames) {
		t.Errorf("%d frames, %v; want %d", n, err, len(frames))
	}
	for _, cut := range []int{0, 10, 23, 30, len(b) - 1} {
		if err := Read(bytes.NewReader(b[:cut]), func(Frame) error { return nil }); err == nil {
			t.Errorf("cut off at %d: no error", cut)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(file(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Read(bytes.NewReader(b), func(fr Frame) error {
			if fr.Kind == Other && fr.Text == "" {
				t.Fatalf("a frame that is %q and nothing else: %+v", Other, fr)
			}
			return nil
		})
	})
}
