// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Times of an AT modem.
const (
	guard     = 1200 * time.Millisecond // of silence around +++ (S12 is 1 s)
	dialing   = 90 * time.Second        // satellites are slow
	hungUp    = 700 * time.Millisecond  // DTR low so long ends a call
	gsmAnswer = 3 * time.Second         // after RING, when the modem does not answer by itself
)

// carrierLines are the wires of a modem; *Port has them.
type carrierLines interface {
	Carrier() (bool, error)
	SetDTR(on bool) error
}

// call is an AT modem, first as somebody to talk to, then as a stream to the far end.
type call struct {
	port  Stream
	modem Modem
	lines carrierLines // nil: none

	writing sync.Mutex // before mu

	inlet       // its mu guards what follows, too
	online      bool
	last        outcome // the last result since asked
	rings       int
	connectRate int
	text        []byte // since the last zero byte: perhaps the modem speaks
	results     results
	farewell    *time.Timer

	done    chan struct{} // the reader has ended
	watch   chan struct{} // the watcher of the carrier has ended
	stop    chan struct{} // closed by Close and abort
	stopped sync.Once
}

// openAT makes or takes one call.
func openAT(ctx context.Context, m Modem, port Stream) (Stream, error) {
	c := &call{port: port, modem: m, done: make(chan struct{}), watch: make(chan struct{}), stop: make(chan struct{})}
	c.changed.L = &c.mu
	if lines, ok := port.(carrierLines); ok {
		if _, err := lines.Carrier(); err == nil {
			c.lines = lines
		}
	}
	close(c.watch)
	go c.receive() // Close waits for it
	end := context.AfterFunc(ctx, func() { c.abort() })
	defer end()
	err := c.connect()
	if err == nil {
		return c, nil
	}
	c.abort()
	<-c.done
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, err
}

func (c *call) connect() error {
	if err := c.attention(); err != nil {
		return err
	}
	own := strings.Fields(c.modem.Init)
	for _, command := range cmpOr(own, []string{"ATZ", "ATE0Q0V1X4", "AT&C1&D2"}) {
		o, err := c.ask(command, 10*time.Second)
		switch {
		case err != nil:
			return err
		case o != okay && len(own) > 0:
			return fault(nil, "Das Modem an %[1]s versteht den Befehl %[2]s aus \"init\" nicht. Bitte im Handbuch des Modems nachsehen.",
				"The modem at %[1]s does not understand the command %[2]s from \"init\". Please look it up in the modem's manual.", c.modem.Device, command)
		}
	}
	wait := time.Duration(0) // for ever
	if c.modem.Number != "" {
		wait = c.modem.redial
		if wait <= 0 {
			return c.dial()
		}
	}
	err := c.answer(wait)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return c.dial()
	}
	return err
}

func cmpOr(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}

// attention brings the modem to where it takes commands, out of a call of somebody before us if need be.
func (c *call) attention() error {
	for try := range 4 {
		if o, err := c.ask("AT", 1500*time.Millisecond); err != nil || o == okay {
			return err
		}
		if try == 1 {
			if err := c.hangUp(); err != nil {
				return err
			}
		}
	}
	return silent(c.modem, nil)
}

// ask gives a command and waits for OK or an error; nothing: no answer.
func (c *call) ask(command string, patience time.Duration) (outcome, error) {
	if err := c.say(command); err != nil {
		return nothing, err
	}
	return c.result(time.Now().Add(patience))
}

func (c *call) say(command string) error {
	c.mu.Lock()
	c.last = nothing
	c.mu.Unlock()
	_, err := c.port.Write([]byte(command + "\r"))
	return err
}

func (c *call) result(until time.Time) (o outcome, err error) {
	err = c.await(until, func() bool { o = c.last; return o != nothing && o != ringing })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return o, err
}

// dial calls the far end.
func (c *call) dial() error {
	o, err := c.ask("ATD"+c.modem.Number, dialing)
	if err != nil {
		return err
	}
	why := map[outcome][2]string{
		busy:      {"besetzt", "busy"},
		noCarrier: {"keine Verbindung (NO CARRIER)", "no connection (NO CARRIER)"},
		noTone:    {"kein Freizeichen: Leitung oder Antenne prüfen", "no dial tone: check the line or the antenna"},
		noAnswer:  {"niemand nimmt ab: läuft die andere Box, und ist ihr Modem an?", "nobody answers: is the other box running, and its modem on?"},
		mistaken:  {"das Modem lehnt die Nummer ab: ist eine SIM-Karte darin, ist es im Netz, stimmt \"number\"?", "the modem refuses the number: has it a SIM card, is it in a network, is \"number\" right?"},
		nothing:   {"das Modem sagt nichts dazu", "the modem says nothing"},
	}
	switch o {
	case connected:
		return c.established()
	case nothing:
		if _, err := c.ask("", 2*time.Second); err != nil { // any character ends the attempt
			return err
		}
	}
	w := cmp.Or(why[o], why[nothing])
	f := fault(nil, "Der Anruf von %[1]s bei %[2]s ist nicht gelungen: %[3]s. Es wird wieder versucht.", "The call from %[1]s to %[2]s failed: %[4]s. It is tried again.",
		c.modem.Device, c.modem.Number, w[0], w[1])
	f.call = true
	return f
}

// answer waits to be called, at most so long (0: for ever).
func (c *call) answer(patience time.Duration) error {
	if _, err := c.ask("ATS0=1", 3*time.Second); err != nil { // GSM modems may say ERROR: then RING is answered by hand
		return err
	}
	until := time.Time{}
	if patience > 0 {
		until = time.Now().Add(patience)
	}
	for {
		c.mu.Lock()
		c.last, c.rings = nothing, 0
		c.mu.Unlock()
		var o outcome
		if err := c.await(until, func() bool { o = c.last; return o == connected || c.rings > 0 }); err != nil {
			return err
		}
		if o != connected {
			var err error
			if o, err = c.picked(); err != nil {
				return err
			}
		}
		if o == connected {
			return c.established()
		}
	}
}

// picked gives the modem time to answer a call by itself, and then answers it.
func (c *call) picked() (o outcome, err error) {
	o, err = c.result(time.Now().Add(gsmAnswer))
	if err == nil && o == nothing {
		o, err = c.ask("ATA", dialing)
	}
	return o, err
}

func (c *call) established() error {
	c.mu.Lock()
	rate := c.connectRate
	c.quality.Note = "CONNECT"
	if rate > 0 {
		c.quality.Note = fmt.Sprintf("CONNECT %d", rate)
	}
	c.mu.Unlock()
	if c.lines != nil {
		if on, err := c.lines.Carrier(); err == nil && on { // a modem that does not show it now will not show its end
			c.watch = make(chan struct{})
			go c.watchCarrier() // Close waits for it
		}
	}
	return nil
}

func (c *call) ended() error {
	return fault(nil, "Die Verbindung des Modems an %[1]s ist zu Ende. Sie wird neu aufgebaut.", "The modem's connection at %[1]s has ended. It is being made again.", c.modem.Device)
}

func (c *call) watchCarrier() {
	defer close(c.watch)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if on, err := c.lines.Carrier(); err != nil || !on {
				c.end(c.ended())
				return
			}
		case <-c.stop:
			return
		case <-c.done:
			return
		}
	}
}

func (c *call) receive() {
	defer close(c.done)
	buf := make([]byte, 1024)
	for {
		n, err := c.port.Read(buf)
		if err != nil {
			c.end(err)
			return
		}
		c.mu.Lock()
		c.hear(buf[:n])
		c.changed.Broadcast()
		for len(c.unread) > mostUnread && !c.closed {
			c.changed.Wait() // flow control and the far end's timers take over
		}
		c.mu.Unlock()
	}
}

// hear takes bytes of the port. Called with mu held.
func (c *call) hear(b []byte) {
	if !c.online {
		b = b[c.results.feed(b, c.told):]
		if !c.online {
			return
		}
	}
	c.unread = append(c.unread, b...)
	if c.farewell != nil {
		c.farewell.Stop()
	}
	// Frames end in a zero byte, and hold none. So a NO CARRIER that no zero follows within the guard time is the modem's.
	if i := bytes.LastIndexByte(b, 0); i >= 0 {
		c.text, b = c.text[:0], b[i+1:]
	}
	c.text = append(c.text, b...)
	c.text = c.text[max(0, len(c.text)-64):]
	if bytes.HasSuffix(bytes.TrimSpace(c.text), []byte("NO CARRIER")) {
		c.farewell = time.AfterFunc(guard, func() { c.end(c.ended()) })
	}
}

// told takes one line of the modem. Called with mu held.
func (c *call) told(line string) (stop bool) {
	o, rate := parseResult(line)
	switch o {
	case nothing:
		return false
	case ringing:
		c.rings++
		return false
	case connected:
		c.online, c.connectRate = true, rate
	}
	c.last = o
	return c.online
}

// hangUp ends a call: by DTR where there is one, otherwise by +++ between two silences.
func (c *call) hangUp() error {
	if c.lines != nil {
		if c.lines.SetDTR(false) == nil {
			time.Sleep(hungUp) // what the modem needs to see it
			return c.lines.SetDTR(true)
		}
	}
	c.mu.Lock()
	c.online = false // it answers as a modem again
	c.mu.Unlock()
	time.Sleep(guard)
	if _, err := c.port.Write([]byte("+++")); err != nil {
		return err
	}
	time.Sleep(guard)
	_, err := c.port.Write([]byte("ATH\r"))
	time.Sleep(hungUp / 2)
	return err
}

// BitsPerSecond is the rate of the call, as the modem told it; 0: it did not. Many tell that of the port instead, which says nothing.
func (c *call) BitsPerSecond() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connectRate == c.modem.Baud {
		return 0
	}
	return c.connectRate
}

// Read waits for at least one byte, the read deadline, Close, or the end of the call.
func (c *call) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if err != nil {
		err = fmt.Errorf("read at modem %s: %w", c.modem.Device, err)
	}
	return n, err
}

// Write is that of the port; after the end of the call it fails, so that nothing of ours is taken for a command.
func (c *call) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	err := c.err
	if c.closed {
		err = os.ErrClosed
	}
	c.mu.Unlock()
	if err == nil {
		var n int
		if n, err = c.port.Write(b); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("write at modem %s: %w", c.modem.Device, err)
}

// SetDeadline sets both deadlines; zero: none.
func (c *call) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetWriteDeadline concerns Writes to come.
func (c *call) SetWriteDeadline(t time.Time) error { return c.port.SetWriteDeadline(t) }

// Close frees blocked calls at once, hangs up, which may last some seconds, and lets go of the port.
func (c *call) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	alive := c.err == nil && c.online
	c.unread = nil
	if c.farewell != nil {
		c.farewell.Stop()
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	if !first {
		<-c.done
		return nil
	}
	c.stopped.Do(func() { close(c.stop) })
	<-c.watch
	var err error
	if alive {
		c.writing.Lock() // the last frame of ours is out
		err = c.port.SetWriteDeadline(time.Now().Add(2*guard + 2*time.Second))
		err = errors.Join(err, c.hangUp())
		c.writing.Unlock()
	}
	err = errors.Join(err, c.port.Close())
	<-c.done
	return err
}

// abort ends everything at once: the port is closed by it, and with it most modems hang up.
func (c *call) abort() {
	c.mu.Lock()
	c.closed = true
	c.changed.Broadcast()
	c.mu.Unlock()
	c.stopped.Do(func() { close(c.stop) })
	c.port.Close()
}
