// SPDX-License-Identifier: EUPL-1.2

// Package pcap reads a recording of a network (classic pcap of Ethernet, as QEMU's filter-dump writes it) and says of each frame in the words of
// a person with a cable tester what it is. It knows what an idle box may say: ARP, DHCP, mDNS, and what the kernel's IPv6 and multicast need
// for themselves; everything else it describes as well as it can.
package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Kind is what a frame is for.
type Kind string

const (
	ARP       Kind = "ARP"
	DHCP      Kind = "DHCP"
	MDNS      Kind = "mDNS"
	Neighbour Kind = "IPv6 neighbour discovery" // router and neighbour solicitations and advertisements
	Multicast Kind = "multicast membership"     // IGMP, MLD: the kernel's, for mDNS
	Other     Kind = "other"
)

// Frame is one frame.
type Frame struct {
	At       time.Time
	From, To net.HardwareAddr
	Kind     Kind
	Text     string // of what is other: "TCP 10.0.2.15:4001 -> 1.2.3.4:80"
	Size     int
}

// Read calls f for each frame.
func Read(r io.Reader, f func(Frame) error) error {
	var head [24]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read pcap: %w", err)
	}
	le := binary.LittleEndian
	unit := time.Microsecond
	switch le.Uint32(head[:]) {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		unit = time.Nanosecond
	default:
		return errors.New("read pcap: not a little-endian pcap")
	}
	if link := le.Uint32(head[20:]); link != 1 {
		return fmt.Errorf("read pcap: link type %d, want 1 (Ethernet)", link)
	}
	for {
		var h [16]byte
		if _, err := io.ReadFull(r, h[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("read pcap: %w", err) // a machine that lost its power leaves half a frame
		}
		n := le.Uint32(h[8:])
		if n > 1<<18 {
			return fmt.Errorf("read pcap: a frame of %d bytes", n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("read pcap: %w", err)
		}
		fr := Classify(b)
		fr.At = time.Unix(int64(le.Uint32(h[:])), int64(le.Uint32(h[4:]))*int64(unit))
		if err := f(fr); err != nil {
			return err
		}
	}
}

// Classify says what an Ethernet frame is. It believes nothing about its length.
func Classify(b []byte) Frame {
	fr := Frame{Kind: Other, Size: len(b)}
	if len(b) < 14 {
		fr.Text = "a frame without a header"
		return fr
	}
	fr.To, fr.From = net.HardwareAddr(b[:6]), net.HardwareAddr(b[6:12])
	typ, body := binary.BigEndian.Uint16(b[12:]), b[14:]
	switch typ {
	case 0x0806:
		fr.Kind = ARP
	case 0x0800:
		fr.ipv4(body)
	case 0x86dd:
		fr.ipv6(body)
	default:
		fr.Text = fmt.Sprintf("EtherType %#04x", typ)
	}
	return fr
}

func (fr *Frame) ipv4(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 || int(b[0]&15)*4 < 20 || len(b) < int(b[0]&15)*4 {
		fr.Text = "damaged IPv4"
		return
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	proto := b[9]
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		fr.Text = fmt.Sprintf("IPv4 fragment %v -> %v", src, dst)
		return
	}
	if proto == 2 {
		fr.Kind = Multicast
		return
	}
	fr.transport(proto, src, dst, b[int(b[0]&15)*4:])
}

func (fr *Frame) ipv6(b []byte) {
	if len(b) < 40 || b[0]>>4 != 6 {
		fr.Text = "damaged IPv6"
		return
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	next, body := b[6], b[40:]
	if next == 0 && len(body) >= 8 { // hop-by-hop options: MLD carries a router alert
		n := 8 + int(body[1])*8
		if n > len(body) {
			fr.Text = "damaged IPv6"
			return
		}
		next, body = body[0], body[n:]
	}
	if next != 58 {
		fr.transport(next, src, dst, body)
		return
	}
	if len(body) < 4 {
		fr.Text = "damaged ICMPv6"
		return
	}
	switch typ := body[0]; {
	case typ >= 133 && typ <= 137:
		fr.Kind = Neighbour
	case typ >= 130 && typ <= 132, typ == 143:
		fr.Kind = Multicast
	default:
		fr.Text = fmt.Sprintf("ICMPv6 type %d %v -> %v", typ, src, dst)
	}
}

var mdns = map[netip.Addr]bool{netip.MustParseAddr("224.0.0.251"): true, netip.MustParseAddr("ff02::fb"): true}

func (fr *Frame) transport(proto byte, src, dst netip.Addr, b []byte) {
	names := map[byte]string{1: "ICMP", 6: "TCP", 17: "UDP"}
	name, ok := names[proto]
	if !ok {
		fr.Text = fmt.Sprintf("IP protocol %d %v -> %v", proto, src, dst)
		return
	}
	if proto == 1 || len(b) < 8 {
		fr.Text = fmt.Sprintf("%s %v -> %v", name, src, dst)
		return
	}
	from, to := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	switch {
	case proto == 17 && (from == 68 && to == 67 || from == 67 && to == 68) && src.Is4():
		fr.Kind = DHCP
	case proto == 17 && to == 5353 && mdns[dst]:
		fr.Kind = MDNS
	default:
		fr.Text = fmt.Sprintf("%s %v -> %v", name, netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to))
	}
}
