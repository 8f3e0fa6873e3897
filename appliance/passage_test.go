// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hallig/radio/ether"
	"hallig/radio/serial"
	"hallig/sync/federation"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// TestPassage: a box whose way to the central server is gone, with nothing but a line to another box that has one. What its people write, and a message to a device, reach the central server,
// though nobody on the other box writes anything that builds on it.
func TestPassage(t *testing.T) {
	ctx := t.Context()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ptys := [2]*serial.PTY{}
	for i := range ptys {
		if ptys[i], err = serial.NewPTY(); err != nil {
			t.Fatal(err)
		}
	}
	line := ether.NewLine(ptys[0], ptys[1], ether.Config{BitsPerSecond: 9600, Seed: 1})
	lineCtx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- line.Run(lineCtx) }() // the clean-up waits for it
	t.Cleanup(func() { stop(); <-ended })

	at := freePort(t)
	central := startWith(t, Config{Data: t.TempDir(), ServerName: at, Federation: at, FederationTLS: TLSConfig{CACertificate: ca.File, CAKey: ca.KeyFile},
		CAFile: ca.File, PrivateAddresses: true, P2P: P2PConfig{Off: true}})
	var ways [2]*testpeer.Link // from and to the first box
	behind := freePort(t)
	for i, to := range []string{at, behind} {
		if ways[i], err = testpeer.NewLink(to); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ways[i].Close)
	}
	box := func(i int, name, fed string, to map[string]string) *running {
		return startWith(t, Config{Data: t.TempDir(), ServerName: name, Federation: fed, FederationTLS: TLSConfig{CACertificate: ca.File, CAKey: ca.KeyFile}, CAFile: ca.File, PrivateAddresses: true,
			ServerAddresses: to, P2P: P2PConfig{Off: true}, Serial: []SerialConfig{{Device: ptys[i].Device, Baud: 9600, HalfDuplex: true}}})
	}
	a := box(0, ways[1].Addr(), behind, map[string]string{at: ways[0].Addr()})
	a.exchange.passage.mu.Lock()
	a.exchange.passage.quiet = time.Millisecond
	a.exchange.passage.mu.Unlock()
	other := freePort(t)
	b := box(1, other, other, nil)
	paired(t, a, b)
	anna, bert, carl := a.phone("anna"), b.phone("bert"), central.phone("carl")
	anna.until("contact over the line", func() bool {
		s := a.exchange.link.Status()
		return len(s) == 1 && s[0].Carries != "" && s[0].Greeted
	})
	room, err := carl.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Name: "Lage"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*phone{anna, bert} {
		if _, err := p.Join(ctx, room, at); err != nil {
			t.Fatal(err)
		}
	}
	first := anna.say(room, "noch geradeaus")
	carl.until("the talk", carl.has(first))
	bert.until("the talk", bert.has(first))

	for _, w := range ways {
		w.Cut()
	}
	var ids []string
	for i := range 10 {
		ids = append(ids, anna.say(room, fmt.Sprint("nur noch Funk ", i)))
	}
	anna.call("PUT", matrixclient.Path("sendToDevice", "org.hallig.test", "t1"), `{"messages":{"`+carl.UserID+`":{"`+carl.DeviceID+`":{"n":"über Funk"}}}}`)
	took := carl.until("what went through the other box", func() bool { return carl.has(ids...)() && carl.heard("über Funk")() })
	t.Logf("there after %s", took.Round(time.Millisecond))
	if !a.exchange.narrow(at) {
		t.Error("the box does not know that only another one leads there")
	}
	if b.exchange.narrow(at) {
		t.Error("the box in between believes the same of itself")
	}
}

// A box sends on what another one has signed for a server, what boxes ask of each other, and nothing else.
func TestPassageRefuses(t *testing.T) {
	a, b := startBox(t, "a.test"), startBox(t, "b.test")
	paired(t, a, b)
	var next bool
	h := b.passing(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { next = true }))
	ask := func(from, method, uri, host string, body string, sign federation.Local) (int, string) {
		t.Helper()
		next = false
		r := httptest.NewRequest(method, uri, strings.NewReader(body))
		r.RemoteAddr, r.Host = from, host
		auth, err := federation.SignRequest(sign, host, method, uri, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", auth.String())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	const send = "/_matrix/federation/v1/send/1"
	box, body := "box:"+string(a.boxID()), `{"origin":"a.test"}`
	mine := a.fed.local
	for name, tt := range map[string]struct {
		from, method, uri, host string
		sign                    federation.Local
		code                    int
		text                    string
	}{
		"out of reach here, too":   {box, "PUT", send, "central.invalid", mine, 502, "ORG_HALLIG_UNREACHABLE"},
		"another one's signature":  {box, "PUT", send, "central.invalid", federation.Local{Server: "a.test", Key: b.fed.local.Key}, 401, "M_UNAUTHORIZED"},
		"under another one's name": {box, "PUT", send, "central.invalid", b.fed.local, 401, "not the box's own"},
		"a box that is not paired": {"box:12D3KooWnobody", "PUT", send, "central.invalid", mine, 403, "not paired"},
		"no server":                {box, "PUT", send, "-/-", mine, 401, "M_UNAUTHORIZED"},
	} {
		code, text := ask(tt.from, tt.method, tt.uri, tt.host, body, tt.sign)
		if code != tt.code || !strings.Contains(text, tt.text) || next {
			t.Errorf("%s: %d %s, handed on %v", name, code, text, next)
		}
	}
	for name, tt := range map[string][3]string{
		"a join":             {box, "/_matrix/federation/v1/send_join/x/y", "central.invalid"},
		"for the box itself": {box, send, "b.test"},
		"for a paired box":   {box, send, "a.test"},
		"not over the link":  {"192.0.2.1:99", send, "central.invalid"},
	} {
		if ask(tt[0], "PUT", tt[1], tt[2], body, mine); !next {
			t.Errorf("%s is not left to the box's own handler", name)
		}
	}
	long := string(bytes.Repeat([]byte{' '}, passageBody)) + body
	if code, _ := ask(box, "PUT", send, "central.invalid", long, mine); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of %d bytes: %d", len(long), code)
	}
}

// As long as a box reaches anybody straight, who is away is away, and no line between boxes is used for it.
func TestPassageOnlyForTheLonely(t *testing.T) {
	now := time.Now()
	var p passage
	if !p.lonely(now) {
		t.Error("who has reached nobody is not lonely")
	}
	p.note("b", passed{narrow: true})
	p.reaches("a", now)
	if p.lonely(now.Add(passageQuiet)) || !p.lonely(now.Add(passageQuiet+1)) || !p.find("b").narrow {
		t.Error("lonely at another time, or another server's way is forgotten")
	}
	if p.reaches("b", now); p.find("b").narrow {
		t.Error("a server that is reached straight counts as reached by a box alone")
	}
}

func TestIsOwn(t *testing.T) {
	for text, want := range map[string]bool{
		`{"pdus":[{"sender":"@anna:a.test"}]}`: true, `{"pdus":[{"sender":"@carl:c.test"}]}`: false, `{"pdus":[]}`: false, `nonsense`: false,
	} {
		if isOwn([]byte(text), "a.test") != want {
			t.Errorf("%s: not %v", text, want)
		}
	}
}
