// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"hallig/tools/matrixclient"
)

// browser is an administrator at the box's pages: https, a cookie, forms with a token. It reads what a person would read, in English.
type browser struct {
	b    *box
	user string
	http *http.Client
	csrf string
	at   *url.URL // of the last page
}

// browse opens the pages as a user with the password that all have here.
func (b *box) browse(ctx context.Context, user string) (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	br := &browser{b: b, user: user, http: &http.Client{Jar: jar, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // the box's own authority; scenario boots looks at the certificates
		DisableKeepAlives: true, ResponseHeaderTimeout: 5 * time.Minute}}}
	return br, br.login(ctx)
}

var errNotIn = errors.New("not signed in")

func (br *browser) login(ctx context.Context) error {
	if _, err := br.get(ctx, "/admin/login"); err != nil && !errors.Is(err, errNotIn) {
		return err
	}
	text, err := br.post(ctx, "/admin/login", url.Values{"user": {br.user}, "password": {password}, "to": {"/admin/update"}})
	if errors.Is(err, errNotIn) {
		return fmt.Errorf("sign in to the pages as %s: %s", br.user, bad(text))
	}
	return err
}

func (br *browser) get(ctx context.Context, path string) (string, error) {
	return br.do(ctx, http.MethodGet, path, "", nil)
}

func (br *browser) post(ctx context.Context, path string, form url.Values) (string, error) {
	if br.csrf != "" {
		form.Set("csrf", br.csrf)
	}
	return br.do(ctx, http.MethodPost, path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
}

var csrfField = regexp.MustCompile(`name="csrf" value="([^"]+)"`)

func (br *browser) do(ctx context.Context, method, path, contentType string, body io.Reader) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+br.b.Addr(portTLS)+path, body)
	if err != nil {
		return "", err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept-Language", "en")
	resp, err := br.http.Do(req)
	if err != nil {
		return "", fmt.Errorf("page %s: %w", path, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return "", fmt.Errorf("page %s: %w", path, err)
	}
	text := string(raw)
	br.at = resp.Request.URL
	if g := csrfField.FindStringSubmatch(text); g != nil {
		br.csrf = html.UnescapeString(g[1])
	}
	switch {
	case strings.HasPrefix(br.at.Path, "/admin/login"):
		return text, errNotIn
	case resp.StatusCode/100 != 2:
		return text, fmt.Errorf("page %s: %s: %.300s", path, resp.Status, text)
	}
	return text, nil
}

var (
	badNote = regexp.MustCompile(`(?s)role="alert"[^>]*>(.*?)</`)
	tags    = regexp.MustCompile(`<[^>]*>`)
)

// bad is the complaint on a page; "" when it has none.
func bad(page string) string {
	g := badNote.FindStringSubmatch(page)
	if g == nil {
		return ""
	}
	return strings.Join(strings.Fields(html.UnescapeString(tags.ReplaceAllString(g[1], " "))), " ")
}

// inviteCode makes a code with which n people can make an account.
func (b *box) inviteCode(ctx context.Context, admin *matrixclient.Client, n int) (string, error) {
	br, err := b.browse(ctx, admin.UserID)
	if err != nil {
		return "", err
	}
	text, err := br.post(ctx, "/admin/users/token", url.Values{"uses": {fmt.Sprint(n)}})
	if err != nil {
		return "", err
	}
	token := br.at.Query().Get("token")
	if token == "" {
		return "", fmt.Errorf("no registration code on the page: %s", bad(text))
	}
	return token, nil
}

// upload sends an update file through the page's form.
func (br *browser) upload(ctx context.Context, file string) (page string, err error) {
	if _, err := br.get(ctx, "/admin/update"); err != nil {
		return "", err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if err := w.WriteField("csrf", br.csrf); err != nil {
		return "", err
	}
	part, err := w.CreateFormFile("file", filepath.Base(file))
	if err != nil {
		return "", err
	}
	part.Write(raw) // into memory
	if err := w.Close(); err != nil {
		return "", err
	}
	return br.do(ctx, http.MethodPost, "/admin/update/file", w.FormDataContentType(), &b)
}

// words of the update page, in the order in which they are looked for
var updateStates = []struct{ state, words string }{
	{"writing", "is being verified and written"},
	{"written", "is verified and ready"},
	{"trial", "is on trial"},
	{"done", "has been taken over"},
	{"failed", `class="note bad"`},
}

func updateState(page string) string {
	for _, s := range updateStates {
		if strings.Contains(page, s.words) {
			return s.state
		}
	}
	return "none"
}

var runs = regexp.MustCompile(`Running:?</?[^>]*>?\s*<strong>([^<]+)</strong>|Running: <strong>([^<]+)</strong>`)

// runningVersion is what the update page says.
func runningVersion(page string) string {
	if g := runs.FindStringSubmatch(page); g != nil {
		return html.UnescapeString(g[1] + g[2])
	}
	return ""
}

// settled asks the update page until the state is one of the wanted; the box may be away for a while and forget who was signed in.
func (br *browser) settled(ctx context.Context, states ...string) (page, state string, err error) {
	for {
		page, err = br.get(ctx, "/admin/update")
		if errors.Is(err, errNotIn) {
			if err = br.login(ctx); err == nil {
				continue
			}
		}
		switch {
		case err != nil:
		case runningVersion(page) == "":
			err = fmt.Errorf("the page does not say what runs: %s", bad(page)) // the box is on its way down
		default:
			state = updateState(page)
			for _, s := range states {
				if state == s {
					return page, state, nil
				}
			}
			err = fmt.Errorf("the update is %s", state)
		}
		select {
		case <-ctx.Done():
			return page, state, fmt.Errorf("wait until the update is %s: %w (last: %w; console ends: %s)", strings.Join(states, " or "), ctx.Err(), err, br.b.Console.Tail(3))
		case <-br.b.Gone():
			return page, state, errors.New("the machine has ended")
		case <-time.After(2 * time.Second):
		}
	}
}
