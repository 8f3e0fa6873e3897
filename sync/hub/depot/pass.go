// SPDX-License-Identifier: EUPL-1.2

package depot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"hallig/appliance/media"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// This file keeps what boxes answer to others, as it passes by.

const (
	downloadPath  = "/_matrix/federation/v1/media/download/"
	thumbnailPath = "/_matrix/federation/v1/media/thumbnail/"

	pieces = 32 // of 32 KiB that wait to be written down: who asks waits for no disk
)

// Asked says which file a request is for, in any form. false: it is for none.
func Asked(u *url.URL) (id string, ok bool) {
	for _, path := range []string{downloadPath, thumbnailPath} {
		if id, ok = strings.CutPrefix(u.Path, path); ok {
			return id, true
		}
	}
	return "", false
}

// Passes has what a box answers to a question kept as it is read from resp.Body, when it is a file and all of it is read. Who reads never waits for it.
func (d *Depot) Passes(r *http.Request, box string, resp *http.Response) {
	id, ok := Asked(r.URL)
	if !ok || r.Method != http.MethodGet || resp.StatusCode != http.StatusOK || !api.IsMedia(id) || d.full.Load() || d.c.Limits.Off || resp.ContentLength > d.c.Limits.File+64<<10 {
		return
	}
	select {
	case d.passes <- struct{}{}:
	default:
		return // too many pass at once
	}
	typ, as := resp.Header.Get("Content-Type"), id
	if size, thumb := thumbnail(r.URL); thumb {
		as = size
	}
	t := &tee{ReadCloser: resp.Body, out: make(chan []byte, pieces), stop: make(chan struct{})}
	resp.Body = t
	ctx := context.WithoutCancel(r.Context()) // the last of it is written down when the answer is over
	d.passing.Go(func() {
		defer func() { <-d.passes }()
		defer close(t.stop)
		if err := d.keepPassing(ctx, box, as, typ, &drain{from: t.out}); err != nil {
			d.log.Debug("a file that passed was not kept", "box", box, "err", err)
			return
		}
		d.count.passed.Add(1)
		poke(d.tidy) // to count it
	})
}

// thumbnail gives the id under which the answer to a question for a thumbnail is kept; false: it is for none.
func thumbnail(u *url.URL) (as string, ok bool) {
	id, ok := strings.CutPrefix(u.Path, thumbnailPath)
	q := u.Query()
	width, _ := strconv.Atoi(q.Get("width")) // what is no number is a small one
	height, _ := strconv.Atoi(q.Get("height"))
	return media.ThumbnailID(id, width, height, q.Get("method") == "crop"), ok
}

// keepPassing keeps the file in an answer.
func (d *Depot) keepPassing(ctx context.Context, box, as, typ string, answer io.Reader) error {
	part, err := federation.FilePart(typ, answer)
	if err != nil {
		return err
	}
	if part.Header.Get("Location") != "" {
		return errors.New("it lies elsewhere")
	}
	return d.keep(ctx, box, as, media.Info{Type: part.Header.Get("Content-Type"), Name: part.FileName()}, &whole{part: part, rest: answer})
}

// whole is a part that ends well only when all of its answer did.
type whole struct {
	part *multipart.Part
	rest io.Reader
}

func (t *whole) Read(b []byte) (int, error) {
	n, err := t.part.Read(b)
	if err == io.EOF {
		if _, torn := io.Copy(io.Discard, t.rest); torn != nil {
			return n, torn
		}
	}
	return n, err
}

// tee gives what is read to another one, too, as long as that keeps up.
type tee struct {
	io.ReadCloser
	out  chan []byte
	stop chan struct{} // closed: nobody wants more
	over bool          // out is closed
}

func (t *tee) Read(b []byte) (int, error) {
	n, err := t.ReadCloser.Read(b)
	if t.over {
		return n, err
	}
	if n > 0 {
		select {
		case <-t.stop:
			t.end(false)
			return n, err
		case t.out <- bytes.Clone(b[:n]):
		default:
			t.end(false)
			return n, err
		}
	}
	if err != nil {
		t.end(errors.Is(err, io.EOF))
	}
	return n, err
}

// end says that nothing more comes. What is not whole ends without its last word, nil.
func (t *tee) end(whole bool) {
	t.over = true
	if whole {
		select {
		case t.out <- nil:
		default:
		}
	}
	close(t.out)
}

func (t *tee) Close() error {
	if !t.over {
		t.end(false)
	}
	return t.ReadCloser.Close()
}

// drain reads what a tee gives.
type drain struct {
	from  <-chan []byte
	piece []byte
	whole bool
}

func (d *drain) Read(b []byte) (int, error) {
	for len(d.piece) == 0 {
		piece, more := <-d.from
		switch {
		case !more && d.whole:
			return 0, io.EOF
		case !more:
			return 0, io.ErrUnexpectedEOF
		case piece == nil:
			d.whole = true
		}
		d.piece = piece
	}
	n := copy(b, d.piece)
	d.piece = d.piece[n:]
	return n, nil
}
