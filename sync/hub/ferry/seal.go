// SPDX-License-Identifier: EUPL-1.2

package ferry

import (
	"crypto/rand"
	"encoding/binary"
	"errors"

	"hallig/sync/peer"
)

// numbered is how many bytes stand before the sealed text.
const numbered = 8

// What a text is, bound to its seal: no answer can be taken for a play, nor for the answer to another one.
const (
	sealedPlay   = "hallig ferry 1 play"
	sealedAnswer = "hallig ferry 1 answer"
)

func draw() (n uint64) {
	var b [numbered]byte
	for n == 0 {
		_, _ = rand.Read(b[:]) // never fails
		n = binary.BigEndian.Uint64(b[:])
	}
	return n
}

// ClosePlay seals a packed Play for the box and gives the number under which it is answered.
func ClosePlay(s *peer.Seal, text []byte) (sealed []byte, number uint64, err error) {
	return closeText(s, []byte(sealedPlay), text)
}

// OpenPlay reads what the hub has sealed for this box.
func OpenPlay(s *peer.Seal, sealed []byte) (text []byte, number uint64, err error) {
	return openText(s, []byte(sealedPlay), sealed)
}

// CloseAnswer seals a packed Answer for the hub. of is the number of the Play that came.
func CloseAnswer(s *peer.Seal, of uint64, text []byte) (sealed []byte, err error) {
	sealed, _, err = closeText(s, binary.BigEndian.AppendUint64([]byte(sealedAnswer), of), text)
	return sealed, err
}

// OpenAnswer reads what the box has answered to the Play of that number.
func OpenAnswer(s *peer.Seal, of uint64, sealed []byte) (text []byte, err error) {
	text, _, err = openText(s, binary.BigEndian.AppendUint64([]byte(sealedAnswer), of), sealed)
	return text, err
}

func closeText(s *peer.Seal, with, text []byte) ([]byte, uint64, error) {
	number := draw()
	sealed, err := s.Close(number, 0, with, text)
	if err != nil {
		return nil, 0, err
	}
	return append(binary.BigEndian.AppendUint64(nil, number), sealed...), number, nil
}

func openText(s *peer.Seal, with, sealed []byte) ([]byte, uint64, error) {
	if len(sealed) < numbered {
		return nil, 0, errors.New("open sealed text: too short")
	}
	number := binary.BigEndian.Uint64(sealed)
	text, err := s.Open(number, 0, with, sealed[numbered:])
	return text, number, err
}
