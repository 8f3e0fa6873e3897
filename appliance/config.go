// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"hallig/appliance/cert"
	"hallig/appliance/clock"
	"hallig/appliance/event"
	"hallig/appliance/provision"
	"hallig/appliance/signet"
	"hallig/sync/p2p"
)

// Config is everything that an operator can say about a box. Its zero value, with Data set, is a box that works alone:
// registration by token only, no federation port, libp2p on, no serial line. DIR/config.json holds the same fields as JSON; fields that
// nobody knows are refused, so that a typing error is never taken for consent. Flags of `hallig serve` win over the file.
type Config struct {
	// Data is the directory that holds all state of the box. It is made with mode 0700 when it is missing.
	Data string `json:"-"`
	// Version is the program's own, for status and federation.
	Version string `json:"-"`
	// Restored says that Data was restored from a backup since the last start: numbers that paired boxes already know are
	// not given out again. Once after each restore.
	Restored bool `json:"-"`
	// Released is when the program was made: no clock is behind that.
	Released time.Time `json:"-"`
	// Run is the directory of the image (/run/hallig) in which the box meets the other processes of an appliance. Empty: the box is a program on
	// somebody's machine. With it, clients are served on ports 80 and 443 unless Listen and TLSListen say otherwise, and the box keeps its own CA.
	Run string `json:"-"`
	// Provision is the provisioning file that init has accepted; what it says comes below config.json and flags. Empty: none. LoadProvisioned
	// reads it, into the fields of this struct and, for what has none here, into Provisioned. Trouble is why it was not taken.
	Provision       string          `json:"-"`
	Provisioned     provision.File  `json:"-"`
	Trouble         provision.Error `json:"-"`
	nameProvisioned bool            // ServerName comes from there
	// Trial says that this start tries out an update: all is opened, and the doors stay closed until it is confirmed.
	Trial bool `json:"-"`
	// ServerName is the part behind the colon of each user's name. Empty: 16 characters of the box key under
	// .hallig.internal. It is fixed when the first account exists.
	ServerName string `json:"server_name,omitempty"`

	// Listen is where phones and browsers reach the Client-Server API, plain HTTP; ADDR:PORT. Empty: 127.0.0.1:8008, on an appliance :80.
	Listen string `json:"listen,omitempty"`
	// TLSListen is where they reach the same over TLS, with a certificate from outside or one of the box's own CA; ADDR:PORT. Empty: nowhere, on an
	// appliance :443. "off": nowhere.
	TLSListen string `json:"tls_listen,omitempty"`
	// PublicURL is what phones are told to use, when it is not http://LISTEN.
	PublicURL string `json:"public_url,omitempty"`
	// Federation is where other servers reach the Server-Server API over TLS; ADDR:PORT. Empty: nowhere.
	Federation string `json:"federation,omitempty"`
	// FederationHost is the name, with or without port, where other servers find this one when the server name itself does not lead to it. It is
	// published as /.well-known/matrix/server by both ports; under the server name it must be reachable over HTTPS at port 443. Empty: not published.
	FederationHost string `json:"federation_host,omitempty"`
	// FederationTLS is the certificate of that port. Empty: that of the TLS port for clients.
	FederationTLS TLSConfig `json:"federation_tls,omitzero"`

	// OpenRegistration lets everybody register without a token. For test beds; lifts the rate limits too, and trusts the system's clock.
	OpenRegistration bool `json:"open_registration,omitempty"`
	// RegistrationSharedSecret opens /_synapse/admin/v1/register to those who know it.
	RegistrationSharedSecret string `json:"registration_shared_secret,omitempty"`
	// NoRateLimits lifts the limits on logins, registrations and sends.
	NoRateLimits bool `json:"no_rate_limits,omitempty"`
	// Presence tells users who is online; it costs wake-ups and bytes, so it is off.
	Presence bool `json:"presence,omitempty"`
	// AppserviceFiles are YAML registrations, read at start.
	AppserviceFiles []string `json:"appservice_files,omitempty"`

	// CAFile holds more certificate authorities to trust in federation, PEM; the system's own stay trusted.
	CAFile string `json:"ca_file,omitempty"`
	// ServerAddresses names, for closed networks, where a server is: "matrix.example.org": "10.0.0.5:8448".
	ServerAddresses map[string]string `json:"server_addresses,omitempty"`
	// PrivateAddresses allows federation with servers at private and loopback addresses that discovery found.
	PrivateAddresses bool `json:"private_addresses,omitempty"`

	// P2P is libp2p between boxes.
	P2P P2PConfig `json:"p2p,omitzero"`
	// Hub is the hub beside the central server that has this box's name on the Internet. Requests to servers that are no boxes go through it while it is in reach.
	Hub HubConfig `json:"hub,omitzero"`
	// Serial are the lines to other boxes.
	Serial []SerialConfig `json:"serial,omitempty"`

	// Clock says who vouches for the time. Empty: the kernel, when it counts the system's clock as synchronised, and otherwise an operator
	// (hallig clock) or a paired box. "system": the system's clock is right, for machines whose host keeps it without the kernel knowing.
	Clock string `json:"clock,omitempty"`
	// ClockGPS is a satellite receiver that speaks NMEA on a serial port.
	ClockGPS GPSConfig `json:"clock_gps,omitzero"`
	// ClockNTP are time servers, names or addresses. Empty: those that the network names by DHCP, and no others. Of several more than half must agree.
	ClockNTP []string `json:"clock_ntp,omitempty"`
	// restAfter: tests: for how long a room must be at rest before people are told what a partition has left; 0: as conflict has it.
	restAfter time.Duration
	system    func() (clock.Reading, bool) // tests: a machine without a clock; nil: systemClock

	// Backup says where the encrypted backup goes, how often, and who can open it.
	Backup provision.Backup `json:"backup,omitzero"`

	// Certificate is one from outside for the TLS port of clients: a chain (with its key, unless the box has made that itself) or where to ask for one. While
	// there is none, or after its end, the box shows one of its own authority.
	Certificate provision.Certificate `json:"certificate,omitzero"`
	// MetricsToken opens /metrics on the client ports to those who send it as a bearer token; at least 16 characters. Empty: only the local door tells.
	MetricsToken string `json:"metrics_token,omitempty"`

	// OrganisationKey is who signs policies that hold for this box, as `hallig policy key` shows it: "hallig-organisation-1 BASE64 NAME". Empty: that of hallig.json, or none.
	OrganisationKey string `json:"organisation_key,omitempty"`

	// KeepForBoxesBytes bounds the encrypted backups that each paired box may leave here. 0: 1 GiB; negative: none.
	KeepForBoxesBytes int64 `json:"keep_for_boxes_bytes,omitempty"`

	// RoomVersion is that of new rooms whose creator names none. Empty: 12. An older one where a central server or clients do not
	// know 12 yet; a room keeps its version until it is upgraded.
	RoomVersion string `json:"room_version,omitempty"`

	// MediaQuotaBytes bounds all stored media. 0: 10 GiB.
	MediaQuotaBytes int64 `json:"media_quota_bytes,omitempty"`
	// UploadLimitBytes bounds one upload. 0: 50 MiB.
	UploadLimitBytes int64 `json:"upload_limit_bytes,omitempty"`
}

// TLSConfig names a certificate and its key, or a CA from which one is minted at each start.
type TLSConfig = cert.Files

// P2PConfig says how libp2p reaches other boxes.
type P2PConfig struct {
	Off    bool     `json:"off,omitempty"`
	NoMDNS bool     `json:"no_mdns,omitempty"`
	Listen []string `json:"listen,omitempty"` // multiaddresses; empty: TCP port 4001 on every interface, or another port when that is taken
	// Announce is told to other boxes in place of the addresses listened on, where a router or a container forwards a port.
	Announce []string `json:"announce,omitempty"`
	Peers    []string `json:"peers,omitempty"` // multiaddresses ending in /p2p/ID, for boxes that mDNS cannot see
}

// HubConfig names the box's hub. It must be paired: hallig-hub pair there, hallig pair CODE --at ADDRESS here.
type HubConfig provision.Hub

// GPSConfig is a satellite receiver.
type GPSConfig struct {
	Device string `json:"device"`         // /dev/hallig/gps
	Baud   int    `json:"baud,omitempty"` // 0: 9600; older receivers: 4800
}

// SerialConfig is one line to another box: a device, the modem behind it, and how that is set. Package provision has the fields and
// what is refused, because hallig.json has the same.
type SerialConfig = provision.Serial

// check refuses what cannot work, naming the field.
func (c *Config) check() error {
	if c.ServerName != "" && !event.ValidServerName(c.ServerName) {
		return fmt.Errorf("server_name %q is no server name (host or host:port)", c.ServerName)
	}
	if c.Clock != "" && c.Clock != "system" {
		return fmt.Errorf("clock %q: want \"system\", or nothing", c.Clock)
	}
	if v, ok := event.Lookup(c.RoomVersion); c.RoomVersion != "" && (!ok || v.Readable) {
		return fmt.Errorf("room_version %q is none that new rooms can have; leave it out for %s", c.RoomVersion, event.Default().ID)
	}
	for field, addr := range map[string]string{"listen": c.Listen, "tls_listen": c.TLSListen, "federation": c.Federation} {
		if addr == "" || field == "tls_listen" && addr == "off" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%s %q: want ADDR:PORT", field, addr)
		}
	}
	if c.FederationHost != "" && !event.ValidServerName(c.FederationHost) {
		return fmt.Errorf("federation_host %q is no host or host:port", c.FederationHost)
	}
	if err := c.FederationTLS.Check(); err != nil {
		return fmt.Errorf("federation_tls: %w", err)
	}
	if n := len(c.MetricsToken); n > 0 && n < 16 {
		return errors.New("metrics_token is shorter than 16 characters and could be guessed; make one with: openssl rand -hex 16")
	}
	if c.OrganisationKey != "" {
		if _, err := signet.Organisation.Parse(c.OrganisationKey); err != nil {
			return fmt.Errorf("organisation_key: %w; want the line that hallig policy key shows", err)
		}
	}
	if err := provision.Hub(c.Hub).Check("hub"); err != nil {
		return err
	}
	if err := provision.CheckPeers("p2p.peers", c.P2P.Peers); err != nil {
		return err
	}
	if err := p2p.CheckStatic(slices.Concat(c.P2P.Peers, c.Hub.Peers)); err != nil {
		return err
	}
	for i, s := range c.Serial {
		if err := s.Check(fmt.Sprintf("serial[%d]", i)); err != nil {
			return err
		}
	}
	if err := c.Backup.Check(); err != nil {
		return err
	}
	if err := c.Certificate.Check(); err != nil {
		return err
	}
	if c.Certificate.ACME.Wanted() {
		if _, err := c.acme(); err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	if g := c.ClockGPS; g != (GPSConfig{}) && (g.Device == "" || g.Baud < 0) {
		return errors.New("clock_gps: device is missing, for example /dev/ttyACM0, or baud is negative")
	}
	if c.ClockGPS.Device != "" && slices.ContainsFunc(c.Serial, func(s SerialConfig) bool { return s.Device == c.ClockGPS.Device }) {
		return fmt.Errorf("clock_gps: %s is a line to another box already", c.ClockGPS.Device)
	}
	for _, s := range c.ClockNTP {
		if !event.ValidServerName(s) {
			return fmt.Errorf("clock_ntp: %q is neither the name of a time server nor an address", s)
		}
	}
	for name := range c.ServerAddresses {
		if !event.ValidServerName(name) {
			return fmt.Errorf("server_addresses: %q is no server name", name)
		}
	}
	return nil
}

// whole refuses what cannot work once flags and the way of starting are known, beside what check refuses.
func (c *Config) whole() error {
	if err := c.check(); err != nil {
		return err
	}
	if _, secure := c.clientAddrs(); c.Federation != "" && c.FederationTLS == (TLSConfig{}) && secure == "" {
		return errors.New("federation is on but federation_tls names neither a certificate nor a CA to mint one from, and there is no tls_listen whose certificate it could share")
	}
	return nil
}

// clientAddrs are the plain and the TLS address for clients; "": no such port.
func (c *Config) clientAddrs() (plain, secure string) {
	plain, secure = c.Listen, c.TLSListen
	if c.Run != "" {
		plain, secure = cmp.Or(plain, ":80"), cmp.Or(secure, ":443")
	}
	if secure == "off" {
		secure = ""
	}
	return cmp.Or(plain, "127.0.0.1:8008"), secure
}

// roomVersion is the version of new rooms; nil: the default.
func (c *Config) roomVersion() *event.Version {
	v, _ := event.Lookup(c.RoomVersion) // check has looked already
	return v
}
