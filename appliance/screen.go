// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"fmt"
	"io"
	"net"
	"strings"

	"hallig/appliance/qrtext"
)

// Screen is what a person sees when a box starts.
type Screen struct {
	ServerName string
	URL        string
	BoxID      string
	EnrolCode  string // "" once an administrator exists
	NameFixed  bool
	// Fingerprint is that of the box's certificate authority, to compare with before trusting it; "": no TLS.
	Fingerprint string
}

// Print writes the one screen: URL, QR code for phones, enrolment code.
func (s Screen) Print(w io.Writer) {
	fmt.Fprintf(w, "\nHallig box %s\n\n", s.ServerName)
	if code := qrtext.Draw(s.URL); code != "" {
		fmt.Fprintln(w, code)
	}
	fmt.Fprintf(w, "  Phones / Telefone:  %s\n", s.URL)
	fmt.Fprintf(w, "  Box:                %s\n", s.BoxID)
	if s.Fingerprint != "" {
		fmt.Fprintf(w, "  Fingerprint / Fingerabdruck (SHA-256):\n      %s\n      %s\n      %s\n      %s\n",
			s.Fingerprint[:23], s.Fingerprint[24:47], s.Fingerprint[48:71], s.Fingerprint[72:])
	}
	if s.EnrolCode != "" {
		fmt.Fprintf(w, "\n  First administrator, once / erste Administratorin, einmalig:\n      registration token %s\n", s.EnrolCode)
	}
	if !s.NameFixed {
		fmt.Fprintf(w, "\n  The name %s is fixed with the first account. To come home to a central server\n"+
			"  later, stop now and start with --name box1.your-organisation.example (a name under your DNS).\n", s.ServerName)
	}
	fmt.Fprintf(w, "\n  Stop: Ctrl-C.  Pair with another box: hallig pair\n\n")
}

// phoneURL is the address that phones shall use: the configured one, or the first address of the listener that another
// machine can reach.
func phoneURL(public string, addr net.Addr) string {
	if public != "" {
		return strings.TrimRight(public, "/")
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "http://" + addr.String()
	}
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
		if addrs, err := net.InterfaceAddrs(); err == nil {
			for _, a := range addrs {
				if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
					host = n.IP.String()
					break
				}
			}
		}
	}
	if tcp.Port == 80 {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return "http://" + host
	}
	if tcp.Port == 80 {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return "http://" + host
	}
	return "http://" + net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}
