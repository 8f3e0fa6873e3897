// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/outbox"
	"hallig/sync/peer"
)

// A sheet is a segment for paper: a few messages of one room for one box, as texts for QR codes. Each text is
//
//	HALLIG:PART/PARTS:ID:DATA
//
// in letters that QR codes hold compactly and that survive mail, messengers and a typewriter: base32 without padding, ID being four letters of the SHA-256 of the whole. What is on
// it is what the box lacks first, for a message without those before it has no place in a room yet.
const (
	sheetMark  = "HALLIG:"
	sheetChars = 2000 // of one text: a code of 121 by 121 modules, which any phone reads from a sheet of paper
	maxCodes   = 16
	maxOnSheet = 400 // events that are tried at most
)

var sheetLetters = base32.StdEncoding.WithPadding(base32.NoPadding)

// ErrNothingDue says that the box has everything, as far as this one knows.
var ErrNothingDue = errors.New("the other box has all of this room already, as far as this one knows")

// Sheet makes texts for at most so many codes of what a box lacks of a room. events says how many messages are on it; left, that there are more.
// plain leaves out the text model, for a box with another version of it.
func (c *Courier) Sheet(ctx context.Context, p peer.Peer, id event.RoomID, codes int, plain bool) (texts []string, events int, left bool, err error) {
	if !c.busy.TryLock() {
		return nil, 0, false, ErrBusy
	}
	defer c.busy.Unlock()
	f, err := c.c.Outbox.Carry(ctx, p, nil)
	if err != nil {
		return nil, 0, false, err
	}
	f.Only(id)
	var items []outbox.Item
	for len(items) < maxOnSheet {
		more, err := f.Next(ctx, aGulp)
		if err != nil {
			return nil, 0, false, err
		}
		if len(more) == 0 {
			break
		}
		items = append(items, more...)
	}
	if len(items) == 0 {
		return nil, 0, false, ErrNothingDue
	}
	room := min(max(codes, 1), maxCodes) * (sheetChars - len("HALLIG:16/16:AAAA:"))
	var sealed []byte
	fits := func(n int) bool {
		raw, ferr := c.sheet(ctx, p, items[:n], plain)
		if ferr != nil {
			err = ferr
			return false
		}
		if sheetLetters.EncodedLen(len(raw)) > room {
			return false
		}
		sealed = raw
		return true
	}
	n := sort.Search(len(items), func(i int) bool { return !fits(i + 1) })
	if n > 0 && err == nil {
		fits(n)
	}
	switch {
	case err != nil:
		return nil, 0, false, err
	case n == 0:
		return nil, 0, false, fmt.Errorf("the next message is too long for %d codes", codes)
	}
	return split(sealed), n, n < len(items), nil
}

func (c *Courier) sheet(ctx context.Context, p peer.Peer, items []outbox.Item, plain bool) ([]byte, error) {
	b := c.build(p, kindSheet)
	if !plain {
		b.s.serial = c.model()
		b.session.UseModel(true)
	}
	if err := errors.Join(b.items(ctx, items), b.flush()); err != nil {
		return nil, err
	}
	return b.s.seal(c.c.Codec, c.c.Key)
}

// model is the version of the text model, as a sheet names it; 0 names none.
func (c *Courier) model() uint64 {
	v := c.c.Codec.ModelVersion()
	return uint64(binary.BigEndian.Uint32(v[:]))
}

// split makes texts of a sealed segment, of equal length.
func split(sealed []byte) (texts []string) {
	sum := sha256.Sum256(sealed)
	id := sheetLetters.EncodeToString(sum[:])[:4]
	data := sheetLetters.EncodeToString(sealed)
	most := sheetChars - len("HALLIG:16/16:AAAA:")
	parts := (len(data) + most - 1) / most
	each := (len(data) + parts - 1) / parts
	for part := range slices.Chunk([]byte(data), each) {
		texts = append(texts, fmt.Sprintf("%s%d/%d:%s:%s", sheetMark, len(texts)+1, parts, id, part))
	}
	return texts
}

// The ways in which a text may be no whole sheet.
var (
	ErrNoSheet = errors.New("this is not the text of a sheet")
	ErrForged  = errors.New("the sheet is not for this box, or was changed")
	ErrModel   = errors.New("the box that made the sheet has another version of the program")
)

// MissingPart says which codes of a sheet were not given.
type MissingPart struct{ Part, Of int }

func (m *MissingPart) Error() string { return fmt.Sprintf("code %d of %d is missing", m.Part, m.Of) }

// gather puts the parts of sheets together, in whatever order they come; parts may come twice.
func gather(text string) (sealed [][]byte, err error) {
	type sheet struct {
		of    int
		parts map[int]string
	}
	sheets := map[string]*sheet{}
	var ids []string
	for _, word := range strings.Fields(strings.ToUpper(text)) {
		rest, ok := strings.CutPrefix(word, sheetMark)
		if !ok {
			continue // what people write around it
		}
		head, rest, _ := strings.Cut(rest, ":")
		id, data, ok := strings.Cut(rest, ":")
		a, b, _ := strings.Cut(head, "/")
		part, perr := strconv.Atoi(a)
		of, oerr := strconv.Atoi(b)
		if !ok || perr != nil || oerr != nil || part < 1 || of < part || of > maxCodes || len(data) > 2*sheetChars || len(id) != 4 {
			return nil, ErrNoSheet
		}
		key := id + head[len(a):]
		if sheets[key] == nil {
			if len(sheets) >= 64 {
				return nil, ErrNoSheet
			}
			sheets[key] = &sheet{of, map[int]string{}}
			ids = append(ids, key)
		}
		sheets[key].parts[part] = data
	}
	if len(ids) == 0 {
		return nil, ErrNoSheet
	}
	for _, id := range ids {
		s := sheets[id]
		var b strings.Builder
		for i := range s.of {
			if s.parts[i+1] == "" {
				return nil, &MissingPart{i + 1, s.of}
			}
			b.WriteString(s.parts[i+1])
		}
		raw, err := sheetLetters.DecodeString(b.String())
		if err != nil {
			return nil, ErrNoSheet
		}
		sealed = append(sealed, raw)
	}
	return sealed, nil
}

// ReadSheet takes in what was scanned from one sheet or several, one code a word.
func (c *Courier) ReadSheet(ctx context.Context, text string) (*Report, error) {
	sealed, err := gather(text)
	if err != nil {
		return nil, err
	}
	if !c.busy.TryLock() {
		return nil, ErrBusy
	}
	defer c.busy.Unlock()
	report := &Report{}
	for _, raw := range sealed {
		p, model, ok := c.sender(raw)
		switch {
		case !ok:
			return report, ErrForged
		case model != 0 && model != c.model():
			return report, ErrModel
		}
		box := BoxReport{Server: p.Server}
		hash := sha256.Sum256(raw)
		var known bool
		err := c.c.DB.View(ctx, func(r *store.Read) (err error) {
			known, err = r.TakenSegment(hash)
			return err
		})
		if err == nil && known {
			box.Known++
		} else if err == nil {
			err = c.open(ctx, p, &entry{kind: kindSheet, hash: hash}, raw, &box, report, "sheet")
		}
		report.Boxes = append(report.Boxes, box)
		if err != nil {
			return report, fmt.Errorf("read sheet: %w", err)
		}
		if box.Segments+box.Known == 0 {
			return report, ErrForged
		}
	}
	return report, nil
}

// sender is the box that a sealed sheet names as its exporter, and the text model that it names; whether that is true the signature says.
func (c *Courier) sender(raw []byte) (p peer.Peer, model uint64, ok bool) {
	plain, err := decrypt(raw, c.id)
	if err != nil {
		return p, 0, false
	}
	r := reader{b: plain}
	r.take(len(segmentMagic))
	kind := r.byte()
	p, ok = c.c.Roster().ByID(peer.IDOf(r.take(32)))
	r.take(32 + 4)
	model = r.uvarint()
	return p, model, ok && !r.bad && kind == kindSheet
}
