// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func letter(change func(*Letter)) Letter {
	l := Letter{To: "far.test", Series: "s", N: 1, Epoch: "e", Sends: []Signed{{sendURI + "t1", "X-Matrix a"}, {sendURI + "t2", "X-Matrix b"}},
		Asks: []Ask{{Signed{eventURI + "$b", "X-Matrix c"}, "!r", "$b"}}, Events: []string{"$a", "$b"}, Body: []byte(`{"pdus":[{"n":1},{"n":"<&>"}], "edus" : []}`)}
	if change != nil {
		change(&l)
	}
	return l
}

func TestLetter(t *testing.T) {
	l := letter(nil)
	raw, err := l.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadLetter(raw); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("read %+v, %v, want %+v", got, err, l)
	}
	once := letter(func(l *Letter) {
		l.Once, l.Sends, l.Asks, l.Events, l.Body = true, l.Sends[:1], nil, nil, []byte(`{"pdus":[],"edus":[{}]}`)
	})
	raw, err = once.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadLetter(raw); err != nil || !got.Once {
		t.Errorf("EDUs alone: %+v, %v", got, err)
	}
	for what, change := range map[string]func(*Letter){
		"no server":              func(l *Letter) { l.To = "" },
		"no place":               func(l *Letter) { l.N = 0 },
		"no memory":              func(l *Letter) { l.Epoch = "" },
		"a long series":          func(l *Letter) { l.Series = strings.Repeat("s", 256) },
		"no body":                func(l *Letter) { l.Body = nil },
		"body that is no object": func(l *Letter) { l.Body = []byte(`[]`) },
		"51 PDUs": func(l *Letter) {
			l.Events = make([]string, 51)
			for i := range l.Events {
				l.Events[i] = "$b"
			}
			l.Body = []byte(`{"pdus":[` + strings.Repeat("{},", 50) + `{}]}`)
		},
		"an id too few":          func(l *Letter) { l.Events = l.Events[1:] },
		"an id of none":          func(l *Letter) { l.Events = []string{"", "$b"} },
		"no way":                 func(l *Letter) { l.Sends = nil },
		"no question":            func(l *Letter) { l.Asks = nil },
		"question of another":    func(l *Letter) { l.Asks[0].Event = "$c" },
		"question of no room":    func(l *Letter) { l.Asks[0].Room = "" },
		"EDUs beside PDUs":       func(l *Letter) { l.Body = []byte(`{"pdus":[{},{}],"edus":[{}]}`) },
		"once and more":          func(l *Letter) { l.Once = true },
		"another path":           func(l *Letter) { l.Sends[1].URI = "/_matrix/federation/v1/state/x" },
		"path above":             func(l *Letter) { l.Sends[1].URI = sendURI + "a/../b" },
		"query":                  func(l *Letter) { l.Asks[0].URI = eventURI + "$b?x" },
		"no signature":           func(l *Letter) { l.Sends[0].Auth = "" },
		"signature of two lines": func(l *Letter) { l.Sends[0].Auth = "X-Matrix\r\nHost: x" },
	} {
		raw, err := letter(change).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadLetter(raw); err == nil {
			t.Errorf("%s: read as %+v", what, got)
		}
	}
	for _, raw := range []string{"", "{}", "\n{}", "null\n{}", strings.Repeat(" ", maxLetterHead+1) + "\n{}"} {
		if _, err := ReadLetter([]byte(raw)); err == nil {
			t.Errorf("%.20q was read", raw)
		}
	}
}

func FuzzReadLetter(f *testing.F) {
	raw, _ := letter(nil).Append(nil)
	f.Add(raw)
	f.Add([]byte("{}\n{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ReadLetter(raw)
		if err != nil {
			return
		}
		again, err := l.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxLetter || bytes.IndexByte(again, '\n') > maxLetterHead {
			return // what was escaped has grown
		}
		if got, err := ReadLetter(again); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%+v came back as %+v, %v", l, got, err)
		}
	})
}

func TestLetters(t *testing.T) {
	good := `{"epoch":"e","to":[{"to":"far.test","waiting":2,"bytes":1,"done":[{"series":"s","n":4}],"amiss":[{"series":"s","n":4,"event":"$a","what":"barred"}],"status":401}]}`
	l, err := ReadLetters([]byte(good))
	if err != nil || l.To[0].Done[0].N != 4 || l.To[0].Amiss[0].What != Barred || l.To[0].Status != 401 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, bad := range []string{"", "[]", `{"to":[{}]}`, `{"to":[{"to":"x","waiting":-1}]}`, `{"epoch":"` + strings.Repeat("e", MaxLetters) + `"}`} {
		if l, err := ReadLetters([]byte(bad)); err == nil {
			t.Errorf("%.40q was read as %+v", bad, l)
		}
	}
}

func FuzzReadLetters(f *testing.F) {
	f.Add([]byte(`{"epoch":"e","to":[{"to":"far.test","waiting":2,"done":[{"series":"s","n":4}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if l, err := ReadLetters(raw); err == nil && len(l.To) > 0 && l.To[0].To == "" {
			t.Error("a server without a name")
		}
	})
}
