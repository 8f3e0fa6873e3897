// SPDX-License-Identifier: EUPL-1.2

package sham

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Exchange joins telephones.
type Exchange struct {
	mu     sync.Mutex
	phones map[string]*Phone
}

// Phone is an AT modem with a number.
type Phone struct {
	Exchange *Exchange
	Number   string
	Rate     int  // said with CONNECT; 0: nothing is said
	NoAuto   bool // S0 is unknown: who is called must say ATA
	Deaf     bool // does not answer commands
	// Unheard is a word with which each command that holds it is refused.
	Unheard string

	Calls int // that it has dialled; read it when nobody serves it

	// Guarded by the exchange.
	out      io.Writer
	line     []byte
	echo     bool
	auto     bool
	dialling bool
	far      *Phone // in a call, or ringing there
	online   bool
	ringing  bool
	lastByte time.Time
}

// Join gives a telephone its number. Serve does so, too.
func (x *Exchange) Join(p *Phone) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.phones == nil {
		x.phones = map[string]*Phone{}
	}
	x.phones[p.Number] = p
}

// Serve runs it until the stream ends, and then hangs up.
func (p *Phone) Serve(s io.ReadWriter) error {
	x := p.Exchange
	x.Join(p)
	x.mu.Lock()
	p.out, p.echo, p.auto, p.line = s, true, false, nil
	x.mu.Unlock()
	buf := make([]byte, 512)
	for {
		n, err := s.Read(buf)
		p.take(buf[:n])
		if err != nil {
			x.mu.Lock()
			defer x.mu.Unlock()
			p.hangUp(false)
			return err
		}
	}
}

// HangUp ends the call, as a bad line does.
func (p *Phone) HangUp() {
	p.Exchange.mu.Lock()
	defer p.Exchange.mu.Unlock()
	p.hangUp(true)
}

// All that follows is called with the exchange's lock held.

func (p *Phone) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, "\r\n"+format+"\r\n", args...) // errors end Serve by themselves
}

func (p *Phone) hangUp(say bool) {
	for _, q := range []*Phone{p.far, p} {
		if q == nil {
			continue
		}
		if q.online && (q != p || say) {
			q.say("NO CARRIER")
		}
		q.online, q.ringing = false, false
	}
	if p.far != nil {
		p.far.far = nil
	}
	p.far = nil
}

func (p *Phone) take(b []byte) {
	p.Exchange.mu.Lock()
	defer p.Exchange.mu.Unlock()
	pause := time.Since(p.lastByte)
	p.lastByte = time.Now()
	if p.online {
		switch {
		case pause > time.Second && bytes.Equal(b, []byte("+++")):
			p.online = false // commands again; the call goes on
			p.say("OK")
		case p.far.online:
			_, _ = p.far.out.Write(b)
		}
		return
	}
	for _, c := range b {
		if p.echo && !p.Deaf {
			_, _ = p.out.Write([]byte{c})
		}
		if c != '\r' {
			if c >= ' ' && c < 0x7F && len(p.line) < 80 {
				p.line = append(p.line, c)
			}
			continue
		}
		command := strings.ToUpper(string(p.line))
		p.line = p.line[:0]
		if rest, ok := strings.CutPrefix(command, "AT"); ok && !p.Deaf {
			p.command(rest)
		}
	}
}

func (p *Phone) command(c string) {
	switch {
	case p.Unheard != "" && strings.Contains(c, p.Unheard), strings.HasPrefix(c, "S0=") && p.NoAuto:
		p.say("ERROR")
	case strings.HasPrefix(c, "D"):
		p.dial(strings.TrimLeft(c[1:], "TP"))
	case c == "A":
		p.pick()
	default:
		switch {
		case c == "H":
			p.hangUp(false)
		case strings.HasPrefix(c, "S0="):
			p.auto = c != "S0=0"
		}
		p.echo = p.echo && !strings.Contains(c, "E0") || c == "Z"
		p.say("OK")
	}
}

// sleep lets others at the exchange.
func (x *Exchange) sleep(d time.Duration) {
	x.mu.Unlock()
	time.Sleep(d)
	x.mu.Lock()
}

func (p *Phone) dial(number string) {
	x := p.Exchange
	far := x.phones[number]
	p.Calls++
	p.dialling = true
	x.sleep(500 * time.Millisecond) // who dials is busy
	p.dialling = false
	switch {
	case far == nil || far.out == nil:
		p.say("NO CARRIER")
		return
	case far == p || far.far != nil || far.dialling || p.far != nil:
		p.say("BUSY")
		return
	}
	p.far, far.far = far, p
	for range 5 {
		far.ringing = true
		far.say("RING")
		if far.auto {
			far.pick()
			return
		}
		x.sleep(2 * time.Second)
		if p.online {
			return
		}
		if p.far != far {
			p.say("NO CARRIER")
			return
		}
	}
	p.hangUp(false)
	p.say("NO ANSWER")
}

// pick takes a call.
func (p *Phone) pick() {
	if p.far == nil || !p.ringing {
		p.say("NO CARRIER")
		return
	}
	for _, q := range []*Phone{p, p.far} {
		q.online, q.ringing = true, false
		if q.Rate > 0 {
			q.say("CONNECT %d/ARQ", q.Rate)
		} else {
			q.say("CONNECT")
		}
	}
}
