// SPDX-License-Identifier: EUPL-1.2

// Package dhcp speaks DHCPv4 (RFC 2131) on one Ethernet, as values: a Client is told of messages and the time and keeps a Lease, a Server is
// told of messages and the time and hands out the addresses of one network. Both answer with packets to send and with addresses to ask for by
// ARP before they are used. Neither knows sockets or clocks.
//
// Boxes know each other: a request of a box carries vendor class "hallig" (option 60) and, if the box is itself host on that network, the role
// "host" in option 43; an answer of a box to a box carries option 43 and neither router nor DNS, as a box leads nowhere. The bytes are read and
// written by a library; what they may contain is judged here. Relays (giaddr) are not served.
package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Ports of DHCP.
const (
	ServerPort = 67
	ClientPort = 68
)

// MAC is an Ethernet address.
type MAC [6]byte

// Everyone is the broadcast address.
var everyone = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Everyone gives the broadcast address.
func Everyone() MAC { return everyone }

func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText is String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(strings.ReplaceAll(string(b), ":", ""))
	if err != nil || len(raw) != len(m) {
		return fmt.Errorf("read Ethernet address %q: want six bytes in hexadecimal", b)
	}
	copy(m[:], raw)
	return nil
}

// Less orders addresses: of two hosts on one wire the lower one stays.
func (m MAC) Less(o MAC) bool {
	for i := range m {
		if m[i] != o[i] {
			return m[i] < o[i]
		}
	}
	return false
}

// Single says whether the address is that of one machine.
func (m MAC) Single() bool { return m[0]&1 == 0 && m != MAC{} }

// Packet is a DHCP message on its way.
type Packet struct {
	To               MAC
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Payload          []byte
}

// Message is a DHCP message that was checked for what both roles need.
type Message struct {
	*dhcpv4.DHCPv4
	Type     dhcpv4.MessageType
	Client   MAC
	Server   netip.Addr // the server's identifier; invalid if absent
	Wanted   netip.Addr // the requested address; invalid if absent
	Hallig   bool       // from a box
	HostRole bool       // from a box that is host on this network
}

const (
	vendor   = "hallig"
	role     = 1 // sub-option of option 43
	roleHost = "host"
	roleBox  = "box"
)

// optionPortal is DHCP option 114: https://www.rfc-editor.org/rfc/rfc8910#section-2.1
const optionPortal = dhcpv4.GenericOptionCode(114)

// maxMessage bounds what is parsed: an Ethernet frame.
const maxMessage = 1500

// Parse reads a message from the wire. A message that says it is from a relay is refused.
func Parse(payload []byte) (*Message, error) {
	if len(payload) > maxMessage {
		return nil, fmt.Errorf("read DHCP message: %d bytes are more than a frame holds", len(payload))
	}
	d, err := dhcpv4.FromBytes(payload)
	if err != nil {
		return nil, fmt.Errorf("read DHCP message: %w", err)
	}
	if d.HWType != iana.HWTypeEthernet || len(d.ClientHWAddr) != 6 {
		return nil, errors.New("read DHCP message: not for Ethernet")
	}
	m := &Message{DHCPv4: d, Type: d.MessageType(), Client: MAC(d.ClientHWAddr)}
	if !m.Client.Single() {
		return nil, errors.New("read DHCP message: the client's address is not that of one machine")
	}
	if ip(d.GatewayIPAddr) != netip.IPv4Unspecified() {
		return nil, errors.New("read DHCP message: from a relay")
	}
	m.Server, m.Wanted = option(d, dhcpv4.OptionServerIdentifier), option(d, dhcpv4.OptionRequestedIPAddress)
	mark := string(d.Options.Get(dhcpv4.OptionVendorSpecificInformation))
	switch d.OpCode {
	case dhcpv4.OpcodeBootRequest:
		m.Hallig = d.ClassIdentifier() == vendor
		m.HostRole = m.Hallig && mark == marked(roleHost)
	case dhcpv4.OpcodeBootReply:
		m.Hallig = mark == marked(roleHost) || mark == marked(roleBox)
		m.HostRole = m.Hallig
	default:
		return nil, fmt.Errorf("read DHCP message: operation %d", d.OpCode)
	}
	return m, nil
}

func marked(r string) string { return string([]byte{role, byte(len(r))}) + r }

// ip reads an address field; what is no IPv4 address is 0.0.0.0.
func ip(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || !a.Unmap().Is4() {
		return netip.IPv4Unspecified()
	}
	return a.Unmap()
}

func option(d *dhcpv4.DHCPv4, code dhcpv4.OptionCode) netip.Addr {
	b := d.Options.Get(code)
	if len(b) != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}

func list(d *dhcpv4.DHCPv4, code dhcpv4.OptionCode, most int) []netip.Addr {
	var out []netip.Addr
	for b := d.Options.Get(code); len(b) >= 4 && len(out) < most; b = b[4:] {
		if a := netip.AddrFrom4([4]byte(b[:4])); machine(a) {
			out = append(out, a)
		}
	}
	return out
}

// machine says whether an address can be that of one machine.
func machine(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a.As4()[0] != 0 && a.As4()[0] < 240
}

// inside says whether an address can be that of a machine in a network.
func inside(p netip.Prefix, a netip.Addr) bool {
	first, last := ends(p)
	n := number(a)
	return machine(a) && n > first && n < last
}

// ends are the network's own and its broadcast address, as numbers.
func ends(p netip.Prefix) (first, last uint32) {
	first = number(p.Masked().Addr())
	return first, first | uint32(1<<(32-p.Bits())-1)
}

func number(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func message(op dhcpv4.OpcodeType, xid dhcpv4.TransactionID, mac MAC, opts ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	zero := []byte{0, 0, 0, 0}
	return &dhcpv4.DHCPv4{
		OpCode: op, HWType: iana.HWTypeEthernet, TransactionID: xid, ClientHWAddr: mac[:],
		ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		Options: dhcpv4.OptionsFromList(opts...),
	}
}

func secs(d time.Duration) uint16 { return uint16(min(max(d/time.Second, 0), 0xffff)) }
