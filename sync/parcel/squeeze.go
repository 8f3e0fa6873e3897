// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	_ "embed"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// dictionary is what JSON between Matrix servers mostly looks like; zstd refers to it as if it had just been sent. It
// is part of the wire format: a change needs a new dictionaryID and the old one kept for reading.
//
//go:embed dictionary.txt
var dictionary []byte

const (
	dictionaryID = 1
	maxUnpacked  = 64 << 20 // a body, unpacked; what does not fit into memory is media and goes another way
)

// Codec holds what sessions share and nobody changes: compressors, dictionary, text model. Make one per process; it is
// safe for concurrent use.
type Codec struct {
	packer   *zstd.Encoder
	unpacker *zstd.Decoder
	text     *textModel
	shapes   *shapes
}

// NewCodec sets up a codec.
func NewCodec() (*Codec, error) {
	packer, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(256<<10), zstd.WithSingleSegment(true), zstd.WithEncoderDictRaw(dictionaryID, dictionary))
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	unpacker, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxUnpacked), zstd.WithDecoderDictRaw(dictionaryID, dictionary))
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	text, err := loadTextModel()
	if err != nil {
		return nil, err
	}
	return &Codec{packer: packer, unpacker: unpacker, text: text, shapes: loadShapes()}, nil
}

// ModelVersion is what Hello.Model says.
func (c *Codec) ModelVersion() [4]byte { return c.text.version }

// How a body is packed: the first byte of Pack's and PackEvents' result.
const (
	methodPlain  = 0
	methodZstd   = 1 // with the dictionary, without the four magic bytes
	methodEvents = 2 // list.go
)

// Pack compresses a body if that makes it smaller. The first byte of the result says how.
func (c *Codec) Pack(body []byte) []byte {
	packed := c.packer.EncodeAll(body, []byte{methodZstd})
	if len(packed) < 5 || len(packed)-4 >= 1+len(body) {
		return append([]byte{methodPlain}, body...)
	}
	return append(packed[:1], packed[5:]...) // the magic number says nothing here
}

// Unpack undoes Pack and PackEvents, if the result is at most limit bytes long.
func (c *Codec) Unpack(packed []byte, limit int) ([]byte, error) {
	if len(packed) > 0 && packed[0] == methodEvents {
		return c.unpackList(packed[1:], limit)
	}
	return c.unpackPlain(packed, limit)
}

// unpackPlain undoes Pack.
func (c *Codec) unpackPlain(packed []byte, limit int) ([]byte, error) {
	if len(packed) == 0 {
		return nil, errors.New("unpack body: empty")
	}
	switch method, data := packed[0], packed[1:]; method {
	case methodPlain:
		if len(data) > limit {
			return nil, fmt.Errorf("unpack body: %d bytes are more than %d", len(data), limit)
		}
		return data, nil
	case methodZstd:
		frame := append([]byte{0x28, 0xb5, 0x2f, 0xfd}, data...)
		var h zstd.Header
		if err := h.Decode(frame); err != nil {
			return nil, fmt.Errorf("unpack body: %w", err)
		}
		if !h.HasFCS || h.FrameContentSize > uint64(min(limit, maxUnpacked)) {
			return nil, fmt.Errorf("unpack body: more than %d bytes", limit)
		}
		body, err := c.unpacker.DecodeAll(frame, make([]byte, 0, min(h.FrameContentSize, 1<<20)))
		if err != nil {
			return nil, fmt.Errorf("unpack body: %w", err)
		}
		if len(body) > limit {
			return nil, fmt.Errorf("unpack body: more than %d bytes", limit)
		}
		return body, nil
	default:
		return nil, fmt.Errorf("unpack body: unknown method %d", method)
	}
}
