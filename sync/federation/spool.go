// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// spool holds a long answer, compressed, to be read more than once: what authorises an event may stand behind it. Events shrink to a third.
type spool struct {
	chunks [][]byte
	last   *bytes.Buffer
	z      *flate.Writer
	size   int64
}

const spoolChunk = 64 << 10

func newSpool() *spool {
	s := &spool{}
	s.z, _ = flate.NewWriter(chunker{s}, flate.BestSpeed) // the level is a valid one
	return s
}

// chunker cuts what it is given, so that nothing that was kept is copied when more comes.
type chunker struct{ s *spool }

func (c chunker) Write(b []byte) (int, error) {
	s := c.s
	for rest := b; len(rest) > 0; {
		if s.last == nil {
			s.last = bytes.NewBuffer(make([]byte, 0, spoolChunk))
		}
		n := min(len(rest), spoolChunk-s.last.Len())
		s.last.Write(rest[:n])
		if rest = rest[n:]; s.last.Len() == spoolChunk {
			s.chunks, s.last = append(s.chunks, s.last.Bytes()), nil
		}
	}
	return len(b), nil
}

func (s *spool) Write(b []byte) (int, error) {
	s.size += int64(len(b))
	return s.z.Write(b)
}

// done ends the writing.
func (s *spool) done() error {
	err := s.z.Close()
	if s.last != nil {
		s.chunks, s.last = append(s.chunks, s.last.Bytes()), nil
	}
	return err
}

// read reads all of it, from the beginning.
func (s *spool) read() io.Reader {
	rs := make([]io.Reader, len(s.chunks))
	for i, c := range s.chunks {
		rs[i] = bytes.NewReader(c)
	}
	return flate.NewReader(io.MultiReader(rs...))
}

// maxElement bounds one event of a list, and any other value that is kept; an event has at most 64 KiB, and some wrapping.
const maxElement = 1 << 20

// metered refuses to read on when one value takes too long.
type metered struct {
	r    io.Reader
	left int
}

var errElement = errors.New("a value is longer than allowed")

func (m *metered) Read(b []byte) (int, error) {
	if m.left <= 0 {
		return 0, errElement
	}
	n, err := m.r.Read(b[:min(len(b), m.left)])
	m.left -= n
	return n, err
}

// walkAnswer reads an object without holding it. each gets the values of its keys, one after the other: of a key in lists first the place -1 and then each element
// of the array with its place in it, of a key in values the whole value; what else there is is passed over.
func walkAnswer(r io.Reader, lists, values []string, each func(key string, n int, raw json.RawMessage) error) error {
	m := &metered{r: r, left: maxElement}
	d := json.NewDecoder(m)
	kinds := map[string]bool{}
	for _, k := range lists {
		kinds[k] = true
	}
	for _, k := range values {
		kinds[k] = false
	}
	if err := opens(d, '{'); err != nil {
		return err
	}
	for d.More() {
		m.left = maxElement
		t, err := d.Token()
		if err != nil {
			return err
		}
		key, _ := t.(string)
		list, wanted := kinds[key]
		switch {
		case !wanted:
			err = skipValue(d, m)
		case list:
			if err = each(key, -1, nil); err != nil {
				return err
			}
			err = walkList(d, m, func(n int, raw json.RawMessage) error { return each(key, n, raw) })
		default:
			var raw json.RawMessage
			if err = d.Decode(&raw); err == nil {
				err = each(key, 0, raw)
			}
		}
		if err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

func opens(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%v stands where %v should", t, want)
	}
	return err
}

// walkList reads an array element by element; null is an empty one.
func walkList(d *json.Decoder, m *metered, each func(n int, raw json.RawMessage) error) error {
	t, err := d.Token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return errors.New("no list of events")
	}
	var raw json.RawMessage
	for n := 0; d.More(); n++ {
		m.left = maxElement
		if err := d.Decode(&raw); err != nil {
			return err
		}
		if err := each(n, raw); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func skipValue(d *json.Decoder, m *metered) error {
	for depth := 0; ; {
		m.left = maxElement
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return errors.New("nested too deeply")
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// maxDepth bounds the nesting of what is passed over.
const maxDepth = 100
