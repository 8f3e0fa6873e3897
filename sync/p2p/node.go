// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	quicgo "github.com/quic-go/quic-go"
)

// node puts libp2p's parts together by hand. libp2p.New would do the same, but it links every transport there is (WebRTC, WebTransport) and a
// dependency injector, some megabytes of program that no box uses.
type node struct {
	*basichost.BasicHost
	up   transport.Upgrader
	quic *quicreuse.ConnManager // nil: no address speaks QUIC
}

func (n *node) Close() error {
	err := n.BasicHost.Close()
	if n.quic != nil {
		err = errors.Join(err, n.quic.Close())
	}
	return err
}

// newNode makes a host that listens on cfg.Listen. It keeps what it learns about others in memory, asks nobody how it looks from outside, trims no
// connection (the gate and the limits decide), and takes part in no ping or DHT. With cfg.Through it can be reached, and reach others, through a relay, and holes is where they are punched.
func newNode(cfg Config, gate connmgr.ConnectionGater, announce []ma.Multiaddr, holes *door) (*node, error) {
	key, err := crypto.UnmarshalEd25519PrivateKey(cfg.Box)
	if err != nil {
		return nil, fmt.Errorf("read box key: %w", err)
	}
	listen, err := parseAddrs(cfg.Listen)
	if err != nil {
		return nil, err
	}
	limits, err := resources(cfg.Meeting)
	if err != nil {
		return nil, err
	}
	bus := eventbus.NewBus()
	sw, err := newSwarm(key, gate, limits, bus)
	if err != nil {
		return nil, errors.Join(err, limits.Close())
	}
	n := &node{}
	if cfg.Through == "" {
		holes = nil
	}
	if err := n.addTransports(sw, key, gate, limits, holes, slices.ContainsFunc(cfg.Listen, isQUIC) || slices.ContainsFunc(cfg.Static, isQUIC)); err != nil {
		return nil, errors.Join(err, sw.Close())
	}
	opts := &basichost.HostOpts{EventBus: bus, ConnManager: connmgr.NullConnMgr{}, UserAgent: "hallig"}
	if len(announce) > 0 {
		opts.AddrsFactory = func([]ma.Multiaddr) []ma.Multiaddr { return announce }
	}
	if n.BasicHost, err = basichost.NewHost(sw, opts); err != nil {
		return nil, errors.Join(err, sw.Close())
	}
	if err := sw.Listen(listen...); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if cfg.Through != "" {
		if err := client.AddTransport(n.BasicHost, n.up); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	n.Start()
	return n, nil
}

// resources limits what others may take of this host. libp2p lets eight connections in from one address, and one more every five seconds: a field box meets no more, but to a meeting place
// whole towns come from behind one address, all at once when the power is back. There the limits of the host as a whole do.
func resources(meeting bool) (network.ResourceManager, error) {
	var opts []rcmgr.Option
	if meeting {
		each := func(bits int) []rcmgr.ConnLimitPerSubnet {
			return []rcmgr.ConnLimitPerSubnet{{PrefixLength: bits, ConnCount: meetingPerAddress}}
		}
		speed := func(bits int) []rate.SubnetLimit {
			return []rate.SubnetLimit{{PrefixLength: bits, Limit: rate.Limit{RPS: meetingPerSecond, Burst: meetingPerAddress}}}
		}
		opts = append(opts, rcmgr.WithLimitPerSubnet(each(32), each(48)), rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}},
			SubnetRateLimiter:   rate.SubnetLimiter{IPv4SubnetLimits: speed(32), IPv6SubnetLimits: speed(48), GracePeriod: time.Minute},
		}))
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits(meeting)), opts...)
}

const (
	meetingPerAddress = 4096 // connections
	meetingPerSecond  = 100  // new ones, once so many have come
)

func newSwarm(key crypto.PrivKey, gate connmgr.ConnectionGater, limits network.ResourceManager, bus event.Bus) (*swarm.Swarm, error) {
	id, err := libpeer.IDFromPublicKey(key.GetPublic())
	if err != nil {
		return nil, err
	}
	known, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(known.AddPrivKey(id, key), known.AddPubKey(id, key.GetPublic())); err != nil {
		return nil, err
	}
	return swarm.NewSwarm(id, known, bus,
		swarm.WithConnectionGater(gate), swarm.WithResourceManager(limits), swarm.WithDialTimeout(dialTimeout),
		swarm.WithDialRanker(inTurn), swarm.WithUDPBlackHoleSuccessCounter(nil), swarm.WithIPv6BlackHoleSuccessCounter(nil))
}

func (n *node) addTransports(sw *swarm.Swarm, key crypto.PrivKey, gate connmgr.ConnectionGater, limits network.ResourceManager, holes *door, withQUIC bool) error {
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: yamux.DefaultTransport}}
	secure, err := noise.New(noise.ID, key, muxers)
	if err != nil {
		return err
	}
	if n.up, err = upgrader.New([]sec.SecureTransport{secure}, muxers, nil, limits, gate); err != nil {
		return err
	}
	transports := make([]transport.Transport, 1, 2)
	if transports[0], err = tcp.NewTCPTransport(n.up, limits, nil, tcp.DisableReuseport(), tcp.WithConnectionTimeout(connectTimeout),
		tcp.WithDialerForAddr(func(ma.Multiaddr) (tcp.ContextDialer, error) { return patientDialer{holes}, nil })); err != nil {
		return err
	}
	if withQUIC {
		t, err := n.newQUIC(key, gate, limits)
		if err != nil {
			return err
		}
		transports = append(transports, t)
	}
	for _, t := range transports {
		if err := sw.AddTransport(t); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) newQUIC(key crypto.PrivKey, gate connmgr.ConnectionGater, limits network.ResourceManager) (transport.Transport, error) {
	raw, err := key.Raw()
	if err != nil {
		return nil, err
	}
	var reset quicgo.StatelessResetKey
	var token quicgo.TokenGeneratorKey
	for info, to := range map[string][]byte{"hallig quic stateless reset": reset[:], "hallig quic token": token[:]} {
		derived, err := hkdf.Key(sha256.New, raw, nil, info, len(to))
		if err != nil {
			return nil, err
		}
		copy(to, derived)
	}
	if n.quic, err = quicreuse.NewConnManager(reset, token, quicreuse.VerifySourceAddress(limits.VerifySourceAddress)); err != nil {
		return nil, err
	}
	return quic.NewTransport(key, n.quic, nil, gate, limits)
}
