// SPDX-License-Identifier: EUPL-1.2

// Package lan decides how a box behaves on its local networks, each interface by itself. If the network has a DHCP server the box is its guest.
// If it has none, the box gives addresses and names itself (it is host), and stops when a server appears. It answers its names by mDNS in both
// roles. Nothing is routed or bridged: one interface, one network.
//
// It is pure: Machine is told of carriers, frames and the time, and answers with frames to send (Frame: DHCP, ARP or mDNS, there is no other
// kind, which is the box's promise about what it says unasked), with the addresses and routes that shall be (Want), with what DNS shall answer,
// and with State for people and for other processes. Room nic beside it owns sockets and the kernel's interfaces; cmd/hallig-lan runs both.
//
// The files, all in the run directory (/run/hallig), each written whole: network.json (Config; written by the init process, read here),
// box/names.json (Names; written by hallig), lan/lan.json (State; written here, only when something changed).
package lan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Where the files are, relative to the run directory.
const (
	ConfigFile = "network.json"
	NamesFile  = "box/names.json"
	StateFile  = "lan/lan.json"
)

// Shared is the name that every box has, as long as no other one has it on its network.
const Shared = "hallig.local"

// Text is a sentence for people.
type Text struct {
	De string `json:"de"`
	En string `json:"en"`
}

// Mode is what the box is on a network.
type Mode string

// Modes. In a Config all but Waiting may be asked for; in a State each but Auto may be found.
const (
	Auto    Mode = "auto"    // guest where there is a server, else host
	Guest   Mode = "guest"   // address from the network's DHCP server
	Host    Mode = "host"    // the box gives addresses and names
	Static  Mode = "static"  // address as configured, no DHCP
	Off     Mode = "off"     // the interface is left alone
	Waiting Mode = "waiting" // no cable, or still asking
)

// Config is the "network" part of the provisioning file, which is checked more closely where it is accepted. The zero value is right: automatic.
// Address, Gateway, DNS and NTP belong to the first Ethernet interface (the lowest index); further ones are automatic, or as Mode says if it is
// host, guest or off.
type Config struct {
	Mode    Mode     `json:"mode,omitempty"`
	Address string   `json:"address,omitempty"` // "192.168.7.1/24"; when the box is static or host
	Gateway string   `json:"gateway,omitempty"` // of Static
	DNS     []string `json:"dns,omitempty"`     // of Static
	NTP     []string `json:"ntp,omitempty"`     // of Static; only addresses come into a State
	WiFi    WiFi     `json:"wifi,omitzero"`
}

// WiFi is the wish for an access point.
type WiFi struct {
	SSID       string `json:"ssid,omitempty"`
	Passphrase string `json:"passphrase,omitempty"`
	Country    string `json:"country,omitempty"`
	Channel    int    `json:"channel,omitempty"`
}

// maxFile bounds what is read of a file of others.
const maxFile = 64 << 10

// ParseConfig reads a Config and checks it. Null or {} is the zero Config.
func ParseConfig(data []byte) (Config, error) {
	var c Config
	if err := strictly(data, &c); err != nil {
		return Config{}, fmt.Errorf("read network settings: %w", err)
	}
	if _, err := c.plan(); err != nil {
		return Config{}, fmt.Errorf("check network settings: %w", err)
	}
	return c, nil
}

// plan is a Config in parsed form.
type plan struct {
	mode    Mode
	addr    netip.Prefix // invalid: none
	gateway netip.Addr
	dns     []netip.Addr
	ntp     []netip.Addr
}

func (c Config) plan() (plan, error) {
	p := plan{mode: c.Mode}
	switch c.Mode {
	case "":
		p.mode = Auto
	case Auto, Guest, Host, Static, Off:
	default:
		return plan{}, fmt.Errorf(`mode %q is not known; use "auto", "guest", "host", "static" or "off"`, c.Mode)
	}
	var err error
	if c.Address != "" {
		if p.addr, err = netip.ParsePrefix(c.Address); err != nil || !p.addr.Addr().Is4() {
			return plan{}, fmt.Errorf("address %q: want an IPv4 address with its mask, like 192.168.7.1/24", c.Address)
		}
		if bits := p.addr.Bits(); bits < 8 || bits > 30 || !usable(p.addr) {
			return plan{}, fmt.Errorf("address %q cannot be a box's: take a private one with a mask from /8 to /30, like 192.168.7.1/24", c.Address)
		}
	} else if p.mode == Static {
		return plan{}, errors.New(`mode "static" needs an address, like 192.168.7.1/24`)
	}
	if c.Gateway != "" {
		if p.gateway, err = netip.ParseAddr(c.Gateway); err != nil || !p.addr.IsValid() || !p.addr.Contains(p.gateway) || p.gateway == p.addr.Addr() {
			return plan{}, fmt.Errorf("gateway %q must be another address in the network of address %q", c.Gateway, c.Address)
		}
	}
	if p.dns, err = addrs(c.DNS); err != nil {
		return plan{}, fmt.Errorf("dns: %w", err)
	}
	for _, s := range c.NTP[:min(len(c.NTP), most)] {
		if a, err := netip.ParseAddr(s); err == nil {
			p.ntp = append(p.ntp, a)
		}
	}
	return p, nil
}

// most bounds a list of servers.
const most = 8

func addrs(list []string) ([]netip.Addr, error) {
	if len(list) > most {
		return nil, fmt.Errorf("%d servers are too many, at most %d", len(list), most)
	}
	var out []netip.Addr
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return nil, fmt.Errorf("%q is not the address of a server", s)
		}
		out = append(out, a)
	}
	return out, nil
}

// Names is what the box is called, and where its captive portal is if phones trust its certificate.
type Names struct {
	Names []string `json:"names"`
	// Portal is the https URL of the captive portal API (RFC 8908), told by DHCP option 114 (RFC 8910). Only for a certificate that phones
	// trust by themselves: they refuse another one, and show nothing.
	Portal string `json:"portal,omitempty"`
}

// ParseNames reads Names; names that no DNS could carry are an error.
func ParseNames(data []byte) (Names, error) {
	var n Names
	if len(data) > maxFile {
		return Names{}, fmt.Errorf("read names: more than %d bytes", maxFile)
	}
	if err := json.Unmarshal(data, &n); err != nil {
		return Names{}, fmt.Errorf("read names: %w", err)
	}
	if len(n.Names) > 16 {
		return Names{}, fmt.Errorf("read names: %d are too many, at most 16", len(n.Names))
	}
	for i, name := range n.Names {
		n.Names[i] = strings.ToLower(strings.TrimSuffix(name, "."))
		if !hostname(n.Names[i]) {
			return Names{}, fmt.Errorf("read names: %q is no host name", name)
		}
	}
	if n.Portal != "" && (!strings.HasPrefix(n.Portal, "https://") || len(n.Portal) > 255) {
		return Names{}, fmt.Errorf("read names: portal %q must be an https URL of at most 255 bytes", n.Portal)
	}
	return n, nil
}

// hostname says whether a lower-case name is made of host name labels (RFC 1123) and has a dot.
func hostname(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > 253 || len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// State is what the box is on its networks. It has no times in it, so that it changes only when something happened.
type State struct {
	Interfaces []Interface `json:"interfaces"` // by index
	WiFi       Text        `json:"wifi"`       // whether there is an access point, or why not
	Trouble    *Text       `json:"trouble,omitempty"`
}

// Interface is one network.
type Interface struct {
	Name      string         `json:"name"`
	MAC       string         `json:"mac"`
	Carrier   bool           `json:"carrier"`
	Mode      Mode           `json:"mode"`
	Addresses []netip.Prefix `json:"addresses"`
	Gateway   netip.Addr     `json:"gateway,omitzero"`
	DNS       []netip.Addr   `json:"dns,omitempty"`
	NTP       []netip.Addr   `json:"ntp,omitempty"`
	Lease     *Lease         `json:"lease,omitempty"`   // as guest
	Serving   *Serving       `json:"serving,omitempty"` // as host
	// Server is a DHCP server of others that was seen on this network.
	Server netip.Addr `json:"server,omitzero"`
	Names  []string   `json:"names,omitempty"` // answered by mDNS here: "hallig-2.local" if another box has "hallig.local"
	Note   *Text      `json:"note,omitempty"`  // what people should know
}

// Lease is what a server gave.
type Lease struct {
	Server  netip.Addr `json:"server"`
	Seconds int        `json:"seconds"`          // how long it lasts from each renewal
	Hallig  bool       `json:"hallig,omitempty"` // the server is another box: no way to the Internet
}

// Serving counts what a host does.
type Serving struct {
	Clients  int `json:"clients"`  // addresses in use
	Capacity int `json:"capacity"` // addresses there are
}

// ParseState reads a State.
func ParseState(data []byte) (State, error) {
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, fmt.Errorf("read lan state: %w", err)
	}
	return s, nil
}

func strictly(data []byte, to any) error {
	if len(data) > maxFile {
		return fmt.Errorf("more than %d bytes", maxFile)
	}
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is something after the settings")
	}
	return nil
}

// usable says whether a prefix's address can be that of a machine: unicast, and neither the network's own nor its broadcast address.
func usable(p netip.Prefix) bool {
	a := p.Addr()
	if !a.Is4() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.As4()[0] == 0 || a.As4()[0] >= 240 {
		return false
	}
	return a != p.Masked().Addr() && a != broadcast(p)
}

// broadcast is the last address of a network.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}
