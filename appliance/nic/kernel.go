// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hallig/appliance/lan"
)

func same(a, b lan.Want) bool {
	return a.Leave == b.Leave && a.Gateway == b.Gateway && a.DNS == b.DNS && slices.Equal(a.Addrs, b.Addrs) && a.Link.Carrier == b.Link.Carrier
}

// reconcile sets the IPv4 addresses and the default route of an interface, and takes away all others.
func (l *loop) reconcile(w lan.Want) error {
	if w.Leave {
		return nil
	}
	link, err := netlink.LinkByIndex(w.Link.Index)
	if err != nil {
		return fmt.Errorf("find interface: %w", err)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var errs []error
	missing := slices.Clone(w.Addrs)
	for _, a := range have {
		p := prefix(a.IPNet)
		if i := slices.Index(missing, p); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("take address %s away: %w", p, err))
		}
		l.Log.Info("address taken away", "interface", w.Link.Name, "address", p)
	}
	for _, p := range missing {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}}
		if err := netlink.AddrAdd(link, a); err != nil {
			errs = append(errs, fmt.Errorf("set address %s: %w", p, err))
		}
		l.Log.Info("address set", "interface", w.Link.Name, "address", p)
	}
	return errors.Join(append(errs, defaultRoute(link, w.Gateway))...)
}

func prefix(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

// defaultRoute makes the default route over an interface what it should be. Of several interfaces the first one is preferred.
func defaultRoute(link netlink.Link, gateway netip.Addr) error {
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	there := false
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		if gw, _ := netip.AddrFromSlice(r.Gw); gateway.IsValid() && gw.Unmap() == gateway {
			there = true
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("take default route away: %w", err)
		}
	}
	if !gateway.IsValid() || there {
		return nil
	}
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: gateway.AsSlice(), Priority: 100 + link.Attrs().Index, Protocol: unix.RTPROT_DHCP}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("set default route by %s: %w", gateway, err)
	}
	return nil
}
