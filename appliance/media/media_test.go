// SPDX-License-Identifier: EUPL-1.2

package media

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

const (
	server = "box.example"
	alice  = event.UserID("@alice:box.example")
)

func openDB(t *testing.T, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(dir, "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func open(t *testing.T, opt Options) (*Media, string) {
	t.Helper()
	dir := t.TempDir()
	m, err := Open(t.Context(), openDB(t, dir), server, filepath.Join(dir, "media"), opt)
	if err != nil {
		t.Fatal(err)
	}
	return m, filepath.Join(dir, "media")
}

func upload(t *testing.T, m *Media, info Info, data string) string {
	t.Helper()
	id, err := m.Upload(t.Context(), alice, info, strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func read(t *testing.T, m *Media, srv, id string) (string, Info) {
	t.Helper()
	f, err := m.Get(t.Context(), srv, id)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), f.Info
}

func code(err error) string {
	var e *room.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func count(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUploadAndGet(t *testing.T) {
	m, dir := open(t, Options{})
	id := upload(t, m, Info{Type: "text/plain", Name: "a\r\nX-Evil: 1.txt"}, "hello")
	got, info := read(t, m, server, id)
	if got != "hello" || info.Type != "text/plain" || info.Name != "aX-Evil: 1.txt" || info.Size != 5 {
		t.Errorf("got %q, %+v", got, info)
	}
	if again := upload(t, m, Info{}, "hello"); again == id {
		t.Error("two uploads share one id")
	}
	if n := count(t, dir); n != 1 {
		t.Errorf("%d files for equal contents, want 1", n)
	}
	if _, err := m.Get(t.Context(), server, "nothing"); code(err) != "M_NOT_FOUND" {
		t.Errorf("unknown id: %v", err)
	}
	if _, err := m.Get(t.Context(), "other.example", id); !errors.Is(err, ErrAbsent) {
		t.Errorf("other server's id: %v", err)
	}
}

func TestUploadLimits(t *testing.T) {
	m, dir := open(t, Options{MaxUpload: 10, Quota: 25})
	if _, err := m.Upload(t.Context(), alice, Info{}, strings.NewReader("12345678901")); code(err) != "M_TOO_LARGE" {
		t.Errorf("11 bytes: %v", err)
	}
	upload(t, m, Info{}, "1234567890")
	upload(t, m, Info{}, "abcdefghij")
	if _, err := m.Upload(t.Context(), alice, Info{}, strings.NewReader("ABCDEFGHIJ")); code(err) != "M_RESOURCE_LIMIT_EXCEEDED" {
		t.Errorf("over quota: %v", err)
	}
	upload(t, m, Info{}, "1234567890") // kept already, so it needs no room
	upload(t, m, Info{}, "12345")
	if _, err := m.Upload(t.Context(), alice, Info{}, brokenReader{}); code(err) != "M_UNKNOWN" {
		t.Errorf("broken upload: %v", err)
	}
	if n := count(t, filepath.Join(dir, "temp")); n != 0 {
		t.Errorf("%d temporary files are left", n)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("gone") }

func TestCopiesGoFirst(t *testing.T) {
	m, dir := open(t, Options{Quota: 25})
	mine := upload(t, m, Info{}, "1234567890")
	if err := m.Cache(t.Context(), "far.example", "one", Info{Type: "text/plain"}, strings.NewReader("abcdefghij")); err != nil {
		t.Fatal(err)
	}
	upload(t, m, Info{}, "ABCDEFGHIJ")
	if _, err := m.Get(t.Context(), "far.example", "one"); !errors.Is(err, ErrAbsent) {
		t.Errorf("the copy is still there: %v", err)
	}
	if got, _ := read(t, m, server, mine); got != "1234567890" {
		t.Errorf("the upload has become %q", got)
	}
	if n := count(t, dir); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
}

func TestAnnouncedUpload(t *testing.T) {
	m, _ := open(t, Options{})
	id, err := m.Create(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Get(t.Context(), server, id); !errors.Is(err, ErrPending) {
		t.Errorf("before the upload: %v", err)
	}
	if err := m.Fill(t.Context(), "@bob:box.example", id, Info{}, strings.NewReader("x")); code(err) != "M_FORBIDDEN" {
		t.Errorf("another user: %v", err)
	}
	if err := m.Fill(t.Context(), alice, id, Info{Type: "image/png"}, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := m.Fill(t.Context(), alice, id, Info{}, strings.NewReader("y")); code(err) != "M_CANNOT_OVERWRITE_MEDIA" {
		t.Errorf("twice: %v", err)
	}
	if got, info := read(t, m, server, id); got != "x" || info.Type != "image/png" {
		t.Errorf("got %q, %+v", got, info)
	}
}

func TestSweepAtStart(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	md := filepath.Join(dir, "media")
	m, err := Open(t.Context(), db, server, md, Options{})
	if err != nil {
		t.Fatal(err)
	}
	id := upload(t, m, Info{}, "kept")
	// What a power cut leaves between placing a file and committing its row, and in the middle of an upload.
	sum := sha256.Sum256([]byte("lost"))
	orphan := m.path(sum[:])
	for _, name := range []string{orphan, filepath.Join(md, "temp", "upload-1")} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte("lost"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if m, err = Open(t.Context(), db, server, md, Options{}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, md); n != 1 {
		t.Errorf("%d files after the sweep, want 1", n)
	}
	if got, _ := read(t, m, server, id); got != "kept" {
		t.Errorf("got %q", got)
	}
}

func picture(w, h int, c color.Color) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, c)
		}
	}
	return img
}

func pngOf(t *testing.T, img image.Image) string {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestThumbnail(t *testing.T) {
	m, dir := open(t, Options{})
	id := upload(t, m, Info{Type: "image/png"}, pngOf(t, picture(2000, 1000, color.RGBA{200, 30, 30, 255})))
	small := upload(t, m, Info{Type: "image/png"}, pngOf(t, picture(20, 10, color.White)))
	clear := upload(t, m, Info{Type: "image/png"}, pngOf(t, picture(500, 500, color.RGBA{})))
	for _, tc := range []struct {
		id           string
		w, h         int
		crop         bool
		typ          string
		wantW, wantH int
	}{
		{id, 300, 200, false, "image/jpeg", 320, 160},
		{id, 10, 10, true, "image/jpeg", 32, 32},
		{id, 9999, 9999, false, "image/jpeg", 800, 400},
		{id, 9999, 9999, true, "image/jpeg", 256, 256},
		{small, 320, 240, false, "image/png", 20, 10},
		{clear, 96, 96, true, "image/png", 96, 96},
	} {
		for range 2 { // made, then found
			f, err := m.Thumbnail(t.Context(), server, tc.id, tc.w, tc.h, tc.crop)
			if err != nil {
				t.Errorf("%dx%d: %v", tc.w, tc.h, err)
				continue
			}
			cfg, _, err := image.DecodeConfig(f)
			if err != nil || cfg.Width != tc.wantW || cfg.Height != tc.wantH || f.Type != tc.typ {
				t.Errorf("%dx%d crop %v: got %dx%d %s, %v; want %dx%d %s", tc.w, tc.h, tc.crop, cfg.Width, cfg.Height, f.Type, err, tc.wantW, tc.wantH, tc.typ)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	// A power cut may tear a thumbnail; it is made again.
	torn, err := filepath.Glob(filepath.Join(dir, "thumb", "*"))
	if err != nil || len(torn) == 0 {
		t.Fatal("no thumbnails on disk", err)
	}
	for _, name := range torn {
		if err := os.Truncate(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	f, err := m.Thumbnail(t.Context(), server, id, 10, 10, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, _, err := image.Decode(f); err != nil {
		t.Errorf("torn thumbnail: %v", err)
	}
}

func TestThumbnailRefuses(t *testing.T) {
	m, _ := open(t, Options{})
	bomb := pngOf(t, picture(1, 1, color.White))
	// 60000 x 60000 in the header; the sum over the header is not looked at before the size is.
	head := []byte(bomb)
	copy(head[16:], []byte{0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60})
	for name, data := range map[string]string{"text": "hello, this is no picture", "empty": "", "bomb": string(head), "cut": bomb[:20]} {
		id := upload(t, m, Info{Type: "image/png"}, data)
		if _, err := m.Thumbnail(t.Context(), server, id, 32, 32, true); code(err) != "M_UNKNOWN" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// jpegWith makes a JPEG whose left half is red, with an Exif orientation.
func jpegWith(t testing.TB, turn byte) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 400, 200))
	for y := range 200 {
		for x := range 400 {
			if x < 200 {
				img.Set(x, y, color.RGBA{255, 0, 0, 255})
			} else {
				img.Set(x, y, color.RGBA{0, 0, 255, 255})
			}
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, nil); err != nil {
		t.Fatal(err)
	}
	tiff := []byte("II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	tiff[18] = turn
	exif := append([]byte("Exif\x00\x00"), tiff...)
	seg := append([]byte{0xff, 0xe1, 0, byte(len(exif) + 2)}, exif...)
	raw := b.Bytes()
	return append(append(bytes.Clone(raw[:2]), seg...), raw[2:]...)
}

func TestThumbnailTurns(t *testing.T) {
	// Where the red half lies after the picture has been turned upright.
	for turn, want := range map[byte]string{1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"} {
		out, err := shrink(bytes.NewReader(jpegWith(t, turn)), size{96, 96, false}, maxPixels)
		if err != nil {
			t.Fatal(err)
		}
		img, _, err := image.Decode(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		b := img.Bounds()
		red := func(x, y int) bool { r, _, bl, _ := img.At(x, y).RGBA(); return r > bl }
		at := map[string]bool{
			"left": red(2, b.Dy()/2), "right": red(b.Dx()-3, b.Dy()/2), "top": red(b.Dx()/2, 2), "bottom": red(b.Dx()/2, b.Dy()-3),
		}
		if wide := b.Dx() > b.Dy(); wide != (turn < 5) || !at[want] {
			t.Errorf("orientation %d: %v, red %v; want red %s", turn, b, at, want)
		}
	}
}

func FuzzExif(f *testing.F) {
	f.Add(jpegWith(f, 6))
	f.Add([]byte("\xff\xd8\xff\xe1\x00\x10Exif\x00\x00MM\x00*\x00\x00\x00\x08"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got := exifTurn(data); got < 1 || got > 8 {
			t.Errorf("exifTurn = %d", got)
		}
	})
}

func FuzzShrink(f *testing.F) {
	f.Add(jpegWith(f, 3))
	f.Add([]byte("GIF89a\x01\x00\x01\x00\x00\x00\x00;"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, _, err := decodeConfig(bytes.NewReader(data))
		if err == nil && cfg.Width*cfg.Height > 1<<20 {
			return // the cap is tested elsewhere; large pictures only make the fuzzer slow
		}
		if out, err := shrink(bytes.NewReader(data), size{32, 32, true}, maxPixels); err == nil && len(out) == 0 {
			t.Error("an empty thumbnail without an error")
		}
	})
}

func TestCleanBoundsNames(t *testing.T) {
	long := strings.Repeat("ü", 200)
	if got := clean(long); len(got) > 255 || !strings.HasPrefix(long, got) {
		t.Errorf("clean gives %d bytes", len(got))
	}
	if got := clean("a\x00b\x7fc\xffd"); got != "abcd" {
		t.Errorf("clean = %q", got)
	}
}
