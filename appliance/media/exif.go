// SPDX-License-Identifier: EUPL-1.2

package media

import (
	"bytes"
	"encoding/binary"
	"io"
)

// maxExif bounds how far into a JPEG the orientation is looked for.
const maxExif = 256 << 10

// orientation reads the Exif orientation of a JPEG: 1 to 8, 1 when it says nothing. Phones store pictures as the sensor
// saw them and leave the turning to the reader; a thumbnail has no Exif, so it must be turned.
func orientation(src io.ReadSeeker) (int, error) {
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return 1, err
	}
	head, err := io.ReadAll(io.LimitReader(src, maxExif))
	if err != nil {
		return 1, err
	}
	return exifTurn(head), nil
}

// exifTurn walks the JPEG's segments up to the picture data.
func exifTurn(b []byte) int {
	if !bytes.HasPrefix(b, []byte{0xff, 0xd8}) {
		return 1
	}
	b = b[2:]
	for len(b) >= 4 && b[0] == 0xff {
		marker, n := b[1], int(binary.BigEndian.Uint16(b[2:]))
		if marker == 0xda || n < 2 || len(b) < 2+n { // start of scan, or broken
			return 1
		}
		if data := b[4 : 2+n]; marker == 0xe1 && bytes.HasPrefix(data, []byte("Exif\x00\x00")) {
			return tiffTurn(data[6:])
		}
		b = b[2+n:]
	}
	return 1
}

// tiffTurn looks for tag 0x0112 in the first directory of a TIFF header.
func tiffTurn(b []byte) int {
	if len(b) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	if bytes.HasPrefix(b, []byte("MM")) {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(b[4:]))
	if at < 8 || at+2 > int64(len(b)) {
		return 1
	}
	n := int(order.Uint16(b[at:]))
	for dir := b[at+2:]; n > 0 && len(dir) >= 12; n, dir = n-1, dir[12:] {
		if order.Uint16(dir) != 0x0112 {
			continue
		}
		if v := int(order.Uint16(dir[8:])); v >= 1 && v <= 8 {
			return v
		}
		return 1
	}
	return 1
}
