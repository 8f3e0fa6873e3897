// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"bytes"
	"testing"
)

// With an open key everybody reads the body and only who has the key makes the tag; a key that encrypts takes no such frame, nor the other way round.
func TestOpenKey(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, KeySize)
	open, err := NewOpenKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	text, c := []byte("Wasser steigt"), Context{1, 2}
	raw := Seal(nil, &Frame{Type: Whole, Seq: 9, Body: text}, c, open)
	if !bytes.Contains(raw, text) {
		t.Errorf("the text is not in %q", raw)
	}
	try := func(raw []byte, k *Key) error {
		raw = append([]byte(nil), raw...)
		f, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err = Open(raw, &f, c, k); err == nil && !bytes.Equal(f.Body, text) {
			t.Errorf("body %q", f.Body)
		}
		return err
	}
	if err := try(raw, open); err != nil {
		t.Errorf("the frame is refused under its own key: %v", err)
	}
	if try(raw, closed) == nil || try(Seal(nil, &Frame{Type: Whole, Seq: 9, Body: text}, c, closed), open) == nil {
		t.Error("an end that encrypts and one that must not understand each other")
	}
	raw[4] ^= 1
	if try(raw, open) == nil {
		t.Error("a changed frame was taken")
	}
}

func TestCallFrame(t *testing.T) {
	raw := CallFrame("DL1ABC-7")
	if !bytes.Contains(raw, []byte("DE DL1ABC-7")) {
		t.Errorf("the call sign cannot be read in %q", raw)
	}
	f, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if call, ok := CallOf(&f); !ok || call != "DL1ABC-7" {
		t.Errorf("call sign %q, %v", call, ok)
	}
	f.Body = []byte("\x03DE <script>")
	if call, ok := CallOf(&f); ok {
		t.Errorf("%q is taken for a call sign", call)
	}
}
