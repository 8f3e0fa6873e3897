// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/media"
	"hallig/appliance/room"
)

// upload: https://spec.matrix.org/v1.13/client-server-api/#post_matrixmediav3upload
func (h *Handler) upload(ctx context.Context, c *call) (any, error) {
	info, body, err := h.uploaded(c)
	if err != nil {
		return nil, err
	}
	id, err := h.Media.Upload(ctx, c.session.User, info, body)
	if err != nil {
		return nil, err
	}
	return map[string]string{"content_uri": "mxc://" + h.ServerName + "/" + id}, nil
}

func (h *Handler) createMedia(ctx context.Context, c *call) (any, error) {
	id, err := h.Media.Create(ctx, c.session.User)
	if err != nil {
		return nil, err
	}
	return map[string]any{"content_uri": "mxc://" + h.ServerName + "/" + id}, nil
}

func (h *Handler) fillMedia(ctx context.Context, c *call) (any, error) {
	if c.params[0] != h.ServerName {
		return nil, notFound("this media id was never announced here")
	}
	info, body, err := h.uploaded(c)
	if err != nil {
		return nil, err
	}
	return nil, h.Media.Fill(ctx, c.session.User, c.params[1], info, body)
}

// uploaded reads what an upload says about itself.
func (h *Handler) uploaded(c *call) (media.Info, io.Reader, error) {
	limit := h.Media.MaxUpload()
	if c.r.ContentLength > limit {
		return media.Info{}, nil, refuse(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", fmt.Sprintf("files may have at most %d bytes", limit))
	}
	info := media.Info{Type: c.r.Header.Get("Content-Type"), Name: c.query("filename")}
	if info.Type == "" {
		info.Type = "application/octet-stream"
	}
	return info, http.MaxBytesReader(c.w, c.r.Body, limit+1), nil
}

func (h *Handler) mediaConfig(context.Context, *call) (any, error) {
	return map[string]int64{"m.upload.size": h.Media.MaxUpload()}, nil
}

// download serves a file. https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
func (h *Handler) download(ctx context.Context, c *call) (any, error) {
	f, err := h.openMedia(ctx, c, func(ctx context.Context) (*media.File, error) {
		return h.Media.Get(ctx, c.params[0], c.params[1])
	}, h.fetchMedia)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if c.params[2] != "" {
		f.Info.Name = c.params[2]
	}
	serveFile(c, f)
	return wrote{}, nil
}

func (h *Handler) thumbnail(ctx context.Context, c *call) (any, error) {
	width, err := c.number("width", 0)
	if err != nil {
		return nil, err
	}
	height, err := c.number("height", 0)
	if err != nil {
		return nil, err
	}
	if width == 0 || height == 0 {
		return nil, missing("width or height")
	}
	method := c.query("method")
	if method != "" && method != "crop" && method != "scale" {
		return nil, invalid("method must be crop or scale")
	}
	f, err := h.openMedia(ctx, c, func(ctx context.Context) (*media.File, error) {
		return h.Media.Thumbnail(ctx, c.params[0], c.params[1], width, height, method == "crop")
	}, func(ctx context.Context, server, id string) error {
		return h.fetchThumbnail(ctx, server, id, width, height, method == "crop")
	})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	serveFile(c, f)
	return wrote{}, nil
}

// openMedia opens what is here, waits for announced uploads and fetches from other servers.
func (h *Handler) openMedia(ctx context.Context, c *call, open func(context.Context) (*media.File, error), fetch func(ctx context.Context, server, id string) error) (*media.File, error) {
	server, id := c.params[0], c.params[1]
	f, err := open(ctx)
	switch {
	case errors.Is(err, media.ErrPending):
		return h.awaitUpload(ctx, c, open)
	case !errors.Is(err, media.ErrAbsent):
		return f, err
	}
	if !event.ValidServerName(server) {
		return nil, notFound("there is no such media")
	}
	if h.Remote == nil || c.query("allow_remote") == "false" {
		return nil, notFound("there is no copy of this media here")
	}
	if _, err := h.slow.do(ctx, "media "+server+"/"+id+" "+c.r.URL.RawQuery, func(ctx context.Context) (any, error) {
		return nil, fetch(ctx, server, id)
	}); err != nil {
		return nil, err
	}
	return open(ctx)
}

// fetchMedia copies another server's file into ours.
func (h *Handler) fetchMedia(ctx context.Context, server, id string) error {
	body, contentType, name, err := h.Remote.Media(ctx, server, id)
	if err != nil {
		return remoteError(err)
	}
	defer body.Close()
	return h.Media.Cache(ctx, server, id, media.Info{Type: contentType, Name: name}, body)
}

// fetchThumbnail copies the smaller picture that another server makes of its file: over a narrow link the file itself may take an hour. Where it makes
// none, the file comes.
func (h *Handler) fetchThumbnail(ctx context.Context, server, id string, width, height int, crop bool) error {
	w, hh := media.ThumbnailSize(width, height, crop)
	body, contentType, err := h.Remote.Thumbnail(ctx, server, id, w, hh, crop)
	if err != nil {
		return h.fetchMedia(ctx, server, id)
	}
	defer body.Close()
	return h.Media.CacheThumbnail(ctx, server, id, width, height, crop, media.Info{Type: contentType}, body)
}

// awaitUpload asks again while the sender is still uploading, up to timeout_ms.
// https://spec.matrix.org/v1.13/client-server-api/#post_matrixmediav1create
func (h *Handler) awaitUpload(ctx context.Context, c *call, open func(context.Context) (*media.File, error)) (*media.File, error) {
	ms, err := c.number("timeout_ms", 20_000)
	if err != nil {
		return nil, err
	}
	deadline := time.NewTimer(min(time.Duration(ms)*time.Millisecond, time.Minute))
	defer deadline.Stop()
	again := time.NewTicker(250 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if f, err := open(ctx); !errors.Is(err, media.ErrPending) {
				return f, err
			}
		case <-deadline.C:
			return nil, refuse(http.StatusGatewayTimeout, "M_NOT_YET_UPLOADED", "this media has not been uploaded yet")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// inlineTypes may be shown by a browser in place; everything else is offered for saving, as it could carry scripts.
// https://spec.matrix.org/v1.13/client-server-api/#serving-inline-content
var inlineTypes = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// serveFile writes the file with headers that keep a browser from running it in our origin.
func serveFile(c *call, f *media.File) {
	kind, _, err := mime.ParseMediaType(f.Type)
	contentType := f.Type
	if err != nil {
		kind, contentType = "", "application/octet-stream"
	}
	disposition := "attachment"
	if inlineTypes[kind] {
		disposition = "inline"
	}
	head := c.w.Header()
	head.Set("Content-Type", contentType)
	head.Set("Content-Disposition", contentDisposition(disposition, f.Info.Name))
	head.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';")
	head.Set("Cross-Origin-Resource-Policy", "cross-origin")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "private, max-age=86400, immutable")
	http.ServeContent(c.w, c.r, "", time.Time{}, f)
}

// contentDisposition quotes plain ASCII names and encodes others as RFC 5987 says.
func contentDisposition(kind, name string) string {
	if name == "" {
		return kind
	}
	plain := true
	for _, r := range name {
		plain = plain && r > ' ' && r < 0x7f && !strings.ContainsRune(`"\;,/()<>@:[]?={}%*`, r)
	}
	if plain {
		return kind + "; filename=" + name
	}
	if quoted, ok := quotedASCII(name); ok {
		return kind + `; filename="` + quoted + `"`
	}
	var b strings.Builder
	for _, ch := range []byte(name) {
		if ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || strings.IndexByte("-._~", ch) >= 0 {
			b.WriteByte(ch)
		} else {
			b.WriteString("%" + strings.ToUpper(strconv.FormatInt(int64(ch)+256, 16)[1:]))
		}
	}
	return kind + "; filename*=utf-8''" + b.String()
}

func quotedASCII(name string) (string, bool) {
	var b strings.Builder
	for _, r := range name {
		if r < ' ' || r >= 0x7f {
			return "", false
		}
		if r == '"' || r == '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String(), true
}

// remoteError turns what a way to another server says into an answer. Refusals pass; the rest is an unreachable server.
func remoteError(err error) error {
	var e *room.Error
	if errors.As(err, &e) {
		return err
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return refuse(http.StatusBadGateway, "M_UNKNOWN", "the other server could not be reached")
}
