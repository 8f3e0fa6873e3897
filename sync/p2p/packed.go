// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/klauspost/compress/flate"
)

// This file packs the HTTP between two hosts. What servers say to each other is JSON: a quarter of it is left, so that a box on a satellite, or behind a hub, pays for that. It is the stream that is packed and
// not the bodies: HTTP above it is as it was, with lengths, ranges and headers, and those who know only protocolHTTP are spoken to in that.

const (
	packHistory = 8 << 10  // bytes of what was written before that the next refers to; the packer can use no more
	packMost    = 64 << 10 // bytes that are packed at once
)

// packed is a connection whose bytes travel as one DEFLATE stream (RFC 1951) each way, which has no last block and is flushed at each write. It has one request and its answer, so what one asks is not
// packed together with what somebody else does. A deadline that passes ends it for reading. Between writes it keeps packHistory and nothing else: a hub has many.
type packed struct {
	net.Conn
	idle *sync.Pool // of *unpacker

	writing sync.Mutex
	before  []byte

	reading sync.Mutex
	unpack  *unpacker // nil until the first byte is asked for
	closed  bool
}

// unpacker undoes it. One takes some 80 KB, and is used again.
type unpacker struct {
	from *bufio.Reader
	io.ReadCloser
}

// pack has a connection's bytes packed.
func (h *Host) pack(c net.Conn) net.Conn { return &packed{Conn: c, idle: &h.unpackers} }

// Write packs p and sends it. After an error the stream is at its end.
func (c *packed) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for n < len(p) {
		part := p[n:min(len(p), n+packMost)]
		var out bytes.Buffer
		if err := flate.StatelessDeflate(&out, part, false, c.before); err != nil {
			return n, fmt.Errorf("pack: %w", err) // a buffer takes everything
		}
		if _, err := c.Conn.Write(out.Bytes()); err != nil {
			return n, err
		}
		n += len(part)
		c.before = append(c.before, part...)
		c.before = append([]byte(nil), c.before[max(0, len(c.before)-packHistory):]...)
	}
	return n, nil
}

// Read gives what was packed at the other end.
func (c *packed) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	if c.unpack == nil {
		c.begin()
	}
	n, err := c.unpack.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // there is no last block; whether something lacks HTTP knows
	}
	return n, err
}

func (c *packed) begin() {
	if u, ok := c.idle.Get().(*unpacker); ok {
		u.from.Reset(c.Conn)
		if u.ReadCloser.(flate.Resetter).Reset(u.from, nil) == nil {
			c.unpack = u
			return
		}
	}
	from := bufio.NewReaderSize(c.Conn, 4<<10)
	c.unpack = &unpacker{from, flate.NewReader(from)}
}

// Close ends the connection.
func (c *packed) Close() error {
	err := c.Conn.Close()
	if !c.reading.TryLock() { // somebody is about to hear of it; then the unpacker is not used again
		return err
	}
	defer c.reading.Unlock()
	if u := c.unpack; u != nil {
		u.from.Reset(nil)
		c.unpack = nil
		c.idle.Put(u)
	}
	c.closed = true
	return err
}
