// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

// Bodies. A message is mostly one long string in a small frame of keys: the text in "body", the ciphertext in
// "ciphertext". The frame is a name like others, sent once and numbered after; two frames of plain texts are built in.
const (
	bodyPlain    = 0 // built-in frame 0, text by the model
	bodyMentions = 1 // built-in frame 1, text by the model
	bodyText     = 2 // one byte: frame and coding; frame and ids where not built in; text
	bodyCipher   = 3 // frame, ids, ciphertext as bytes
	bodyContent  = 4 // type, one byte: number of ids and coding, ids, whole content
	bodyMegolm   = 5 // frame, ids, Megolm message without its fixed bytes
	bodyShape    = 6 // version 2: shape and values
)

// A coding says how a string is written; it stands in the low bits of the byte before it.
const (
	codingRaw    = 0
	codingModel  = 1
	codingPacked = 2
	codings      = 4
	frameNamed   = 2 // in bodyText: the frame is a name, not one of the built-in ones
)

const (
	typeMessage   = "m.room.message"
	typeEncrypted = "m.room.encrypted"
)

// frame is content with one string value taken out; hole is where it was.
type frame struct {
	typ  string
	json string
	hole int
}

// builtin are frames that every box knows; their order is wire format.
func builtin() [2]frame {
	plain := `{"body":,"msgtype":"m.text"}`
	mentions := `{"body":,"m.mentions":{},"msgtype":"m.text"}`
	return [2]frame{{typeMessage, plain, 8}, {typeMessage, mentions, 8}}
}

// takeOut finds the top-level string under key and takes it out. The content is canonical JSON, so the value of the key
// is found by decoding and its place by writing it again.
func takeOut(typ string, content []byte, key string) (frame, string, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(content, &fields) != nil {
		return frame{}, "", false
	}
	var text string
	if raw, ok := fields[key]; !ok || len(raw) < 2 || raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return frame{}, "", false
	}
	entry := append(append(appendString(nil, key), ':'), appendString(nil, text)...)
	for from := 0; ; {
		i := bytes.Index(content[from:], entry)
		if i < 0 {
			return frame{}, "", false
		}
		from += i
		hole := from + len(entry) - len(appendString(nil, text))
		f := frame{typ, string(content[:hole]) + string(content[from+len(entry):]), hole}
		// The same words may stand inside another string before; only the right one, put back, is top-level.
		var again map[string]json.RawMessage
		probe := append(append([]byte(f.json[:hole]), "0"...), f.json[hole:]...)
		if json.Unmarshal(probe, &again) == nil && string(again[key]) == "0" {
			return f, text, true
		}
		from++
	}
}

func (f frame) fill(quoted []byte) []byte {
	b := make([]byte, 0, len(f.json)+len(quoted))
	return append(append(append(b, f.json[:f.hole]...), quoted...), f.json[f.hole:]...)
}

func (w *writer) frame(f frame) {
	w.ref(tableFrame, f, 0, func(uint64) {
		w.name(f.typ)
		w.uvarint(uint64(f.hole))
		if w.two {
			if probe, ok := f.probe(); ok && w.writeJSON(logName{}, "", probe) {
				return
			}
			w.uvarint(shapeSame) // no shape
		}
		w.block(w.s.codec.Pack([]byte(f.json)))
	})
}

// probe is the frame as whole JSON: a number in its hole, a word where events were named.
func (f frame) probe() ([]byte, bool) {
	b := f.fill([]byte("0"))
	return bytes.ReplaceAll(b, []byte(idMark), []byte(idWord)), !bytes.Contains(b, []byte(`"`+idWord+`"`))
}

const idWord = "$" // as long as idMark

func (r *reader) frame() frame {
	f, _ := deref(r, tableFrame, func() (frame, uint64) {
		f := frame{typ: r.name(), hole: int(min(r.uvarint(), 1<<16))}
		f.json = string(r.frameText(f.hole))
		if f.hole > len(f.json) {
			r.fail(errors.New("frame of a message with no place for its text"))
		}
		return f, 0
	})
	return f
}

// frameText reads the JSON of a frame.
func (r *reader) frameText(hole int) []byte {
	if r.two && len(r.b) > 0 && r.b[0] != shapeSame {
		_, text := r.readJSON(logName{}, 1<<16)
		if hole >= len(text) || text[hole] != '0' {
			r.fail(errors.New("frame of a message with no place for its text"))
			return nil
		}
		text = append(text[:hole], text[hole+1:]...)
		return bytes.ReplaceAll(text, []byte(`"`+idWord+`"`), []byte(`"`+idMark+`"`))
	}
	if r.two {
		r.byte()
	}
	return r.unpack(r.block(), 1<<16)
}

// takeIDs takes event ids out of a frame, before and behind its hole.
func (f frame) takeIDs() (frame, []event.ID) {
	before, ids := takeIDs(f.json[:f.hole], nil)
	behind, ids := takeIDs(f.json[f.hole:], ids)
	return frame{f.typ, before + behind, len(before)}, ids
}

// putIDs undoes takeIDs.
func (f frame) putIDs(ids []event.ID) frame {
	n := min(strings.Count(f.json[:f.hole], idMark), len(ids))
	before := putIDs([]byte(f.json[:f.hole]), ids[:n])
	behind := putIDs([]byte(f.json[f.hole:]), ids[n:])
	return frame{f.typ, string(before) + string(behind), len(before)}
}

// writeBody chooses the body's form and gives what writes it.
func (s *Session) writeBody(f parts, two bool) (byte, func(*writer)) {
	if two {
		if form, code, ok := s.writeShaped(f); ok {
			return form, code
		}
	}
	if f.stateKey == nil && f.typ == typeMessage {
		if fr, text, ok := takeOut(f.typ, f.content, "body"); ok {
			return s.writeText(f.room, fr, text)
		}
	}
	if f.stateKey == nil && f.typ == typeEncrypted {
		if fr, text, ok := takeOut(f.typ, f.content, "ciphertext"); ok {
			raw, err := base64.RawStdEncoding.Strict().DecodeString(text)
			if err == nil && len(raw) > 0 {
				fr, ids := fr.takeIDs()
				form := byte(bodyCipher)
				if short, ok := shortenMegolm(raw); ok {
					form, raw = bodyMegolm, short
				}
				return form, func(w *writer) { w.frame(fr); w.ids(f.room, ids); w.raw(raw) }
			}
		}
	}
	content, ids := takeIDs(string(f.content), nil)
	coding, coded := s.code(content)
	return bodyContent, func(w *writer) {
		w.name(f.typ)
		w.byte(byte(len(ids))<<2 | coding)
		w.ids(f.room, ids)
		w.raw(coded)
	}
}

// writeShaped chooses the form of version 2 where the content is more than one text in a frame that comes again.
func (s *Session) writeShaped(f parts) (byte, func(*writer), bool) {
	if f.stateKey == nil && f.typ == typeEncrypted {
		return 0, nil, false
	}
	form, values, ok := takeApart(f.content)
	if !ok || f.typ == typeMessage && f.stateKey == nil && len(values) == 1 && values[0].key == "body" {
		return 0, nil, false
	}
	return bodyShape, func(w *writer) {
		w.shape(shape{f.typ, form})
		t := teller{w: w, room: logName{room: f.room}}
		t.writeValues(values)
	}, true
}

func (s *Session) writeText(room event.RoomID, fr frame, text string) (byte, func(*writer)) {
	coding, coded := s.code(text)
	for i, b := range builtin() {
		if fr != b {
			continue
		}
		if coding == codingModel {
			return byte(bodyPlain + i), func(w *writer) { w.raw(coded) }
		}
		return bodyText, func(w *writer) { w.byte(byte(i*codings) | coding); w.raw(coded) }
	}
	fr, ids := fr.takeIDs()
	return bodyText, func(w *writer) {
		w.byte(frameNamed*codings | coding)
		w.frame(fr)
		w.ids(room, ids)
		w.raw(coded)
	}
}

// code writes a string in the shortest way.
func (s *Session) code(text string) (coding byte, coded []byte) {
	coding, coded = codingRaw, []byte(text)
	if s.model {
		if b, ok := s.codec.text.encode(text, len(coded)); ok {
			coding, coded = codingModel, b
		}
	}
	if len(text) > 24 {
		if b := s.codec.Pack([]byte(text)); len(b) < len(coded) {
			coding, coded = codingPacked, b
		}
	}
	return coding, coded
}

func (r *reader) code(coding byte) string {
	switch coding {
	case codingRaw:
		return string(r.rest())
	case codingModel:
		return r.prose(r.rest())
	case codingPacked:
		return string(r.unpack(r.rest(), 1<<16))
	}
	r.fail(errors.New("unknown coding of a text"))
	return ""
}

// body reads type and content.
func (r *reader) body(f *parts, form byte) {
	if r.err != nil {
		return
	}
	var fr frame
	switch form {
	case bodyPlain, bodyMentions:
		fr = builtin()[form-bodyPlain]
		f.content = fr.fill(r.quoted(codingModel))
	case bodyText:
		how := r.byte()
		switch which := how / codings; {
		case which < frameNamed:
			fr = builtin()[which]
		case which == frameNamed:
			fr = r.frame()
			fr = fr.putIDs(r.ids(strings.Count(fr.json, idMark)))
		default:
			r.fail(errors.New("unknown frame of a message"))
		}
		f.content = fr.fill(r.quoted(how % codings))
	case bodyCipher, bodyMegolm:
		fr = r.frame()
		fr = fr.putIDs(r.ids(strings.Count(fr.json, idMark)))
		raw := r.rest()
		if form == bodyMegolm {
			raw = r.lengthenMegolm(raw)
		}
		f.content = fr.fill(appendString(nil, base64.RawStdEncoding.EncodeToString(raw)))
	case bodyContent:
		fr.typ = r.name()
		how := r.byte()
		ids := r.ids(int(how >> 2))
		f.content = putIDs([]byte(r.code(how&3)), ids)
	case bodyShape:
		fr.typ, f.content = r.readJSON(logName{room: f.room}, event.MaxSize)
	default:
		r.fail(errors.New("unknown form of a body"))
	}
	f.typ = fr.typ
}

func (r *reader) quoted(coding byte) []byte { return appendString(nil, r.code(coding)) }

// A Megolm message is version 3, the index (tag 0x08), the ciphertext (tag 0x12) with its length, 8 bytes of MAC and 64 of
// signature. All but the index and the last three follow from the size.
// https://gitlab.matrix.org/matrix-org/olm/blob/master/docs/megolm.md#message-format
const megolmTail = 8 + 64

func shortenMegolm(raw []byte) ([]byte, bool) {
	if len(raw) < 3+megolmTail || raw[0] != 3 || raw[1] != 8 {
		return nil, false
	}
	_, n := binary.Uvarint(raw[2:])
	if n <= 0 || len(raw) < 2+n+1 {
		return nil, false
	}
	size, m := binary.Uvarint(raw[3+n:])
	if m <= 0 || len(raw) < 3+n+m {
		return nil, false
	}
	short := append(append([]byte(nil), raw[2:2+n]...), raw[3+n+m:]...)
	if uint64(len(short)-n) != size+megolmTail {
		return nil, false
	}
	r := reader{}
	return short, bytes.Equal(r.lengthenMegolm(short), raw)
}

func (r *reader) lengthenMegolm(short []byte) []byte {
	_, n := binary.Uvarint(short)
	if n <= 0 || len(short) < n+megolmTail {
		r.fail(errShort)
		return nil
	}
	raw := append([]byte{3, 8}, short[:n]...)
	raw = binary.AppendUvarint(append(raw, 0x12), uint64(len(short)-n-megolmTail))
	return append(raw, short[n:]...)
}

// appendString writes a string as canonical JSON does.
// https://spec.matrix.org/v1.16/appendices/#canonical-json
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\r':
			b = append(b, `\r`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}

func appendInt(b []byte, v int64) []byte { return strconv.AppendInt(b, v, 10) }

func sha256Sum(b []byte) [32]byte { return sha256.Sum256(b) }
