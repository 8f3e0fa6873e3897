// SPDX-License-Identifier: EUPL-1.2

package compact

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"

	"hallig/appliance/event"
)

// Decode rebuilds the JSON of a compact row. id gives the id of an event by its number.
func Decode(row []byte, c *Columns, id func(nid int64) (string, error)) ([]byte, error) {
	if !IsCompact(row) {
		return nil, errBad
	}
	d := decoder{in: row[1:], c: c, id: id, out: make([]byte, 0, min(len(row)*4/3+768, event.MaxSize))}
	if err := d.event(); err != nil {
		return nil, err
	}
	return d.out, nil
}

type decoder struct {
	in, out   []byte
	c         *Columns
	id        func(int64) (string, error)
	has, text uint64
	// Where members lie in out, with the comma before them.
	hash, sigs [2]int
}

func (d *decoder) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(d.in)
	if n <= 0 {
		return 0, false
	}
	d.in = d.in[n:]
	return v, true
}

func (d *decoder) event() error {
	var ok1, ok2 bool
	d.has, ok1 = d.uvarint()
	d.text, ok2 = d.uvarint()
	if !ok1 || !ok2 {
		return errBad
	}
	d.has ^= usual
	if d.has>>(members+1) != 0 || d.text&^d.has != 0 {
		return errBad
	}
	extras, err := d.others()
	if err != nil {
		return err
	}
	d.out = append(d.out, '{')
	for m := member(0); m <= members; m++ {
		for len(extras) > 0 && extras[0].before == m {
			d.comma()
			d.out = append(d.out, extras[0].text...)
			extras = extras[1:]
		}
		if m == members || d.has&bit[m] == 0 {
			continue
		}
		if err := d.member(m); err != nil {
			return err
		}
		if len(d.out) > event.MaxSize {
			return errBad
		}
	}
	d.out = append(d.out, '}')
	if len(d.out) > event.MaxSize || len(extras) > 0 {
		return errBad
	}
	if d.hash[1] > 0 {
		putHash(d.out, d.hash, d.sigs)
	}
	return nil
}

// Authority gives the events that authorise a row's event, without the rest of it: those that the row names by number, and the hashes of those it
// does not. false: the row does not say it this way, only Decode tells.
func Authority(row []byte, nid int64) (nids []int64, hashes [][32]byte, ok bool) {
	if !IsCompact(row) {
		return nil, nil, false
	}
	d := decoder{in: row[1:]}
	var ok1, ok2 bool
	d.has, ok1 = d.uvarint()
	d.text, ok2 = d.uvarint()
	if d.has ^= usual; !ok1 || !ok2 || d.has&bit[authEvents] == 0 || d.text&bit[authEvents] != 0 {
		return nil, nil, false
	}
	if _, err := d.others(); err != nil {
		return nil, nil, false
	}
	n, ok := d.uvarint() // auth_events is the first of the members
	if !ok || n > uint64(len(d.in)) {
		return nil, nil, false
	}
	for range n {
		u, ok := d.uvarint()
		switch {
		case !ok:
			return nil, nil, false
		case u > 0:
			u--
			nids = append(nids, nid-int64(u>>1^-(u&1)))
		case len(d.in) < 32:
			return nil, nil, false
		default:
			hashes = append(hashes, [32]byte(d.in[:32]))
			d.in = d.in[32:]
		}
	}
	return nids, hashes, true
}

func (d *decoder) comma() {
	if len(d.out) > 1 {
		d.out = append(d.out, ',')
	}
}

func (d *decoder) member(m member) error {
	from := len(d.out)
	d.comma()
	d.out = append(append(append(d.out, '"'), names[m]...), `":`...)
	own := d.text&bit[m] == 0
	ok := true
	switch {
	case !own || m == content:
		ok = d.phrases()
	case m == authEvents || m == prevEvents:
		return d.list()
	case m == redacts:
		return d.reference()
	case m == hashes:
		d.out = append(d.out, `{"sha256":"0000000000000000000000000000000000000000000"}`...)
		d.hash = [2]int{from, len(d.out)}
	case m == signatures:
		ok = d.signature()
	default:
		d.out, ok = d.c.appendColumn(d.out, m)
	}
	if m == signatures {
		d.sigs = [2]int{from, len(d.out)}
	}
	if !ok {
		return errBad
	}
	return nil
}

func (d *decoder) list() error {
	n, ok := d.uvarint()
	if !ok || n > uint64(len(d.in)) { // each takes a byte at least
		return errBad
	}
	d.out = append(d.out, '[')
	for i := range n {
		if i > 0 {
			d.out = append(d.out, ',')
		}
		if err := d.reference(); err != nil {
			return err
		}
		if len(d.out) > event.MaxSize {
			return errBad
		}
	}
	d.out = append(d.out, ']')
	return nil
}

func (d *decoder) reference() error {
	u, ok := d.uvarint()
	switch {
	case !ok:
		return errBad
	case u > 0:
		u--
		id, err := d.id(d.c.NID - int64(u>>1^-(u&1)))
		if err != nil {
			return err
		}
		d.out = append(append(append(d.out, '"'), id...), '"')
		return nil
	case len(d.in) < 32:
		return errBad
	}
	d.out = append(d.out, '"', '$')
	d.out = base64.RawURLEncoding.AppendEncode(d.out, d.in[:32])
	d.out = append(d.out, '"')
	d.in = d.in[32:]
	return nil
}

func (d *decoder) signature() bool {
	d.out = event.AppendText(append(d.out, '{'), d.c.server())
	d.out = append(append(d.out, `:{"`...), algorithm...)
	if !d.phrases() || len(d.in) < 64 {
		return false
	}
	d.out = append(d.out, '"', ':', '"')
	d.out = base64.RawStdEncoding.AppendEncode(d.out, d.in[:64])
	d.out = append(d.out, `"}}`...)
	d.in = d.in[64:]
	return true
}

type extra struct {
	before member
	text   []byte
}

// others reads the members that have no form of their own.
func (d *decoder) others() ([]extra, error) {
	if d.has&bit[others] == 0 {
		return nil, nil
	}
	n, ok := d.uvarint()
	if !ok || n > uint64(len(d.in)) {
		return nil, errBad
	}
	var list []extra
	for range n {
		if len(d.in) == 0 {
			return nil, errBad
		}
		x := extra{before: member(d.in[0])}
		d.in = d.in[1:]
		from := len(d.out)
		if !d.phrases() {
			return nil, errBad
		}
		x.text = bytes.Clone(d.out[from:])
		list = append(list, x)
	}
	d.out = d.out[:0]
	return list, nil
}
