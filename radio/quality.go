// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"errors"
	"io"
	"os"
	"time"

	"hallig/radio/serial"
)

// Quality is what is known of a line beside its counters.
type Quality struct {
	Opening bool  // the port is being opened, or the modem is being set, or it waits for a call
	Trouble error // why the port was not opened, or broke, the last time; nil: it is open
	Stuck   bool  // in the last minute the port was given up because it took no bytes

	Modem serial.Quality // what the modem says; counters are of this opening
	Asked int            // frames sent in the last minutes; too few of them tell nothing
	Again int            // repetitions among them
}

// line is what Port keeps of it; guarded by Port.mu.
type line struct {
	opening  bool
	trouble  error
	stuck    time.Time // when the port last took no bytes
	measured interface{ Quality() serial.Quality }
	modem    serial.Quality // the last that was said

	samples [samples]sample // of the counters, oldest first
}

// sample is what had been sent at a time.
type sample struct {
	at          time.Time
	sent, again uint64
}

const (
	samples     = 10
	sampleEvery = 30 * time.Second
)

// dial notes that the port is about to be opened.
func (p *Port) dial() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line.opening = true
}

// opened notes how that went.
func (p *Port) opened(port io.ReadWriteCloser, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line.opening, p.line.trouble, p.line.measured = false, err, nil
	if err == nil {
		p.line.measured, _ = port.(interface{ Quality() serial.Quality })
	}
}

// setRate takes the rate that a modem tells of its connection for the line's.
func (p *Port) setRate(port io.ReadWriteCloser) {
	link, ok := p.link.(interface{ SetRate(int) })
	if !ok {
		return // a channel has one rate
	}
	rate := 0
	if m, ok := port.(interface{ BitsPerSecond() int }); ok {
		rate = m.BitsPerSecond()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	link.SetRate(rate)
}

// broke notes why the port was closed.
func (p *Port) broke(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.line.measured != nil {
		p.line.modem = p.line.measured.Quality()
	}
	p.line.trouble, p.line.measured = err, nil
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.line.stuck = time.Now()
	}
}

// Quality is what is known of the line now.
func (p *Port) Quality() Quality {
	s := p.Stats()
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &p.line
	if l.measured != nil {
		l.modem = l.measured.Quality()
	}
	q := Quality{Opening: l.opening, Trouble: l.trouble, Modem: l.modem, Stuck: !l.stuck.IsZero() && now.Sub(l.stuck) < time.Minute}
	if newest := l.samples[samples-1]; now.Sub(newest.at) >= sampleEvery {
		copy(l.samples[:], l.samples[1:])
		l.samples[samples-1] = sample{now, s.FramesSent, s.Retransmissions}
	}
	for _, old := range l.samples {
		if !old.at.IsZero() {
			q.Asked, q.Again = int(s.FramesSent-old.sent), int(s.Retransmissions-old.again)
			break
		}
	}
	return q
}
