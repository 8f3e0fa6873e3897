// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestMediaRoundTrip(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	for name, want := range map[string]string{
		"":             "inline",
		"karte.txt":    "inline; filename=karte.txt",
		"zwei Worte":   `inline; filename="zwei Worte"`,
		`a"b;c`:        `inline; filename="a\"b;c"`,
		"Hallig Höhe":  "inline; filename*=utf-8''Hallig%20H%C3%B6he",
		"x\r\nY: evil": `inline; filename="xY: evil"`,
	} {
		mxc, err := alice.Upload(b.ctx, "text/plain", name, strings.NewReader("Inhalt "+name))
		b.ok(err)
		body, head, err := bob.Download(b.ctx, mxc)
		b.ok(err)
		if string(body) != "Inhalt "+name || head.Get("Content-Type") != "text/plain" || head.Get("Content-Disposition") != want {
			t.Errorf("%q: %q, %v", name, body, head)
		}
		if !strings.Contains(head.Get("Content-Security-Policy"), "sandbox") || head.Get("Cross-Origin-Resource-Policy") != "cross-origin" ||
			head.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q: a browser might run this: %v", name, head)
		}
	}
	mxc, err := alice.Upload(b.ctx, "text/html", "seite.html", strings.NewReader("<script>alert(1)</script>"))
	b.ok(err)
	if _, head, err := bob.Download(b.ctx, mxc); err != nil || !strings.HasPrefix(head.Get("Content-Disposition"), "attachment") {
		t.Errorf("html: %v, %v", head, err)
	}
	id := strings.TrimPrefix(mxc, "mxc://"+boxName+"/")
	status, head, _ := b.raw("GET", "/_matrix/media/v3/download/box.example/"+id+"/anders.txt", "", "")
	if status != 200 || head.Get("Content-Disposition") != "attachment; filename=anders.txt" {
		t.Errorf("the route without a token: %d %v", status, head)
	}
	status, _, _ = b.raw("GET", "/_matrix/client/v1/media/download/box.example/"+id, alice.Token, "", "Range", "bytes=1-6")
	if status != http.StatusPartialContent {
		t.Errorf("range: %d", status)
	}
	if status, _, body := b.raw("POST", "/_matrix/media/v3/upload", "", "x"); status != 401 {
		t.Errorf("upload without a token: %d %v", status, body)
	}
	_, err = alice.Upload(b.ctx, "text/plain", "", io.LimitReader(zeros{}, 1<<20+1))
	b.refused("a large file of unknown length", err, 413, "M_TOO_LARGE")
	_, err = alice.Upload(b.ctx, "text/plain", "", bytes.NewReader(make([]byte, 1<<20+1)))
	b.refused("a large file", err, 413, "M_TOO_LARGE")
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestThumbnailOverHTTP(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	var pic bytes.Buffer
	b.ok(png.Encode(&pic, image.NewGray(image.Rect(0, 0, 400, 300))))
	mxc, err := alice.Upload(b.ctx, "image/png", "p.png", &pic)
	b.ok(err)
	path := "/_matrix/client/v1/media/thumbnail/" + strings.TrimPrefix(mxc, "mxc://")
	for query, want := range map[string]int{
		"?width=32&height=32&method=crop": 200, "?width=32&height=32": 200, "?width=32": 400, "?width=-1&height=3": 400, "?width=3&height=3&method=odd": 400,
	} {
		if status, _, body := b.raw("GET", path+query, alice.Token, ""); status != want {
			t.Errorf("%s: %d %v", query, status, body)
		}
	}
	resp, err := alice.Raw(b.ctx, "GET", path+"?width=32&height=32&method=crop", "", nil)
	b.ok(err)
	defer resp.Body.Close()
	cfg, _, err := image.DecodeConfig(resp.Body)
	if err != nil || cfg.Width != 32 || cfg.Height != 32 {
		t.Errorf("thumbnail: %+v, %v", cfg, err)
	}
}

func TestUploadLater(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	var out struct {
		URI string `json:"content_uri"`
	}
	b.ok(alice.Do(b.ctx, "POST", "/_matrix/media/v1/create", nil, &out))
	at := strings.TrimPrefix(out.URI, "mxc://")
	status, _, body := b.raw("GET", "/_matrix/client/v1/media/download/"+at+"?timeout_ms=1", bob.Token, "")
	if status != 504 || body["errcode"] != "M_NOT_YET_UPLOADED" {
		t.Errorf("before the upload: %d %v", status, body)
	}
	if status, _, body := b.raw("PUT", "/_matrix/media/v3/upload/"+at, bob.Token, "x"); status != 403 {
		t.Errorf("another's id: %d %v", status, body)
	}
	if status, _, body := b.raw("PUT", "/_matrix/media/v3/upload/"+at, alice.Token, "Bild", "Content-Type", "text/plain"); status != 200 {
		t.Errorf("upload: %d %v", status, body)
	}
	if status, _, body := b.raw("PUT", "/_matrix/media/v3/upload/"+at, alice.Token, "x"); status != 409 || body["errcode"] != "M_CANNOT_OVERWRITE_MEDIA" {
		t.Errorf("twice: %d %v", status, body)
	}
	if got, _, err := bob.Download(b.ctx, out.URI); err != nil || string(got) != "Bild" {
		t.Errorf("download: %q, %v", got, err)
	}
}

func FuzzContentDisposition(f *testing.F) {
	f.Add("karte.txt")
	f.Add("a\"b\r\nc: d")
	f.Add("Höhe\x00")
	f.Fuzz(func(t *testing.T, name string) {
		got := contentDisposition("attachment", name)
		if strings.ContainsAny(strings.TrimPrefix(got, "attachment"), "\r\n\x00") || !strings.HasPrefix(got, "attachment") {
			t.Errorf("contentDisposition(%q) = %q", name, got)
		}
	})
}
