// SPDX-License-Identifier: EUPL-1.2

package testpeer

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDoorCountsByKind(t *testing.T) {
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "central.test" || r.URL.RawQuery != "a=%2F" && strings.Contains(r.URL.Path, "/state/") {
			t.Errorf("came through changed: %s %s", r.Host, r.URL)
		}
		if strings.Contains(r.URL.Path, "/event/") {
			w.WriteHeader(http.StatusBadGateway)
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer far.Close()
	dir := t.TempDir()
	ca, err := NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDoor(ca, dir, "127.0.0.1", far.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, ca.File)}}}
	for _, path := range []string{"/_matrix/federation/v1/send/1", "/_matrix/federation/v1/send/2", "/_matrix/federation/v1/state/!r?a=%2F", "/_matrix/federation/v1/event/$e", "/_matrix/key/v2/server"} {
		req, err := http.NewRequest("PUT", "https://"+d.Addr()+path, strings.NewReader("12345"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "central.test"
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	asked, first := d.Asked()
	want := map[string]Asked{"send": {2, 0, 10, 10}, "state": {1, 0, 5, 5}, "event": {1, 1, 5, 5}, "key server": {1, 0, 5, 5}}
	for k, n := range want {
		if asked[k] != n {
			t.Errorf("%s: %+v, want %+v", k, asked[k], n)
		}
	}
	if len(asked) != len(want) || first.IsZero() {
		t.Errorf("asked %v, first at %v", asked, first)
	}
}

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(pem)
	return p
}

func TestKinds(t *testing.T) {
	for path, want := range map[string]string{
		"/_matrix/federation/v1/get_missing_events/!a": "get_missing_events", "/_matrix/federation/v2/send_join/!a/$b": "send_join", "/_matrix/federation/v1/user/devices/@a": "user devices",
		"/_matrix/federation/v1/query/profile": "query profile", "/_matrix/key/v2/query": "key query", "/": "other", "/_matrix/client/v3/sync": "other", "/_matrix/federation/v1": "other",
	} {
		if got := Kind(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

// An authority that others trust already issues for us, and what it issues is good for clocks that are behind.
func TestForeignAuthority(t *testing.T) {
	theirs, err := NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ours, err := LoadCA(theirs.File, theirs.KeyFile, dir)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := dir+"/leaf.crt", dir+"/leaf.key"
	if err := ours.Issue("127.0.0.1", cert, key); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{theirs.File, ours.File} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool(t, file), DNSName: "127.0.0.1", CurrentTime: time.Now().AddDate(0, 0, -30)}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, began := NewRate(8000), time.Now()
		r.wait(500)
		r.wait(500)
		if took := time.Since(began); took != time.Second {
			t.Errorf("1000 bytes at 8000 bit/s took %v", took)
		}
		time.Sleep(time.Hour) // an idle line saves nothing up
		began = time.Now()
		if r.wait(1000); time.Since(began) != time.Second {
			t.Errorf("after an hour of silence 1000 bytes took %v", time.Since(began))
		}
	})
}
