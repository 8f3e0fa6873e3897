// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"hallig/appliance/lan/dhcp"
)

const (
	ipHeader  = 20
	udpHeader = 8
	protoUDP  = 17
)

// datagram is a UDP packet in an IPv4 packet.
type datagram struct {
	src, dst         netip.Addr
	srcPort, dstPort uint16
	payload          []byte
}

var errFrame = errors.New("read frame: not one whole UDP packet over IPv4")

// parseDatagram reads an IPv4 packet. Checksums are not looked at: the wire has its own, and packets of the same machine have none yet.
func parseDatagram(b []byte) (datagram, error) {
	if len(b) < ipHeader || b[0]>>4 != 4 {
		return datagram{}, errFrame
	}
	hl, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hl < ipHeader || total < hl+udpHeader || total > len(b) || b[9] != protoUDP || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return datagram{}, errFrame
	}
	u := b[hl:total]
	n := int(binary.BigEndian.Uint16(u[4:]))
	if n < udpHeader || n > len(u) {
		return datagram{}, errFrame
	}
	return datagram{netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])),
		binary.BigEndian.Uint16(u), binary.BigEndian.Uint16(u[2:]), u[udpHeader:n]}, nil
}

// bytes gives the IPv4 packet.
func (d datagram) bytes() []byte {
	b := make([]byte, ipHeader+udpHeader, ipHeader+udpHeader+len(d.payload))
	b = append(b, d.payload...)
	src, dst := d.src.As4(), d.dst.As4()
	be := binary.BigEndian
	b[0], b[8], b[9] = 0x45, 64, protoUDP
	b[1] = 0xc0 // network control
	be.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	be.PutUint16(b[10:], checksum(0, b[:ipHeader]))
	u := b[ipHeader:]
	be.PutUint16(u, d.srcPort)
	be.PutUint16(u[2:], d.dstPort)
	be.PutUint16(u[4:], uint16(len(u)))
	check := checksum(protoUDP+uint32(len(u))+words(b[12:20]), u)
	if check == 0 { // https://www.rfc-editor.org/rfc/rfc768: zero means none
		check = 0xffff
	}
	be.PutUint16(u[6:], check)
	return b
}

// checksum is that of RFC 1071, begun with a sum.
func checksum(begun uint32, b []byte) uint16 {
	s := begun + words(b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// words adds the 16-bit words of at most a frame.
func words(b []byte) (s uint32) {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// datagramOf wraps a DHCP packet.
func datagramOf(p *dhcp.Packet) datagram {
	return datagram{src: p.Src, dst: p.Dst, srcPort: p.SrcPort, dstPort: p.DstPort, payload: p.Payload}
}
