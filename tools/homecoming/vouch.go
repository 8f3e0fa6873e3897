// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"hallig/sync/federation"
	"hallig/sync/identity"
)

// vouches asks the central server under the box's name whether it has an event that it does not show: all that a server can be asked.
func (w *world) vouches(ctx context.Context, e written) bool {
	id, err := identity.ReadSigning(filepath.Join(w.box.Dir, identity.SigningKeyFile))
	if err != nil {
		say("read the box's key: %v", err)
		return false
	}
	uri := "/_matrix/federation/v1/event/" + url.PathEscape(e.id)
	auth, err := federation.SignRequest(federation.Local{Server: w.box.Server, Key: id.Key}, w.central.name(), http.MethodGet, uri, nil)
	if err != nil {
		say("sign a question: %v", err)
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.central.federation()+uri, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Authorization", auth.String())
	pem, err := os.ReadFile(w.central.authority().File)
	if err != nil {
		say("read the authority: %v", err)
		return false
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		say("ask the central server for %s: %v", e.id, err)
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
