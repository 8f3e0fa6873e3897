// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"
)

type command struct {
	kind byte
	body string
}

func commands(d *CommandDecoder, b []byte) (out []command) {
	d.Feed(b, func(kind byte, body []byte) { out = append(out, command{kind, string(body)}) })
	return out
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []command
	}{
		{"c00073c0", []command{{0, "\x73"}}},
		{"c001dbdcdbddc0", []command{{1, "\xc0\xdb"}}},
		{"c0c0c0", nil},
		{"c008c0", []command{{8, ""}}},
		{"c00041c04142c0", []command{{0, "A"}, {'A', "B"}}}, // one delimiter may end a command and begin the next
		{"c0dbdc41c0", []command{{0xC0, "A"}}},              // the first byte may be escaped as well
		{"c000db41c00042c0", []command{{0, "B"}}},           // an escape of nothing drops its command alone
		{"c00041dbc00042c0", []command{{0, "B"}}},           // an escape that the delimiter cuts
		{"626f6f74", nil},                                   // chatter without an end
	} {
		b, err := hex.DecodeString(c.in)
		if err != nil {
			t.Fatal(err)
		}
		var d CommandDecoder
		if got := commands(&d, b); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.in, got, c.want)
		}
		// In any pieces the same comes out.
		d = CommandDecoder{}
		var got []command
		for i := range b {
			got = append(got, commands(&d, b[i:i+1])...)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s byte by byte: %q, want %q", c.in, got, c.want)
		}
	}
	var d CommandDecoder
	long := append(bytes.Repeat([]byte{'x'}, 1<<20), fend)
	if got := commands(&d, long); got != nil || d.Dropped != 1 {
		t.Errorf("a megabyte without delimiter: %d commands, %d dropped", len(got), d.Dropped)
	}
	if cap(d.buf) > 4*MaxCommand {
		t.Errorf("%d bytes are kept of what is too long", cap(d.buf))
	}
	if got := commands(&d, AppendCommand(nil, 0, make([]byte, MaxCommand))); len(got) != 1 || len(got[0].body) != MaxCommand {
		t.Errorf("the longest command does not pass")
	}
}

func FuzzCommandDecoder(f *testing.F) {
	f.Add([]byte("\xc0\x00\xdb\xdc\xc0\xc0\xdb\xc0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, e CommandDecoder
		want := commands(&d, b)
		var got []command
		for i := range b {
			got = append(got, commands(&e, b[i:i+1])...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pieces %q, whole %q", got, want)
		}
		var again CommandDecoder
		for _, c := range want {
			if back := commands(&again, AppendCommand(nil, c.kind, []byte(c.body))); len(back) != 1 || back[0] != c {
				t.Errorf("%q came back as %q", c, back)
			}
		}
	})
}

func TestUI(t *testing.T) {
	u := UI{To: "HALLIG", From: "DL1ABC-7"}
	b, err := u.Append(nil, []byte("moin"))
	if err != nil {
		t.Fatal(err)
	}
	want := "9082989892 8ee0" + "8898628284 866f" + "035a" + hex.EncodeToString([]byte("moin"))
	if got := hex.EncodeToString(b); got != string(bytes.ReplaceAll([]byte(want), []byte(" "), nil)) {
		t.Errorf("bytes %s, want %s", got, want)
	}
	if got, raw, ok := ParseUI(b); !ok || got != u || string(raw) != "moin" {
		t.Errorf("back: %+v %q %v", got, raw, ok)
	}
	for i := range len(b) - 4 {
		if _, _, ok := ParseUI(b[:i]); ok {
			t.Errorf("cut to %d bytes it still is a frame", i)
		}
	}
	repeated := slices.Clone(b)
	repeated[13] &^= 1 // not the last address
	repeated = slices.Insert(repeated, 14, append([]byte{'D' << 1, 'B' << 1, '0' << 1, 'X' << 1, ' ' << 1, ' ' << 1}, 0xE1)...)
	if got, raw, ok := ParseUI(repeated); !ok || got != u || string(raw) != "moin" {
		t.Errorf("by a repeater: %+v %q %v", got, raw, ok)
	}
	for _, bad := range []string{"", "-1", "dl1abc", "DL1ABCD", "DL1ABC-16", "DL1ABC-", "DL1 BC", "DL1ABC-1-2", "DL1ABC-+1", "ÄÖÜ"} {
		if ValidCall(bad) {
			t.Errorf("%q passes as a call sign", bad)
		}
		if _, err := (UI{To: "HALLIG", From: bad}).Append(nil, nil); err == nil {
			t.Errorf("from %q: no error", bad)
		}
	}
	for _, good := range []string{"A", "DL1ABC", "DL1ABC-0", "DL1ABC-15"} {
		if !ValidCall(good) {
			t.Errorf("%q is refused", good)
		}
	}
}

func FuzzParseUI(f *testing.F) {
	b, _ := UI{To: "HALLIG", From: "DL1ABC-7"}.Append(nil, []byte("moin"))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		u, raw, ok := ParseUI(b)
		if !ok {
			return
		}
		again, err := u.Append(nil, raw)
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", u, err)
		}
		if v, r, ok := ParseUI(again); !ok || v != u || !bytes.Equal(r, raw) {
			t.Errorf("%+v came back as %+v", u, v)
		}
	})
}
