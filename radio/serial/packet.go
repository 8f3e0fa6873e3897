// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"hallig/radio/frame"
)

// dialect is what is special about a modem that takes whole frames. Its values belong to pipe.mu.
type dialect interface {
	// heard takes one command of the modem. Called with p.mu held; it must not write. An error ends the stream.
	heard(p *pipe, kind byte, body []byte) error
	// send sends one frame, and returns when the modem would take another. Called with p.writing held. A frame that the modem does not
	// send is counted, and no error: a radio may lose any frame.
	send(p *pipe, raw []byte, deadline time.Time) error
}

// pipe is a modem that takes whole frames, as a stream of COBS frames: what is written is taken apart into frames, each of which becomes a
// command to the modem; what the modem has received comes out framed again. Bytes that are no frame go nowhere.
type pipe struct {
	port    Stream
	modem   Modem
	dialect dialect

	writing sync.Mutex // one Write at a time; before mu
	frames  frame.Decoder
	wire    []byte // the command being written

	inlet
	writeDeadline time.Time // under mu

	done chan struct{} // the reader has ended
}

func newPipe(m Modem, port Stream, d dialect) *pipe {
	p := &pipe{port: port, modem: m, dialect: d, done: make(chan struct{})}
	p.changed.L = &p.mu
	go p.receive() // Close waits for it
	return p
}

func (p *pipe) receive() {
	defer close(p.done)
	var d frame.CommandDecoder
	buf := make([]byte, 1024)
	for {
		n, err := p.port.Read(buf)
		p.mu.Lock()
		d.Feed(buf[:n], func(kind byte, body []byte) {
			if herr := p.dialect.heard(p, kind, body); herr != nil && p.err == nil {
				p.err = herr
			}
		})
		p.quality.Dropped = d.Dropped
		if err != nil && p.err == nil {
			p.err = err
		}
		p.changed.Broadcast()
		over := p.err != nil || p.closed
		p.mu.Unlock()
		if over {
			return
		}
	}
}

// deliver hands a received frame to the reader. Called with mu held.
func (p *pipe) deliver(raw []byte) {
	if len(raw) == 0 || len(raw) > frame.MaxRaw || len(p.unread) > mostUnread {
		p.quality.Refused++
		return
	}
	p.unread = frame.COBS.Append(p.unread, raw)
}

// command writes one command.
func (p *pipe) command(kind byte, body ...byte) error {
	p.wire = frame.AppendCommand(p.wire[:0], kind, body)
	_, err := p.port.Write(p.wire)
	return err
}

func (p *pipe) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quality.Refused++
}

// Read waits for at least one byte, the read deadline, Close, or the modem's end.
func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.read(b)
	if err != nil {
		err = fmt.Errorf("read %s modem %s: %w", p.modem.Kind, p.modem.Device, err)
	}
	return n, err
}

// Write takes bytes with whole frames in them.
func (p *pipe) Write(b []byte) (int, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	err, deadline := p.err, p.writeDeadline
	if p.closed {
		err = os.ErrClosed
	}
	p.mu.Unlock()
	p.frames.Feed(b, func(raw []byte) {
		if err == nil {
			err = p.dialect.send(p, raw, deadline)
		}
	})
	if err != nil {
		// What the modem itself said comes first: its port breaks in the next moment.
		p.mu.Lock()
		if f := new(Fault); !errors.As(err, &f) && errors.As(p.err, &f) {
			err = f
		}
		p.mu.Unlock()
		return 0, fmt.Errorf("write %s modem %s: %w", p.modem.Kind, p.modem.Device, err)
	}
	return len(b), nil
}

// Close frees blocked calls at once.
func (p *pipe) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.changed.Broadcast()
	p.mu.Unlock()
	var err error
	if first {
		err = p.port.Close()
	}
	<-p.done
	return err
}

// SetDeadline sets both deadlines; zero: none.
func (p *pipe) SetDeadline(t time.Time) error {
	if err := p.SetReadDeadline(t); err != nil {
		return err
	}
	return p.SetWriteDeadline(t)
}

// SetWriteDeadline concerns Writes to come.
func (p *pipe) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	p.writeDeadline = t
	p.mu.Unlock()
	return p.port.SetWriteDeadline(t)
}

// ask writes question until ok or patience ends: os.ErrDeadlineExceeded.
func (p *pipe) ask(patience, every time.Duration, question func() error, ok func() bool) error {
	until := time.Now().Add(patience)
	for {
		if err := question(); err != nil {
			return err
		}
		err := p.await(earliest(until, time.Now().Add(every)), ok)
		if !errors.Is(err, os.ErrDeadlineExceeded) || expired(until) {
			return err
		}
	}
}
