// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxDepth bounds nesting; only "config" has any depth of its own.
const maxDepth = 16

// reader walks over the text beside the types of File, so that each refusal knows its field and place. encoding/json alone takes
// the last of two equal names, names in other letters' case, and null for everything.
type reader struct {
	raw    []byte
	dec    *json.Decoder
	at     int  // where the last token begins
	noLine bool // the text is nobody's: refusals do not tell lines
}

// Explain says why a text is no JSON of the type of into, a struct: an Error with the field's path and, with places, line and column. nil: it
// finds nothing wrong. It is for texts that encoding/json has refused, as it is stricter: a name that stands twice, null, and names in
// other letters' case are wrong to it.
func Explain(raw []byte, into any, places bool) error {
	r := newReader(raw)
	r.noLine = !places
	return r.walk(reflect.TypeOf(into))
}

func newReader(raw []byte) *reader {
	r := &reader{raw: raw, dec: json.NewDecoder(bytes.NewReader(raw))}
	r.dec.UseNumber()
	return r
}

func (r *reader) place(at int, e Error) error {
	if r.noLine {
		return Error{De: e.De + ".", En: e.En + "."}
	}
	return place(r.raw, at, e)
}

func (r *reader) walk(t reflect.Type) error {
	if err := r.value(t, "", 0); err != nil {
		return err
	}
	raw, end := r.raw, int(r.dec.InputOffset())
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return r.place(end+len(raw[end:])-len(bytes.TrimSpace(raw[end:])), Error{
			De: "nach der schließenden Klammer } steht noch etwas; es wegnehmen",
			En: "something follows the closing brace }; remove it",
		})
	}
	return nil
}

func (r *reader) fail(path, de, en string) error {
	if path != "" {
		de, en = fmt.Sprintf("„%s“ %s", path, de), fmt.Sprintf("%q %s", path, en)
	}
	return r.place(r.at, Error{De: de, En: en})
}

func (r *reader) token() (json.Token, error) {
	from := int(r.dec.InputOffset())
	r.at = len(r.raw) - len(bytes.TrimLeft(r.raw[from:], " \t\r\n,:"))
	t, err := r.dec.Token()
	if err == nil {
		return t, nil
	}
	return nil, r.syntax(err)
}

// syntax says in words what is no JSON.
func (r *reader) syntax(err error) error {
	at := int(r.dec.InputOffset())
	var s *json.SyntaxError
	if errors.As(err, &s) {
		at = max(at, int(s.Offset)-1)
	}
	rest := bytes.TrimLeft(r.raw[min(at, len(r.raw)):], " \t\r\n,:")
	before := bytes.TrimRight(r.raw[:min(at, len(r.raw))], " \t\r\n")
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), len(rest) == 0:
		return r.place(len(r.raw), Error{
			De: "die Datei hört mittendrin auf; es fehlt eine schließende Klammer } oder ]",
			En: "the file ends in the middle; a closing brace } or ] is missing",
		})
	case bytes.HasPrefix(rest, []byte("“")), bytes.HasPrefix(rest, []byte("„")), bytes.HasPrefix(rest, []byte("”")), bytes.HasPrefix(rest, []byte("'")), bytes.HasPrefix(rest, []byte("«")):
		return r.place(at, Error{
			De: `hier stehen typografische Anführungszeichen; in JSON sind es immer gerade: "`,
			En: `these are typographic quotation marks; JSON has straight ones only: "`,
		})
	case (rest[0] == '}' || rest[0] == ']') && bytes.HasSuffix(before, []byte(",")), bytes.HasSuffix(before, []byte(",")) && (r.raw[at] == '}' || r.raw[at] == ']'):
		return r.place(at, Error{De: "vor der schließenden Klammer steht ein Komma zu viel", En: "there is a comma too many before the closing bracket"})
	case rest[0] == '"':
		return r.place(at, Error{De: "davor fehlt ein Komma oder ein Doppelpunkt", En: "a comma or a colon is missing before this"})
	case rest[0] == '/' || rest[0] == '#':
		return r.place(at, Error{De: "Kommentare gibt es in dieser Datei nicht; die Zeile wegnehmen", En: "there are no comments in this file; remove the line"})
	}
	return r.place(at, Error{
		De: "das ist kein gültiges JSON; oft fehlt ein Komma zwischen zwei Feldern oder ein Anführungszeichen",
		En: "this is no valid JSON; often a comma between two fields or a quotation mark is missing",
	})
}

// value reads one value that is to become a t; nil: whatever it is.
func (r *reader) value(t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return r.fail(path, "ist zu tief verschachtelt", "is nested too deeply")
	}
	tok, err := r.token()
	if err != nil {
		return err
	}
	if t == reflect.TypeFor[json.RawMessage]() {
		if tok != json.Delim('{') {
			return r.fail(path, "muss ein Block in geschweiften Klammern { } sein", "must be a block in braces { }")
		}
		return r.object(nil, path, depth)
	}
	if t == nil {
		switch tok {
		case json.Delim('{'):
			return r.object(nil, path, depth)
		case json.Delim('['):
			return r.list(nil, path, depth)
		}
		return nil
	}
	if tok == nil {
		return r.fail(path, "ist null; das Feld weglassen oder ausfüllen", "is null; leave the field out or fill it in")
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		if tok != json.Delim('{') {
			return r.fail(path, "muss ein Block in geschweiften Klammern { } sein", "must be a block in braces { }")
		}
		return r.object(t, path, depth)
	case reflect.Slice:
		if tok != json.Delim('[') {
			return r.fail(path, "muss eine Liste in eckigen Klammern [ ] sein", "must be a list in square brackets [ ]")
		}
		return r.list(t.Elem(), path, depth)
	case reflect.String:
		if _, ok := tok.(string); !ok {
			return r.fail(path, `muss ein Text in Anführungszeichen " sein`, `must be a text in quotation marks "`)
		}
	case reflect.Bool:
		if _, ok := tok.(bool); !ok {
			return r.fail(path, "muss true oder false sein, ohne Anführungszeichen", "must be true or false, without quotation marks")
		}
	case reflect.Int, reflect.Int64:
		bits := 32 // whatever the machine: a file is for all
		if t.Kind() == reflect.Int64 {
			bits = 64
		}
		n, ok := tok.(json.Number)
		if _, err := strconv.ParseInt(string(n), 10, bits); !ok || err != nil {
			return r.fail(path, "muss eine ganze Zahl sein, ohne Anführungszeichen", "must be a whole number, without quotation marks")
		}
	case reflect.Float64:
		n, ok := tok.(json.Number)
		if _, err := n.Float64(); !ok || err != nil {
			return r.fail(path, "muss eine Zahl sein, ohne Anführungszeichen, mit Punkt statt Komma", "must be a number, without quotation marks, with a point for the decimals")
		}
	default:
		panic("provision: no words for " + t.String())
	}
	return nil
}

func (r *reader) list(elem reflect.Type, path string, depth int) error {
	for i := 0; r.dec.More(); i++ {
		if err := r.value(elem, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	_, err := r.token()
	return err
}

// object reads what follows an opening brace; t is a struct, a map, or nil.
func (r *reader) object(t reflect.Type, path string, depth int) error {
	seen := map[string]bool{}
	for r.dec.More() {
		tok, err := r.token()
		if err != nil {
			return err
		}
		name, ok := tok.(string)
		if !ok {
			return r.syntax(errors.New("no name"))
		}
		full := name
		if path != "" {
			full = path + "." + name
		}
		if len(full) > 200 {
			full = full[:200]
		}
		if seen[name] {
			return r.fail(full, "steht zweimal in der Datei; eines davon wegnehmen", "is in the file twice; remove one of them")
		}
		seen[name] = true
		var elem reflect.Type
		switch {
		case t == nil && path == "config" && !slices.Contains(ConfigFields, name):
			return r.unknown(full, name, ConfigFields)
		case t == nil && full == "config.hub":
			elem = reflect.TypeFor[Hub]()
		case t == nil:
		case t.Kind() == reflect.Map:
			elem = t.Elem()
		default:
			fields := fieldsOf(t)
			if elem, ok = fields[name]; !ok {
				return r.unknown(full, name, sortedNames(t))
			}
		}
		if err := r.value(elem, full, depth+1); err != nil {
			return err
		}
	}
	_, err := r.token()
	return err
}

func (r *reader) unknown(full, name string, known []string) error {
	switch _, ofLine := fieldsOf(reflect.TypeFor[Serial]())[name]; {
	case name == "hallig":
		return r.fail(full, "gehört in hallig.json, nicht hierher; hier einfach weglassen", "belongs in hallig.json, not here; just leave it out here")
	case ofLine && full == name:
		return r.fail(full, "gehört in eine Leitung: \"serial\": [{\"device\": …, \"modem\": …}]", "belongs in a line: \"serial\": [{\"device\": …, \"modem\": …}]")
	}
	if near := nearest(name, known); near != "" {
		return r.fail(full, fmt.Sprintf("ist unbekannt; gemeint ist wohl „%s“", near), fmt.Sprintf("is not known; %q was probably meant", near))
	}
	list := strings.Join(known, ", ")
	return r.fail(full, "ist unbekannt; hier gibt es: "+list, "is not known; here are: "+list)
}

func fieldsOf(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		if name, ok := nameOf(f); ok {
			out[name] = f.Type
		}
	}
	return out
}

// nameOf is a field's name in a file, if it has one.
func nameOf(f reflect.StructField) (string, bool) {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, name != "" && name != "-"
}

func sortedNames(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		if name, ok := nameOf(f); ok {
			names = append(names, name)
		}
	}
	return names
}

// otherWords are what people say who have not read the manual.
var otherWords = map[string]string{"rate": "baud", "speed": "baud", "bitrate": "bits_per_second", "port": "device", "type": "modem", "callsign": "call_sign", "phone": "number"}

// nearest is the known name that was probably meant; "": none is near.
func nearest(name string, known []string) string {
	if word := otherWords[strings.ToLower(name)]; slices.Contains(known, word) {
		return word
	}
	plain := func(s string) string {
		return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
	}
	best, far := "", 1+len(name)/3
	for _, k := range known {
		if d := distance(plain(name), plain(k)); d <= far {
			best, far = k, d-1
		}
	}
	return best
}

// distance counts the letters to change, add or take away (Levenshtein).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 1 << 10
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
