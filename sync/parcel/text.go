// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"fmt"
	"unicode/utf8"

	"hallig/sync/parcel/prose"
)

// maxModelText bounds what a text coded by the model may unfold to. The model takes about two microseconds for each
// letter; longer texts go by zstd.
const maxModelText = 4 << 10

// textModel is the shipped model; see prose.
type textModel struct {
	version [4]byte
	model   *prose.Model
}

func loadTextModel() (*textModel, error) {
	m, err := prose.Load()
	if err != nil {
		return nil, fmt.Errorf("set up codec: %w", err)
	}
	return &textModel{m.Version, m}, nil
}

// encode codes a text in fewer than limit bytes, if it can.
func (t *textModel) encode(text string, limit int) ([]byte, bool) {
	if len(text) > maxModelText/2 || !utf8.ValidString(text) {
		return nil, false
	}
	return t.model.Encode(text, limit-1)
}

func (t *textModel) decode(code []byte, limit int) (string, error) {
	return t.model.Decode(code, limit)
}

// maxLetters is what all texts of one message may unfold to by the model: half a second's work. No box sends as much in one
// message, but a few hostile bytes could ask for far more.
const maxLetters = 256 << 10

// prose reads a text coded by the model.
func (r *reader) prose(code []byte) string {
	if r.err != nil {
		return ""
	}
	text, err := r.s.codec.text.decode(code, min(maxModelText, maxLetters-r.s.letters))
	r.s.letters += max(len(text), len(code))
	if err != nil {
		r.s.letters += maxModelText // so much was looked at in vain, at most
		r.fail(err)
	}
	return text
}
