// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// addrs lists the addresses that the port has.
func (p *port) addrs() []netip.Prefix {
	var out []netip.Prefix
	if p.step == static {
		out = append(out, p.addr)
	}
	if p.lease != nil {
		out = append(out, p.lease.Addr)
	}
	if p.serving() {
		out = append(out, p.hostNet)
	}
	return out
}

// serving says whether the network of our own is there, with or without new phones.
func (p *port) serving() bool {
	return p.server != nil && p.hostNet.IsValid() && p.step != claiming && p.step != down
}

func (p *port) want() Want {
	w := Want{Link: p.link, Leave: p.step == left || p.mode == Off, Addrs: p.addrs(), Gateway: p.gateway()}
	if p.serving() {
		w.DNS = p.hostNet.Addr()
	}
	return w
}

func (p *port) gateway() netip.Addr {
	switch {
	case p.step == static:
		return p.m.plan.gateway
	case p.lease != nil && (p.step == guest || p.step == doubting):
		return p.lease.Gateway
	}
	return netip.Addr{}
}

func (p *port) iface() Interface {
	i := Interface{Name: p.link.Name, MAC: p.link.MAC.String(), Carrier: p.link.Carrier, Mode: Waiting, Addresses: p.addrs(), Gateway: p.gateway(),
		Server: p.foreign, Names: p.names.Names(), Note: p.note()}
	if i.Addresses == nil {
		i.Addresses = []netip.Prefix{}
	}
	switch p.step {
	case left:
		i.Mode = Off
	case static:
		i.Mode, i.DNS, i.NTP = Static, p.m.plan.dns, p.m.plan.ntp
	case guest, doubting:
		i.Mode, i.DNS, i.NTP = Guest, p.lease.DNS, p.lease.NTP
		i.Lease = &Lease{Server: p.lease.Server, Seconds: int(p.lease.Length.Seconds()), Hallig: p.lease.Hallig}
	case hosting, yielding:
		i.Mode = Host
	}
	return i
}

// note is what people should know of a network.
func (p *port) note() *Text {
	switch {
	case p.step == down:
		return &Text{"Kein Kabel, oder am anderen Ende ist nichts eingeschaltet.", "No cable, or nothing is switched on at its other end."}
	case p.clash && p.step == claiming:
		return &Text{fmt.Sprintf("Die eingestellte Adresse %s benutzt schon ein anderes Gerät. Bitte eine andere einstellen oder das Gerät abziehen.", p.addr.Addr()),
			fmt.Sprintf("Another device already uses the configured address %s. Please configure another one, or unplug the device.", p.addr.Addr())}
	case p.clash:
		return &Text{"Ein anderes Gerät benutzt dieselbe Adresse wie diese Box. Bitte das Gerät suchen und abziehen.",
			"Another device uses the same address as this box. Please find the device and unplug it."}
	case p.twin != "":
		return &Text{fmt.Sprintf("Steckt im selben Netz wie %s; ein Kabel genügt.", p.twin), fmt.Sprintf("Plugged into the same network as %s; one cable is enough.", p.twin)}
	case p.step == hosting && p.foreign.IsValid() && p.mode == Host:
		return &Text{fmt.Sprintf("In diesem Netz vergibt auch %s Adressen. Bitte eines von beiden abschalten, oder die Box auf „auto“ stellen.", p.foreign),
			fmt.Sprintf("%s gives addresses on this network too. Please switch one of the two off, or set the box to \"auto\".", p.foreign)}
	case p.step == doubting:
		return &Text{fmt.Sprintf("Der Router %s antwortet nicht mehr.", p.lease.Server), fmt.Sprintf("The router %s no longer answers.", p.lease.Server)}
	case p.step == asking:
		return &Text{"Fragt das Netz nach einer Adresse.", "Asking the network for an address."}
	case p.step == guest && p.lease.Hallig:
		t := &Text{"Gast einer anderen Hallig-Box; sie vergibt hier die Adressen.", "Guest of another Hallig box, which gives the addresses here."}
		if r := p.renamed(); r != nil {
			t.De, t.En = t.De+" "+r.De, t.En+" "+r.En
		}
		return t
	}
	return p.renamed()
}

// renamed tells that another machine has the name that everybody looks for.
func (p *port) renamed() *Text {
	names := p.names.Names()
	if slices.Contains(names, Shared) || !slices.Contains(p.m.names.Names, Shared) {
		return nil
	}
	for _, n := range names {
		if strings.HasPrefix(n, "hallig-") && !slices.Contains(p.m.names.Names, n) {
			return &Text{fmt.Sprintf("Der Name %s gehört in diesem Netz einem anderen Gerät; diese Box heißt hier %s.", Shared, n),
				fmt.Sprintf("The name %s belongs to another device on this network; this box is %s here.", Shared, n)}
		}
	}
	return nil
}

// wireless says honestly what there is of Wi-Fi.
func (m *Machine) wireless() Text {
	switch {
	case m.wifi:
		return Text{"Dieses Gerät hat WLAN, aber die Box kann damit keinen Zugangspunkt öffnen: Dem Abbild fehlen die Firmware der Funkchips und der Dienst, der Telefone anmeldet. Bitte einen WLAN-Zugangspunkt (Router im Modus „Access Point“) mit einem Kabel an die Box stecken.",
			"This device has Wi-Fi, but the box cannot open an access point with it: the image has neither the radio chips' firmware nor the service that lets phones in. Please plug a Wi-Fi access point (a router in access point mode) into the box with a cable."}
	case m.cfg.WiFi.SSID != "":
		return Text{"Ein WLAN ist eingestellt, aber die Box kann keines öffnen: Der Kern hat keine Treiber dafür. Bitte einen WLAN-Zugangspunkt mit einem Kabel an die Box stecken.",
			"Wi-Fi is configured, but the box cannot open one: its kernel has no drivers for it. Please plug a Wi-Fi access point into the box with a cable."}
	}
	return Text{"Die Box hat kein eigenes WLAN. Telefone erreichen sie über einen WLAN-Zugangspunkt, der mit einem Kabel an ihr steckt.",
		"The box has no Wi-Fi of its own. Phones reach it through a Wi-Fi access point that is plugged into it with a cable."}
}
