// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"time"

	"hallig/appliance/steward"
)

// sentencePage serves a box's one sentence at port 80, whatever is asked for; a process of its own, without rights.
func sentencePage(raw string) error {
	var t steward.Text
	if err := json.Unmarshal([]byte(raw), &t); err != nil {
		return err
	}
	srv := &http.Server{Addr: ":80", ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10, Handler: sentenceHandler(t)}
	return srv.ListenAndServe()
}

func sentenceHandler(t steward.Text) http.Handler {
	page := fmt.Sprintf(`<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Hallig</title>
<body style="font:1.2em/1.5 sans-serif;max-width:40em;margin:2em auto;padding:0 1em">
<h1>Hallig</h1><p lang="de">%s</p><p lang="en">%s</p>`, html.EscapeString(t.De), html.EscapeString(t.En))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		h.Set("Cache-Control", "no-store")
		h.Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, page)
	})
}
