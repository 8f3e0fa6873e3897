// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hallig/appliance/cert"
	"hallig/appliance/event"
	"hallig/appliance/signet"
	"hallig/sync/hub/replica"
	"hallig/sync/hub/spool"
	"hallig/sync/p2p"
)

// Config is everything that an operator can say about a hub. DIR/hub.json holds the fields as JSON; fields that nobody knows are refused. Flags of `hallig-hub
// serve` win over the file.
type Config struct {
	// Data is the directory that holds all state of the hub. It is made with mode 0700 when it is missing.
	Data string `json:"-"`
	// Version is the program's own.
	Version string `json:"-"`
	// Spool is the hub's durable memory; the hub closes it.
	Spool spool.Spool `json:"-"`
	// Replica bounds the copies of the boxes' rooms; zero fields are right.
	Replica replica.Limits `json:"-"`

	// Server is the hub's own server name: hub.example.org, or with a port. It has no users. Fixed at the first start.
	Server string `json:"server_name,omitempty"`
	// Names are the server names that boxes may have here: "box1.example.org", or "*.boxes.example.org" for all below. Empty: any; then whoever shows or takes a
	// pairing code decides.
	Names []string `json:"names,omitempty"`
	// Listen is where the world reaches the Server-Server API of all names, TLS; ADDR:PORT. Empty: :8448.
	Listen string `json:"listen,omitempty"`
	// Host is the name, with or without port, where other servers find the hub when its boxes' names do not lead to it by themselves. It is published as
	// /.well-known/matrix/server under every name, which must then be reachable over HTTPS at port 443. Empty: not published.
	Host string `json:"federation_host,omitempty"`
	// TLS are certificates, each for the names that it holds; "*.boxes.example.org" does for all boxes below. One with a CA mints for whatever else is asked for. Files that
	// change are read again.
	TLS []cert.Files `json:"tls,omitempty"`

	// ACME has an authority outside make the certificates that TLS does not hold.
	ACME ACMEConfig `json:"acme,omitzero"`

	// P2P is where boxes reach the hub.
	P2P P2PConfig `json:"p2p,omitzero"`

	// NoDelegate serves every box sealed, also those that ask the hub to sign in their name (hub.mode "delegate" of the box). Keys that the hub holds for boxes are forgotten with their next contact.
	NoDelegate bool `json:"no_delegate,omitempty"`

	// Database is the PostgreSQL database of a hub of several nodes: postgres://USER:PASSWORD@HOST/DATABASE. All nodes name the same one, and have the same box.key and signing.key. Empty:
	// one node, which keeps its memory in spool.db.
	Database string `json:"database,omitempty"`

	// OrganisationKey is who signs the policies of the boxes: "hallig-organisation-1 BASE64 NAME". Policies of others are then refused here already. Empty: any that is whole is handed on; boxes check for
	// themselves in any case.
	OrganisationKey string `json:"organisation_key,omitempty"`

	// Files says which files of boxes the hub keeps, to give them while their box is away.
	Files FilesConfig `json:"files,omitzero"`

	// Updates says how update files are handed to boxes.
	Updates UpdatesConfig `json:"updates,omitzero"`

	// Page is where the operator's pages and their API are: ADDR:PORT. Another address than a loopback one is served over TLS, with the certificate of the name that is
	// asked for. Empty: 127.0.0.1:8449; "off": none.
	Page string `json:"page,omitempty"`

	// Internal is where the other nodes of a hub of several reach this one: ADDR:PORT in the machines' own network, not 0.0.0.0. Only who has the same box.key gets in. Empty: a question for a
	// box that is connected to another node is answered as if the box were away.
	Internal string `json:"internal,omitempty"`

	// MetricsToken opens https://SERVER:8448/metrics to those who send it as a bearer token; at least 16 characters. Empty: only the local door tells.
	MetricsToken string `json:"metrics_token,omitempty"`

	// CAFile holds more certificate authorities to trust in federation, PEM; the system's own stay trusted.
	CAFile string `json:"ca_file,omitempty"`
	// ServerAddresses names, for closed networks, where a server is: "matrix.example.org": "10.0.0.5:8448".
	ServerAddresses map[string]string `json:"server_addresses,omitempty"`
	// PrivateAddresses allows boxes to speak with servers at private and loopback addresses through the hub.
	PrivateAddresses bool `json:"private_addresses,omitempty"`
}

// P2PConfig says where boxes reach the hub by libp2p.
type P2PConfig struct {
	Listen   []string `json:"listen,omitempty"`   // multiaddresses; empty: TCP port 4001 on every interface
	Announce []string `json:"announce,omitempty"` // told to boxes in place of these: "/dns/hub.example.org/tcp/4001"
	// Relay bounds what the hub carries between boxes that do not reach each other. It sees who speaks with whom and how much, not what.
	Relay RelayConfig `json:"relay,omitzero"`
}

// RelayConfig bounds circuits between boxes. 0: the default of p2p.Relaying.
type RelayConfig struct {
	Off       bool  `json:"off,omitempty"`
	Boxes     int   `json:"boxes,omitempty"`            // that can be reached this way; 10,000
	Circuits  int   `json:"circuits,omitempty"`         // at once; 4,096
	PerBox    int   `json:"circuits_per_box,omitempty"` // at once; 64
	Megabytes int64 `json:"megabytes,omitempty"`        // of a circuit in each direction, before it has to be opened anew; 256
	Minutes   int   `json:"minutes,omitempty"`          // that a circuit lasts, likewise; 60
}

func (c RelayConfig) limits() p2p.Relaying {
	return p2p.Relaying{Off: c.Off, Boxes: c.Boxes, Circuits: c.Circuits, PerBox: c.PerBox, Bytes: c.Megabytes << 20, Duration: time.Duration(c.Minutes) * time.Minute}
}

func (c RelayConfig) check() error {
	if min(int64(c.Boxes), int64(c.Circuits), int64(c.PerBox), c.Megabytes, int64(c.Minutes)) < 0 || c.Megabytes > 1<<30 || c.Minutes > 366*24*60 {
		return errors.New("p2p.relay: a bound is negative or beyond all measure; leave it out for the default, or switch the relay off with \"off\": true")
	}
	return nil
}

// configFile is the operator's file in the data directory.
const configFile = "hub.json"

// LoadConfig reads DIR/hub.json; there need not be one.
func LoadConfig(dir string) (Config, error) {
	c := Config{}
	raw, err := os.ReadFile(filepath.Join(dir, configFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return c, fmt.Errorf("read configuration: %w", err)
	default:
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&c); err != nil {
			return c, fmt.Errorf("%s: %w", filepath.Join(dir, configFile), err)
		}
	}
	c.Data = dir
	return c, nil
}

// check refuses what cannot work, naming the field.
func (c *Config) check() error {
	if c.Listen == "" {
		c.Listen = ":8448"
	}
	if c.OrganisationKey != "" {
		if _, err := signet.Organisation.Parse(c.OrganisationKey); err != nil {
			return fmt.Errorf("organisation_key: %w; want the line that hallig policy key shows", err)
		}
	}
	if err := c.ACME.check(c.Names); err != nil {
		return err
	}
	switch {
	case c.Spool == nil:
		return errors.New("there is no spool")
	case c.Server != "" && !event.ValidServerName(c.Server):
		return fmt.Errorf("server_name %q is no server name (host or host:port)", c.Server)
	case c.Host != "" && !event.ValidServerName(c.Host):
		return fmt.Errorf("federation_host %q is no host or host:port", c.Host)
	case c.MetricsToken != "" && len(c.MetricsToken) < 16:
		return errors.New("metrics_token is shorter than 16 characters and could be guessed; make one with: openssl rand -hex 16")
	case len(c.TLS) == 0 && !c.ACME.wanted():
		return errors.New("tls names no certificate; give one with --cert FILE --key FILE, or a CA to mint from with --ca FILE --ca-key FILE, or have them made by an authority: acme in hub.json")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen %q: want ADDR:PORT", c.Listen)
	}
	if err := c.Updates.check(); err != nil {
		return err
	}
	if c.Page != "" && c.Page != pageOff {
		if _, _, err := net.SplitHostPort(c.Page); err != nil {
			return fmt.Errorf("page %q: want ADDR:PORT, or off", c.Page)
		}
	}
	if err := c.P2P.Relay.check(); err != nil {
		return err
	}
	if err := c.Files.check(); err != nil {
		return err
	}
	if host, _, err := net.SplitHostPort(c.Internal); c.Internal != "" && (err != nil || host == "" || net.ParseIP(host).IsUnspecified()) {
		return fmt.Errorf("internal %q: want the ADDR:PORT at which the other nodes reach this one", c.Internal)
	}
	for i, f := range c.TLS {
		if err := f.Check(); err != nil {
			return fmt.Errorf("tls[%d]: %w", i, err)
		}
		if f == (cert.Files{}) {
			return fmt.Errorf("tls[%d] is empty", i)
		}
	}
	for _, n := range c.Names {
		if name := strings.TrimPrefix(n, "*."); !event.ValidServerName(name) {
			return fmt.Errorf("names: %q is neither a server name nor one with *. in front", n)
		}
	}
	for name := range c.ServerAddresses {
		if !event.ValidServerName(name) {
			return fmt.Errorf("server_addresses: %q is no server name", name)
		}
	}
	return nil
}

// allows says whether a box may have a name here.
func (c *Config) allows(server string) bool {
	if len(c.Names) == 0 {
		return true
	}
	host := server
	if h, _, err := net.SplitHostPort(server); err == nil {
		host = h
	}
	for _, n := range c.Names {
		if below, ok := strings.CutPrefix(n, "*"); n == server || ok && strings.HasSuffix(host, below) {
			return true
		}
	}
	return false
}
