// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// This file fetches other servers' files.

// Media downloads a file.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (c *Client) Media(ctx context.Context, server, id string) (body io.ReadCloser, contentType, filename string, err error) {
	f, err := c.file(ctx, server, "download", id, url.Values{"timeout_ms": {"20000"}})
	if err != nil {
		return nil, "", "", toldAbout("media", err)
	}
	_, params, _ := mime.ParseMediaType(f.head.Get("Content-Disposition")) // no name is fine
	return f.body, f.head.Get("Content-Type"), params["filename"], nil
}

// Thumbnail has a server make a smaller picture of its file.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediathumbnailmediaid
func (c *Client) Thumbnail(ctx context.Context, server, id string, width, height int, crop bool) (body io.ReadCloser, contentType string, err error) {
	method := "scale"
	if crop {
		method = "crop"
	}
	f, err := c.file(ctx, server, "thumbnail", id, url.Values{"width": {strconv.Itoa(width)}, "height": {strconv.Itoa(height)}, "method": {method},
		"timeout_ms": {"20000"}, "animated": {"false"}})
	if err != nil {
		return nil, "", toldAbout("thumbnail", err)
	}
	return f.body, f.head.Get("Content-Type"), nil
}

// file is a file on its way.
type file struct {
	body io.ReadCloser
	head interface{ Get(string) string }
}

// file asks for a file: multipart in signed requests, or as older servers give it, to anybody.
func (c *Client) file(ctx context.Context, server, what, id string, q url.Values) (*file, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*c.c.Patience)
	f, err := c.signedFile(ctx, server, what, id, q)
	var no *Refusal
	if errors.As(err, &no) && no.Status == http.StatusNotFound && (no.Code == "M_UNRECOGNIZED" || no.Code == "") {
		// It does not know the endpoint. It must give its own file then and not ask us in turn.
		// https://spec.matrix.org/v1.19/server-server-api/#content-repository
		q.Set("allow_remote", "false")
		q.Set("allow_redirect", "true")
		f, err = c.openFile(ctx, server, what, id, q)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	closer := f.body
	f.body = &limited{r: io.LimitReader(closer, maxMedia+1), left: maxMedia, close: func() error { defer cancel(); return closer.Close() }}
	return f, nil
}

// signedFile reads the answer of the Server-Server API: metadata, then the file or a place to fetch it from.
func (c *Client) signedFile(ctx context.Context, server, what, id string, q url.Values) (*file, error) {
	resp, err := c.send(ctx, server, call{method: http.MethodGet, path: v1("media", what, id), query: q})
	if err != nil {
		return nil, err
	}
	part, err := filePart(server, resp)
	if err == nil && part.Header.Get("Location") == "" {
		return &file{body: &inside{part, resp.Body}, head: part.Header}, nil
	}
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	return c.follow(ctx, server, part.Header.Get("Location"))
}

func filePart(server string, resp *http.Response) (*multipart.Part, error) {
	if resp.StatusCode != http.StatusOK {
		raw, _ := readBounded(resp.Body, maxAnswer) // a broken error is still an error
		return nil, refusal(server, resp.StatusCode, raw)
	}
	part, err := FilePart(resp.Header.Get("Content-Type"), resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read media of %s: %w", server, err)
	}
	return part, nil
}

// inside is a part of a body that ends with it.
type inside struct {
	io.Reader
	io.Closer
}

// openFile asks as it was done before files were for signed requests only.
func (c *Client) openFile(ctx context.Context, server, what, id string, q url.Values) (*file, error) {
	resp, err := c.send(ctx, server, call{method: http.MethodGet, path: []string{"media", "v3", what, server, id}, query: q, bare: true})
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return &file{body: resp.Body, head: resp.Header}, nil
	case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		defer resp.Body.Close()
		return c.follow(ctx, server, resp.Header.Get("Location"))
	}
	defer resp.Body.Close()
	raw, _ := readBounded(resp.Body, maxAnswer) // a broken error is still an error
	return nil, refusal(server, resp.StatusCode, raw)
}

// follow fetches a file from where its server keeps it.
func (c *Client) follow(ctx context.Context, server, place string) (*file, error) {
	if c.c.Web == nil {
		return nil, fmt.Errorf("media of %s lies elsewhere, and no other address is followed", server)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, fmt.Errorf("media of %s lies elsewhere: %w", server, err)
	}
	resp, err := c.c.Web(req)
	if err != nil {
		return nil, fmt.Errorf("media of %s lies elsewhere: %w", server, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("media of %s lies elsewhere: status %d", server, resp.StatusCode)
	}
	return &file{body: resp.Body, head: resp.Header}, nil
}

// FilePart reads a server's answer up to the file: it skips the metadata. The part ends in an error, not in io.EOF, when the answer is torn.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func FilePart(contentType string, body io.Reader) (*multipart.Part, error) {
	typ, params, err := mime.ParseMediaType(contentType)
	if err != nil || !strings.HasPrefix(typ, "multipart/") {
		return nil, errors.New("answer is not multipart")
	}
	mr := multipart.NewReader(body, params["boundary"])
	if _, err := mr.NextRawPart(); err != nil {
		return nil, err
	}
	return mr.NextRawPart()
}

// limited is a body that ends in an error, not quietly, when it is longer than allowed.
type limited struct {
	r     io.Reader
	left  int64
	close func() error
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errors.New("media is longer than allowed")
	}
	return n, err
}

func (l *limited) Close() error { return l.close() }
