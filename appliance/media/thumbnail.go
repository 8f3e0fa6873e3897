// SPDX-License-Identifier: EUPL-1.2

package media

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// maxPixels bounds what is decoded: about 100 MB of memory for one picture, and one is decoded at a time.
const maxPixels = 25_000_000

// size is a thumbnail that we make. https://spec.matrix.org/v1.13/client-server-api/#thumbnails
type size struct {
	w, h int
	crop bool
}

// sizes are what is made; a wish is rounded up to the next one, so that nobody can fill the disk with all sizes there are.
var sizes = [...]size{{32, 32, true}, {96, 96, true}, {256, 256, true}, {320, 240, false}, {640, 480, false}, {800, 600, false}}

func sizeFor(w, h int, crop bool) size {
	var best size
	for _, s := range sizes {
		if s.crop != crop {
			continue
		}
		best = s
		if s.w >= w && s.h >= h {
			break
		}
	}
	return best
}

// of is the id under which a thumbnail is kept that another server made of a file which is not here.
func (s size) of(id string) string { return fmt.Sprintf("%s/%dx%d/%t", id, s.w, s.h, s.crop) }

// ThumbnailSize is the size of which a thumbnail is made for a wish.
func ThumbnailSize(w, h int, crop bool) (width, height int) {
	s := sizeFor(w, h, crop)
	return s.w, s.h
}

// CacheThumbnail keeps the thumbnail that another server made of its file, for Thumbnail of the same size as long as the file itself is not here.
func (m *Media) CacheThumbnail(ctx context.Context, server, id string, w, h int, crop bool, info Info, body io.Reader) error {
	return m.Cache(ctx, server, ThumbnailID(id, w, h, crop), info, body)
}

// ThumbnailID is the id under which Cache keeps the thumbnail that another server has made for a wish.
func ThumbnailID(id string, w, h int, crop bool) string { return sizeFor(w, h, crop).of(id) }

// Thumbnail opens a smaller picture of a file; the file itself when it is small enough already. Errors are those of Get,
// and M_UNKNOWN for files that are no picture or too large a one.
func (m *Media) Thumbnail(ctx context.Context, server, id string, w, h int, crop bool) (*File, error) {
	s := sizeFor(w, h, crop)
	row, err := m.row(ctx, server, id)
	if errors.Is(err, ErrAbsent) { // perhaps its server has made the thumbnail
		return m.Get(ctx, server, s.of(id))
	}
	if err != nil {
		return nil, err
	}
	m.touch(row)
	cached := m.thumbPath(row.Hash, s)
	if f, err := openThumb(cached); err == nil {
		return f, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	select {
	case m.worker <- struct{}{}:
		defer func() { <-m.worker }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f, err := openThumb(cached); err == nil { // somebody else made it while we waited
		return f, nil
	}
	src, err := os.Open(m.path(row.Hash))
	if err != nil {
		return nil, fmt.Errorf("open media file: %w", err)
	}
	defer src.Close()
	out, err := shrink(src, s, m.opt.Pixels)
	if errors.Is(err, errSmall) {
		return m.Get(ctx, server, id)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "M_UNKNOWN", "no thumbnail can be made of this file: "+err.Error())
	}
	if err := m.storeThumb(cached, out); err != nil {
		return nil, err
	}
	return openThumb(cached)
}

// thumbPath is where the thumbnail of a file lies.
func (m *Media) thumbPath(sum []byte, s size) string {
	method := "scale"
	if s.crop {
		method = "crop"
	}
	return filepath.Join(m.thumbDir(), fmt.Sprintf("%s-%dx%d-%s", hex.EncodeToString(sum), s.w, s.h, method))
}

// storeThumb writes a thumbnail so that it appears whole or not at all. It is not flushed: an empty one is made again.
func (m *Media) storeThumb(path string, data []byte) error {
	t, err := os.CreateTemp(m.tempDir(), "thumb-")
	if err != nil {
		return fmt.Errorf("make thumbnail file: %w", err)
	}
	defer os.Remove(t.Name())
	_, err = t.Write(data)
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write thumbnail: %w", err)
	}
	return nil
}

func openThumb(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var head [8]byte
	n, err := f.ReadAt(head[:], 0)
	st, serr := f.Stat()
	if n < len(head) || serr != nil { // torn by a power cut
		_ = f.Close()
		_ = os.Remove(path)
		return nil, fmt.Errorf("read thumbnail: %w", fs.ErrNotExist)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		_ = f.Close()
		return nil, fmt.Errorf("read thumbnail: %w", err)
	}
	typ := "image/jpeg"
	if bytes.Equal(head[:4], []byte("\x89PNG")) {
		typ = "image/png"
	}
	return &File{Info{Type: typ, Name: "thumbnail", Size: st.Size()}, f}, nil
}

var (
	errSmall = errors.New("smaller than the thumbnail")
	errShape = errors.New("not a picture of a known format")
)

// shrink reads a picture and gives its thumbnail: JPEG, or PNG where the picture is see-through.
func shrink(src io.ReadSeeker, s size, pixels int) ([]byte, error) {
	cfg, format, err := decodeConfig(src)
	if err != nil {
		return nil, errShape
	}
	if cfg.Width <= 0 || cfg.Height <= 0 {
		return nil, errShape
	}
	if int64(cfg.Width)*int64(cfg.Height) > int64(pixels) {
		return nil, fmt.Errorf("more than %d pixels", pixels)
	}
	turn := 1
	if format == "jpeg" {
		if turn, err = orientation(src); err != nil {
			return nil, errShape
		}
	}
	if cfg.Width <= s.w && cfg.Height <= s.h && turn == 1 {
		return nil, errSmall
	}
	img, err := decode(src, format)
	if err != nil {
		return nil, errShape
	}
	if turn >= 5 {
		s.w, s.h = s.h, s.w // the sides change places when it is turned
	}
	small := upright(scale(img, s), turn)
	var b bytes.Buffer
	if small.Opaque() {
		err = jpeg.Encode(&b, small, &jpeg.Options{Quality: 80})
	} else {
		err = png.Encode(&b, small)
	}
	return b.Bytes(), err
}

func decodeConfig(src io.ReadSeeker) (cfg image.Config, format string, err error) {
	var head [12]byte
	if _, err := io.ReadFull(src, head[:]); err != nil {
		return cfg, "", err
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return cfg, "", err
	}
	switch {
	case bytes.HasPrefix(head[:], []byte("\xff\xd8")):
		cfg, err = jpeg.DecodeConfig(src)
		return cfg, "jpeg", err
	case bytes.HasPrefix(head[:], []byte("\x89PNG")):
		cfg, err = png.DecodeConfig(src)
		return cfg, "png", err
	case bytes.HasPrefix(head[:], []byte("GIF8")):
		cfg, err = gif.DecodeConfig(src)
		return cfg, "gif", err
	case bytes.HasPrefix(head[:], []byte("RIFF")) && bytes.Equal(head[8:], []byte("WEBP")):
		cfg, err = webp.DecodeConfig(src)
		return cfg, "webp", err
	}
	return cfg, "", errShape
}

func decode(src io.ReadSeeker, format string) (image.Image, error) {
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	switch format {
	case "jpeg":
		return jpeg.Decode(src)
	case "png":
		return png.Decode(src)
	case "gif":
		return gif.Decode(src) // the first frame
	default:
		return webp.Decode(src)
	}
}

// scale fits a picture into s, or fills s and cuts off what hangs over. It never enlarges.
func scale(img image.Image, s size) *image.RGBA {
	b := img.Bounds()
	from := b
	w, h := s.w, s.h
	if s.crop {
		// The largest part of the picture with the wanted proportions, from its middle.
		cw, ch := b.Dx(), b.Dy()
		if cw*h > ch*w {
			cw = max(ch*w/h, 1)
		} else {
			ch = max(cw*h/w, 1)
		}
		from = image.Rect(0, 0, cw, ch).Add(b.Min).Add(image.Pt((b.Dx()-cw)/2, (b.Dy()-ch)/2))
	} else if b.Dx()*h > b.Dy()*w {
		h = max(b.Dy()*w/b.Dx(), 1)
	} else {
		w = max(b.Dx()*h/b.Dy(), 1)
	}
	w, h = min(w, from.Dx()), min(h, from.Dy())
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	// ApproxBiLinear looks at four pixels of the picture for each one it makes. Going through twice the size makes that
	// sixteen, for a fraction of what a filter over the whole picture costs in time and memory.
	if from.Dx() > 4*w {
		double := image.NewRGBA(image.Rect(0, 0, 2*w, 2*h))
		draw.ApproxBiLinear.Scale(double, double.Bounds(), img, from, draw.Src, nil)
		img, from = double, double.Bounds()
	}
	draw.ApproxBiLinear.Scale(dst, dst.Bounds(), img, from, draw.Src, nil)
	return dst
}

// upright turns a picture as its Exif orientation says (1 to 8).
func upright(img *image.RGBA, turn int) *image.RGBA {
	if turn < 2 || turn > 8 {
		return img
	}
	w, h := img.Bounds().Dx(), img.Bounds().Dy()
	ow, oh := w, h
	if turn >= 5 {
		ow, oh = h, w
	}
	out := image.NewRGBA(image.Rect(0, 0, ow, oh))
	for y := range oh {
		for x := range ow {
			sx, sy := x, y
			switch turn {
			case 2:
				sx = w - 1 - x
			case 3:
				sx, sy = w-1-x, h-1-y
			case 4:
				sy = h - 1 - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, h-1-x
			case 7:
				sx, sy = w-1-y, h-1-x
			case 8:
				sx, sy = w-1-y, x
			}
			out.SetRGBA(x, y, img.RGBAAt(sx, sy))
		}
	}
	return out
}
