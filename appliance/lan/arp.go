// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"hallig/appliance/lan/dhcp"
)

// ARP operations.
const (
	arpRequest = 1
	arpReply   = 2
)

// ARP is a question who has an IPv4 address on this Ethernet, or the answer (RFC 826).
type ARP struct {
	To           dhcp.MAC // of the frame
	Op           uint16
	MAC          dhcp.MAC   // the sender's
	IP           netip.Addr // the sender's; 0.0.0.0 in a probe
	Target       netip.Addr
	TargetDevice dhcp.MAC
}

const arpLength = 28

// ParseARP reads a packet; longer ones are padded frames.
func ParseARP(b []byte) (ARP, error) {
	if len(b) < arpLength {
		return ARP{}, fmt.Errorf("read ARP: %d bytes", len(b))
	}
	if binary.BigEndian.Uint64(b)>>16 != 0x0001_0800_0604 {
		return ARP{}, errors.New("read ARP: not IPv4 over Ethernet")
	}
	a := ARP{Op: binary.BigEndian.Uint16(b[6:]), MAC: dhcp.MAC(b[8:14]), IP: netip.AddrFrom4([4]byte(b[14:18])),
		TargetDevice: dhcp.MAC(b[18:24]), Target: netip.AddrFrom4([4]byte(b[24:28]))}
	if a.Op != arpRequest && a.Op != arpReply {
		return ARP{}, fmt.Errorf("read ARP: operation %d", a.Op)
	}
	if !a.MAC.Single() {
		return ARP{}, errors.New("read ARP: the sender is not one machine")
	}
	return a, nil
}

// Bytes gives the packet.
func (a ARP) Bytes() []byte {
	b := make([]byte, 8, arpLength)
	binary.BigEndian.PutUint64(b, 0x0001_0800_0604<<16|uint64(a.Op))
	b = append(b, a.MAC[:]...)
	b = append(b, a.IP.AsSlice()...)
	b = append(b, a.TargetDevice[:]...)
	return append(b, a.Target.AsSlice()...)
}

// whoHas asks for an address; from 0.0.0.0 it is a probe that leaves no trace in the neighbours' tables (RFC 5227).
func whoHas(mac dhcp.MAC, from, target netip.Addr) ARP {
	return ARP{To: dhcp.Everyone(), Op: arpRequest, MAC: mac, IP: from, Target: target}
}
