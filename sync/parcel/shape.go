// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

// Shapes (version 2). JSON between servers says the same in the same order, only with other values. A shape is the JSON with
// its values taken out; a control character, which JSON never holds as it is, stands where each was. Shapes are names like
// others, told once and numbered after, and the common ones are built in (shapes.txt). The values follow in order, each
// in a way of its own (value.go). Objects whose keys are users, devices or keys, and lists, are values: their elements
// have shapes themselves, the same as the element before for a single byte.
const (
	holeText = 1
	holeInt  = 2
	holeList = 3
	holeMap  = 4
	holes    = "\x01\x02\x03\x04"

	maxShapeDepth = 16 // what lies deeper is part of the shape
)

// shape is JSON without its values, and the type of event whose content it is; of an element the type is empty.
type shape struct{ typ, text string }

// shapesFile holds the shapes that every box of version 2 knows: one a line, type, tab, text with T, I, L and M in angle quotes for
// the holes. Their order is wire format: lines are only added, with a new feature bit.
//
//go:embed shapes.txt
var shapesFile string

// shapes are the built-in ones.
type shapes struct {
	list []shape
	of   map[shape]int
}

var holeNames = strings.NewReplacer("«T»", "\x01", "«I»", "\x02", "«L»", "\x03", "«M»", "\x04")

func loadShapes() *shapes {
	s := &shapes{of: make(map[shape]int)}
	for line := range strings.Lines(shapesFile) {
		typ, text, ok := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		if ok && !strings.HasPrefix(line, "#") {
			x := shape{strings.Clone(typ), holeNames.Replace(text)}
			s.of[x] = len(s.list)
			s.list = append(s.list, x)
		}
	}
	return s
}

// value is what was in a hole.
type value struct {
	kind byte
	key  string // that the value stands under
	text string
	num  int64
	list []element
}

// element is one of a list, or one of a map with its key.
type element struct {
	key    string
	text   string // of its shape
	values []value
}

// constant are keys whose values are words of the protocol: they are part of the shape.
func constant(key string) bool {
	switch key {
	case "msgtype", "membership", "algorithm", "rel_type", "format", "join_rule", "history_visibility", "guest_access", "type", "kind",
		"version", "application", "scope", "alg", "kty", "v", "action", "key_ops", "algorithms", "usage", "presence", "reason_code",
		"focus_selection", "allow_ip_literals", "org.hallig.priority":
		return true
	}
	return false
}

// dynamic says whether an object's key is a name of somebody or something: a user, a room, an event, a device, a key.
func dynamic(key string) bool {
	switch {
	case key == "":
		return false
	case strings.ContainsRune("@!$#", rune(key[0])):
		return len(key) > 2
	case len(key) == 43 && !strings.ContainsAny(key, "._"):
		return true
	case len(key) >= 8 && len(key) <= 12 && strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "":
		return true
	}
	kind, _, ok := strings.Cut(key, ":")
	return ok && (kind == "ed25519" || kind == "curve25519" || kind == "signed_curve25519")
}

// walker takes JSON apart. The text is valid and has no control characters but line feeds.
type walker struct {
	b      []byte
	out    []byte
	values []value
}

// takeApart gives the shape and the values of a JSON text.
func takeApart(text []byte) (string, []value, bool) {
	if bytes.ContainsAny(text, holes) || !json.Valid(text) || len(text) == 0 || text[0] != '{' && text[0] != '[' {
		return "", nil, false
	}
	shape, values := partsOf(text, "", 0)
	return shape, values, true
}

func partsOf(text []byte, key string, depth int) (string, []value) {
	w := walker{b: text}
	end := w.value(0, key, depth)
	w.out = append(w.out, text[end:]...)
	return string(w.out), w.values
}

// value walks the value that begins at i and tells where it ends.
func (w *walker) value(i int, key string, depth int) int {
	end := w.skip(i)
	raw := w.b[i:end]
	switch c := raw[0]; {
	case depth > maxShapeDepth || constant(key) || string(raw) == "{}" || string(raw) == "[]":
		w.out = append(w.out, raw...)
	case c == '{':
		w.object(i, end, key, depth)
	case c == '[':
		w.array(i, end, key, depth)
	case c == '"':
		if text, ok := unquote(raw); ok {
			w.out = append(w.out, holeText)
			w.values = append(w.values, value{kind: holeText, key: key, text: text})
		} else {
			w.out = append(w.out, raw...)
		}
	case c == '-' || c >= '0' && c <= '9':
		w.number(raw, key)
	default:
		w.out = append(w.out, raw...)
	}
	return end
}

func (w *walker) number(raw []byte, key string) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || string(strconv.AppendInt(nil, n, 10)) != string(raw) {
		w.out = append(w.out, raw...)
		return
	}
	w.out = append(w.out, holeInt)
	w.values = append(w.values, value{kind: holeInt, key: key, num: n})
}

// unquote reads a JSON string that appendString would write in the very same way.
func unquote(raw []byte) (string, bool) {
	if bytes.IndexByte(raw, '\\') < 0 {
		s := string(raw[1 : len(raw)-1])
		return s, len(appendString(nil, s)) == len(raw)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil || string(appendString(nil, s)) != string(raw) {
		return "", false
	}
	return s, true
}

// skip tells where the value that begins at i ends.
func (w *walker) skip(i int) int {
	depth := 0
	for ; i < len(w.b); i++ {
		switch w.b[i] {
		case '"':
			for i++; w.b[i] != '"'; i++ {
				if w.b[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case ',', ':', ' ', '\n', '\r', '\t':
			continue
		default:
			for i+1 < len(w.b) && !bytes.ContainsRune([]byte(",]} \n\r\t"), rune(w.b[i+1])) {
				i++
			}
		}
		if depth == 0 {
			return i + 1
		}
	}
	return i
}

// object walks an object. One with white space between its parts is part of the shape.
func (w *walker) object(i, end int, key string, depth int) {
	var list []element
	var spans [][2]int
	names := true
	for at := i + 1; w.b[at] != '}'; {
		k := w.skip(at)
		name, ok := unquote(w.b[at:min(k, end)])
		if w.b[at] != '"' || !ok || w.b[k] != ':' {
			w.out = append(w.out, w.b[i:end]...)
			return
		}
		e := w.skip(k + 1)
		if c := w.b[k+1]; c == ' ' || c == '\n' || c == '\r' || c == '\t' {
			w.out = append(w.out, w.b[i:end]...)
			return
		}
		list, spans = append(list, element{key: name}), append(spans, [2]int{k + 1, e})
		names = names && dynamic(name)
		if at = e; w.b[at] == ',' {
			at++
		} else if w.b[at] != '}' {
			w.out = append(w.out, w.b[i:end]...)
			return
		}
	}
	if names {
		for j := range list {
			list[j].text, list[j].values = partsOf(w.b[spans[j][0]:spans[j][1]], key, depth+1)
		}
		w.out = append(w.out, holeMap)
		w.values = append(w.values, value{kind: holeMap, key: key, list: list})
		return
	}
	w.out = append(w.out, '{')
	for j, e := range list {
		if j > 0 {
			w.out = append(w.out, ',')
		}
		w.out = append(appendString(w.out, e.key), ':')
		w.value(spans[j][0], e.key, depth+1)
	}
	w.out = append(w.out, '}')
}

func (w *walker) array(i, end int, key string, depth int) {
	var list []element
	for at := i + 1; ; {
		if c := w.b[at]; c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == ']' {
			w.out = append(w.out, w.b[i:end]...)
			return
		}
		e := w.skip(at)
		text, values := partsOf(w.b[at:e], key, depth+1)
		list = append(list, element{text: text, values: values})
		if w.b[e] == ']' {
			break
		}
		if w.b[e] != ',' {
			w.out = append(w.out, w.b[i:end]...)
			return
		}
		at = e + 1
	}
	w.out = append(w.out, holeList)
	w.values = append(w.values, value{kind: holeList, key: key, list: list})
}

// The number before a shape: 0 the same as that of the element before, 1 one that has a name of its own, else a built-in one.
const (
	shapeSame  = 0
	shapeNamed = 1
	shapeFirst = 2
)

func (w *writer) shape(s shape) {
	if i, ok := w.s.codec.shapes.of[s]; ok {
		w.uvarint(uint64(i) + shapeFirst)
		return
	}
	w.uvarint(shapeNamed)
	w.ref(tableShape, s, 0, func(uint64) {
		w.name(s.typ)
		w.block(w.s.codec.Pack([]byte(s.text)))
	})
}

func (r *reader) shape(last shape) shape {
	switch n := r.uvarint(); {
	case n == shapeSame:
		return last
	case n == shapeNamed:
		s, _ := deref(r, tableShape, func() (shape, uint64) {
			s := shape{typ: r.name()}
			s.text = string(r.unpack(r.block(), 1<<16))
			return s, 0
		})
		return s
	case n-shapeFirst < uint64(len(r.s.codec.shapes.list)):
		return r.s.codec.shapes.list[n-shapeFirst]
	}
	r.fail(errors.New("unknown shape"))
	return shape{}
}

// teller writes or reads the values of one JSON text.
type teller struct {
	w    *writer
	r    *reader
	room logName // whose events the values name; only the room counts
	said []byte  // texts so far: later ones repeat them
	left int     // bytes that the text may still grow to

	grams   map[[gram]byte]int // where in said six bytes stood last
	indexed int                // how far said is in grams
}

func (t *teller) writeValues(values []value) {
	for _, v := range values {
		switch v.kind {
		case holeText:
			t.writeText(v.key, v.text)
		case holeInt:
			t.w.varint(v.num)
		default:
			t.w.uvarint(uint64(len(v.list)))
			last := ""
			for i, e := range v.list {
				if v.kind == holeMap {
					t.writeText("", e.key)
					if e.key[0] == '!' {
						t.room.room = event.RoomID(e.key) // what is named below is of this room
					}
				}
				if i > 0 && e.text == last {
					t.w.uvarint(shapeSame)
				} else {
					t.w.shape(shape{"", e.text})
				}
				last = e.text
				t.writeValues(e.values)
			}
		}
	}
}

// readShaped appends the JSON of a shape with the values that follow.
func (t *teller) readShaped(b []byte, text string, depth int) []byte {
	if depth > 2*maxShapeDepth {
		t.r.fail(errors.New("too deep"))
	}
	for t.r.err == nil {
		i := strings.IndexAny(text, holes)
		n := i
		if i < 0 {
			n = len(text)
		}
		if t.left -= n + 1; t.left < 0 {
			t.r.fail(errors.New("longer than allowed"))
			return nil
		}
		b = append(b, text[:n]...)
		if i < 0 {
			return b
		}
		kind := text[i]
		text = text[i+1:]
		switch kind {
		case holeText:
			b = t.readString(b)
		case holeInt:
			b = appendInt(b, t.r.varint())
		default:
			b = t.readList(b, kind, depth)
		}
	}
	return nil
}

func (t *teller) readString(b []byte) []byte {
	from := len(b)
	b = appendString(b, t.readText())
	if t.left -= len(b) - from; t.left < 0 {
		t.r.fail(errors.New("longer than allowed"))
	}
	return b
}

func (t *teller) readList(b []byte, kind byte, depth int) []byte {
	open, end := byte('['), byte(']')
	if kind == holeMap {
		open, end = '{', '}'
	}
	b = append(b, open)
	var last shape
	for i := range t.r.count() {
		if t.r.err != nil {
			return nil
		}
		if i > 0 {
			b = append(b, ',')
		}
		if kind == holeMap {
			b = append(t.readString(b), ':')
		}
		last = t.r.shape(last)
		b = t.readShaped(b, last.text, depth+1)
	}
	return append(b, end)
}

// writeJSON writes a JSON text by its shape, if it has one; typ and room are those of the event whose content it is.
func (w *writer) writeJSON(room logName, typ string, text []byte) bool {
	form, values, ok := takeApart(text)
	if !ok {
		return false
	}
	w.shape(shape{typ, form})
	t := teller{w: w, room: room}
	t.writeValues(values)
	return true
}

// readJSON reads what writeJSON wrote, at most limit bytes.
func (r *reader) readJSON(room logName, limit int) (typ string, text []byte) {
	s := r.shape(shape{})
	t := teller{r: r, room: room, left: limit}
	text = t.readShaped(nil, s.text, 0)
	if r.err != nil {
		return "", nil
	}
	return s.typ, slices.Clip(text)
}
