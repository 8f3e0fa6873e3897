// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"hallig/radio/airtime"
	"hallig/radio/arq"
	"hallig/radio/channel"
	"hallig/radio/frame"
)

// mostUnread is how many bytes of received messages may wait for the reader before the far end is held back.
const mostUnread = 256 << 10

// Port is one port as a transport (sync/link.Transport and Keyed). All methods are safe for concurrent use.
//
// Three goroutines belong to Serve, which waits for all of them: the loop that owns the port, its reader of bytes, and
// the teller, which alone calls the callbacks, in order, so that a slow one never disturbs the timing on the air.
type Port struct {
	cfg Config
	log *slog.Logger

	known    bool // the band
	onlyOpen bool // open language only: nothing is encrypted, and the call sign is told

	mu      sync.Mutex // guards all below; never held during a callback or an operation on the port
	link    wire
	budget  *airtime.Budget
	calls   calls
	serving bool
	open    bool
	starved [channel.MostStations]bool // who sends to it was told "no room", and waits for ready
	tell    []channel.Event
	unread  int // bytes of received messages in tell
	in      struct{ bytes uint64 }
	line    line
	kick    chan struct{} // the loop should look again
	told    chan struct{} // the teller has work
}

// New makes the transport; nothing is opened before Serve.
func New(cfg Config) *Port {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	band, known := airtime.Lookup(cfg.Band)
	budget := airtime.New(band)
	p := &Port{cfg: cfg, log: cfg.Log, budget: budget, known: known, onlyOpen: band.OpenLanguageOnly, kick: make(chan struct{}, 1), told: make(chan struct{}, 1)}
	link := arq.Config{
		BitsPerSecond: cfg.BitsPerSecond, BitsPerByte: cfg.BitsPerByte, FullDuplex: cfg.FullDuplex, Framing: frame.COBS,
		MTU: cfg.MTU, TurnDelay: cfg.TurnDelay, KeyDown: cfg.KeyDown, Lead: cfg.Lead, Seed: cfg.Seed,
		Budget: budget, Air: cfg.Air, Open: band.OpenLanguageOnly,
		Correct: cfg.Correct && !cfg.Shared, CorrectAlways: cfg.CorrectAlways, Packets: cfg.Packets,
	}
	if cfg.Shared {
		if cfg.Station == 0 {
			cfg.Station = uint32(cfg.Seed>>32) | 1
		}
		p.link = channel.New(channel.Config{Link: link, Station: cfg.Station, Polls: cfg.Polls})
	} else {
		p.link = single{arq.New(link)}
	}
	return p
}

// Name is "serial:" and the configured name.
func (p *Port) Name() string { return "serial:" + p.cfg.Name }

// Addr is the name of the far end of a port that has but one, the same for the life of the port. Those of a shared channel
// are NAME#1 to NAME#16; which box is behind one may change with every up.
func (p *Port) Addr() string { return p.cfg.Name + "#far" }

// Serve runs the port until ctx ends. A port that cannot be opened or breaks is tried again within a second, for ever.
func (p *Port) Serve(ctx context.Context, up func(addr string, bitsPerSecond int, mtu int), down func(addr string),
	received func(addr string, message []byte), ready func(addr string)) error {
	if p.cfg.Open == nil {
		return fmt.Errorf("serve radio port %s: no way to open it", p.cfg.Name)
	}
	if !p.known {
		return fmt.Errorf("serve radio port %s: no band is called %q", p.cfg.Name, p.cfg.Band)
	}
	p.mu.Lock()
	if p.serving {
		p.mu.Unlock()
		return fmt.Errorf("serve radio port %s: already served", p.cfg.Name)
	}
	p.serving = true
	p.mu.Unlock()

	p.openBook()
	defer p.closeBook()
	ended := make(chan struct{})
	var teller sync.WaitGroup
	teller.Go(func() {
		p.teach(ended, callbacks{
			up: func(n int) {
				p.mu.Lock()
				c := p.link.Config()
				p.mu.Unlock()
				up(p.addr(n), c.BitsPerSecond, c.MTU)
			},
			down:     func(n int) { down(p.addr(n)) },
			received: func(n int, toAll bool, b []byte) { received(p.heardAt(n, toAll), b) },
			ready:    func(n int) { ready(p.addr(n)) },
		})
	})
	p.keepOpen(ctx)
	p.mu.Lock()
	p.serving = false
	p.mu.Unlock()
	close(ended)
	teller.Wait()
	return ctx.Err()
}

// keepOpen opens the port and runs it, again and again. Only changes are logged.
func (p *Port) keepOpen(ctx context.Context) {
	const first, most = 100 * time.Millisecond, time.Second
	pause, said := first, ""
	for ctx.Err() == nil {
		p.dial()
		port, err := p.cfg.Open(ctx)
		p.opened(port, err)
		if err == nil {
			p.log.Info("radio port open", "bits_per_second", p.link.Config().BitsPerSecond)
			said = ""
			began := time.Now()
			err = p.run(ctx, port)
			p.broke(err)
			if time.Since(began) > most {
				pause = first
			}
		}
		if ctx.Err() != nil {
			return
		}
		if s := err.Error(); s != said {
			p.log.Warn("radio port closed; trying again every second", "error", err)
			said = s
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, most)
	}
}

// run owns one opening of the port until it breaks or ctx ends.
func (p *Port) run(ctx context.Context, port io.ReadWriteCloser) error {
	p.setRate(port)
	done := make(chan struct{})
	chunks, out := make(chan []byte, 16), make(chan []byte, 1)
	failed := make(chan error, 2)
	var both sync.WaitGroup
	both.Go(func() { failed <- read(port, chunks, done) })
	both.Go(func() { failed <- write(port, out, done, p.writeLimit()) })

	p.mu.Lock()
	p.open = true
	p.link.Start(time.Now())
	p.mu.Unlock()
	err := p.loop(ctx, chunks, out, failed)
	if err == nil {
		p.signOff(out)
	}

	close(done)
	if cerr := port.Close(); err == nil && cerr != nil {
		err = cerr
	}
	both.Wait()
	p.mu.Lock()
	p.open = false
	p.link.Stop()
	p.collect()
	p.mu.Unlock()
	return err
}

// writeLimit is how long one frame may take to be written before the port counts as stuck.
func (p *Port) writeLimit() time.Duration {
	c := p.link.Config()
	return 5*time.Second + 2*time.Duration(frame.MaxRaw*c.BitsPerByte)*time.Second/time.Duration(c.BitsPerSecond)
}

// loop is the one place that knows the time.
func (p *Port) loop(ctx context.Context, chunks <-chan []byte, out chan<- []byte, failed <-chan error) error {
	var decoder frame.Decoder
	if p.link.Config().Correct {
		decoder.Framing = frame.Coded
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.lease()
		wire, wake := p.next()
		if wire != nil {
			select {
			case out <- wire:
				continue
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}
		timer.Stop()
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
		}
		select {
		case b := <-chunks:
			p.hear(b, &decoder)
		case <-timer.C:
		case <-p.kick:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Port) next() ([]byte, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.collect()
	p.announce(time.Now())
	wire, wake := p.link.Next(time.Now())
	p.collect()
	return wire, wake
}

func (p *Port) hear(b []byte, d *frame.Decoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.in.bytes += uint64(len(b))
	p.link.Heard(now)
	d.Feed(b, func(raw []byte) {
		p.callHeard(raw)
		if one, ok := p.link.(single); ok {
			one.Correcting(d.Coded)
		}
		p.link.Receive(now, raw)
	})
	p.collect()
}

// collect hands what happened to the teller. Called with mu held.
func (p *Port) collect() {
	events := p.link.Events()
	for _, e := range events {
		if e.Kind == arq.Up || e.Kind == arq.Down {
			p.calls.due = time.Time{} // a contact begins or ends
		}
		p.unread += len(e.Message)
	}
	p.tell = append(p.tell, events...)
	p.link.SetFull(p.unread > mostUnread)
	if len(p.tell) > 0 || p.room() >= 0 {
		poke(p.told)
	}
}

// room finds a far end for which somebody waits for room and there is enough to be worth the call; -1: none. Called with mu
// held.
func (p *Port) room() int {
	for n, starved := range p.starved {
		if starved && p.link.Up(n) && p.link.Free(n, frame.Priorities-1) > p.link.Config().MTU {
			return n
		}
	}
	return -1
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

type callbacks struct {
	up, down, ready func(station int)
	received        func(station int, toAll bool, message []byte)
}

// teach calls the callbacks until ended, and then for what is left.
func (p *Port) teach(ended <-chan struct{}, c callbacks) {
	for {
		over := false
		select {
		case <-p.told:
		case <-ended:
			over = true
		}
		p.tellAll(c, over)
		if over {
			return
		}
	}
}

func (p *Port) tellAll(c callbacks, over bool) {
	for {
		p.mu.Lock()
		events := p.tell
		p.tell = nil
		room := p.room()
		if room >= 0 {
			p.starved[room] = false
		}
		p.mu.Unlock()
		if len(events) == 0 && room < 0 {
			return
		}
		for _, e := range events {
			switch e.Kind {
			case arq.Up:
				p.log.Info("radio contact", "far", p.addr(e.Station))
				c.up(e.Station)
			case arq.Down:
				if !over {
					p.log.Info("radio contact lost", "far", p.addr(e.Station))
				}
				c.down(e.Station)
			case arq.Received:
				if !over {
					c.received(e.Station, e.ToAll, e.Message)
				}
				p.read(len(e.Message))
			case arq.Done:
				if to, ok := e.Token.(castTo); ok {
					to(e.Station, downOr(e.Err))
					continue
				}
				finish(e.Token.(func(error)), e.Err)
			}
		}
		if room >= 0 {
			c.ready(room)
		}
	}
}

// read notes that the reader has taken n bytes.
func (p *Port) read(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unread -= n
	p.link.SetFull(p.unread > mostUnread)
}

// Send queues one message of at most 64 KiB. The message must not be changed afterwards. done is called exactly once,
// never from within Send: nil when the message has arrived in the far end's memory, otherwise an error.
func (p *Port) Send(addr string, priority int, message []byte, done func(error)) {
	p.mu.Lock()
	n, err := p.station(addr)
	if !p.serving || err != nil {
		p.mu.Unlock()
		err := fmt.Errorf("send to %s over %s: %w", addr, p.Name(), ErrDown)
		go finish(done, err) // ends with the callback
		return
	}
	p.link.Send(n, priority, message, done)
	p.collect()
	p.mu.Unlock()
	poke(p.kick)
}

func finish(done func(error), err error) {
	if done == nil {
		return
	}
	done(downOr(err))
}

func downOr(err error) error {
	if errors.Is(err, arq.ErrDown) {
		return ErrDown
	}
	return err
}

// Free says how many bytes the port would take now at that priority without building a queue of more than about one
// turn. After an answer <= 0, ready is called when there is room again.
func (p *Port) Free(addr string, priority int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	station, err := p.station(addr)
	if err != nil {
		return 0
	}
	n := p.link.Free(station, priority)
	if n <= 0 {
		p.starved[station] = true
	}
	return n
}

// Forecast is how long from now until a message of so many bytes, handed over now, would have arrived, as far as anybody can tell: from what goes before it, the
// rate, what was lost of late, the air time left. false: there is no contact, or no air time for it.
func (p *Port) Forecast(addr string, priority, bytes int) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.station(addr)
	if err != nil {
		return 0, false
	}
	now := time.Now()
	at, ok := p.link.Forecast(now, n, priority, bytes)
	if !ok {
		return 0, false
	}
	return at.Sub(now), true
}

// SetKeys sets the 32-byte secrets that protect frames of messages sent from now on, and of frames received. nil
// clears both. Keys end with the contact: after each up the layer above agrees on new ones.
func (p *Port) SetKeys(addr string, send, receive []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.station(addr)
	if err != nil {
		return fmt.Errorf("set keys: %w", err)
	}
	err = p.link.SetKeys(n, send, receive)
	p.collect()
	poke(p.kick)
	return err
}

// Stats are counters since New.
func (p *Port) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.link.Stats()
	air := p.link.Air(time.Now())
	out := Stats{
		AirLimited: air.Limited, AirLimit: air.Limit, AirLeft: air.Left, AirLeftFlash: air.Flash, SendIn: air.SendIn,
		BytesSent: s.BytesSent, BytesReceived: p.in.bytes, FramesSent: s.FramesSent, FramesReceived: s.FramesReceived,
		Retransmissions: s.Retransmissions, FramesRefused: s.FramesRefused, MessagesSent: s.MessagesSent,
		MessagesReceived: s.MessagesReceived, Contacts: s.Contacts, Airtime: s.Airtime,
		BitsPerSecond: p.link.Config().BitsPerSecond, Up: s.Stations > 0, PortOpen: p.open, Keyed: p.link.Keyed(),
		Stations: s.Stations, Overheard: s.Overheard, Exchanges: s.Exchanges, Unanswered: s.Unanswered, Unlike: s.Unlike,
	}
	if one, ok := p.link.(single); ok {
		out.Corrects, out.BodyLength = one.Coded(), one.MTU()
	}
	return out
}

// read passes on what comes in until the port fails or done.
func read(port io.Reader, chunks chan<- []byte, done <-chan struct{}) error {
	buf := make([]byte, 1024)
	for {
		n, err := port.Read(buf)
		if n > 0 {
			select {
			case chunks <- append([]byte(nil), buf[:n]...):
			case <-done:
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("read radio port: %w", err)
		}
	}
}

// write writes what it is given until the port fails or done.
func write(port io.Writer, out <-chan []byte, done <-chan struct{}, limit time.Duration) error {
	deadline, _ := port.(interface{ SetWriteDeadline(time.Time) error })
	for {
		select {
		case b := <-out:
			if deadline != nil {
				// A port without this ability blocks at worst until it is closed.
				_ = deadline.SetWriteDeadline(time.Now().Add(limit))
			}
			if _, err := port.Write(b); err != nil {
				return fmt.Errorf("write radio port: %w", err)
			}
		case <-done:
			return nil
		}
	}
}
