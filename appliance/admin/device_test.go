// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"hallig/appliance/steward"
)

// TestUpload streams a file to the steward while the browser still sends it.
func TestUpload(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	send := func(token string, first bool, rest <-chan struct{}) (int, string, string) {
		in, out := io.Pipe()
		form := multipart.NewWriter(out)
		go func() {
			if first {
				form.WriteField("csrf", token)
			}
			part, _ := form.CreateFormFile("file", "x.hallig-update")
			io.WriteString(part, "HALL")
			if rest != nil {
				<-rest
			}
			io.WriteString(part, "IG")
			form.Close()
			out.Close()
		}()
		resp, err := s.http.Post(s.url+"/admin/update/file", form.FormDataContentType(), in)
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		return s.read(resp)
	}
	if status, _, _ := send("wrong", true, nil); status != 403 {
		t.Errorf("a wrong token: %d", status)
	}
	if status, _, _ := send("", false, nil); status != 403 {
		t.Errorf("no token: %d", status)
	}
	rest := make(chan struct{})
	go func() {
		if first := <-s.init.got; string(first) != "HALL" {
			t.Errorf("the steward got %q", first)
		}
		close(rest) // only now the browser sends the end
	}()
	if _, _, at := send(csrf, true, rest); at != "/admin/update" {
		t.Errorf("led to %s", at)
	}
	s.init.fails = &steward.Text{De: "Die Unterschrift stimmt nicht.", En: "The signature is wrong."}
	go func() { <-s.init.got }()
	if _, body, _ := send(csrf, true, nil); !strings.Contains(body, "Die Unterschrift stimmt nicht.") {
		t.Errorf("a refusal is not shown:\n%s", body)
	}
	if got, want := strings.Join(s.init.told(), "; "), "POST /update IG; POST /update IG"; got != want {
		t.Errorf("the steward was told %q, want %q", got, want)
	}
}

// TestEarlyRefusal: a big file that is refused at its first bytes; the browser sends it all and still reads why.
func TestEarlyRefusal(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	s.init.early = &steward.Text{De: "Dieses Update ist nicht neuer.", En: "This update is not newer."}
	var b bytes.Buffer
	form := multipart.NewWriter(&b)
	form.WriteField("csrf", csrf)
	part, err := form.CreateFormFile("file", "x.hallig-update")
	if err != nil {
		t.Fatal(err)
	}
	part.Write(make([]byte, 16<<20))
	form.Close()
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host) // a client that reads only when it has sent everything
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cookies := s.http.Jar.Cookies(u)
	fmt.Fprintf(conn, "POST /admin/update/file HTTP/1.1\r\nHost: x\r\nCookie: %s=%s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", cookies[0].Name, cookies[0].Value, form.FormDataContentType(), b.Len())
	if _, err := b.WriteTo(conn); err != nil {
		t.Fatalf("sending was cut off: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "Dieses Update ist nicht neuer.") {
		t.Errorf("%v %s", err, body)
	}
	resp.Body.Close()
}

func TestDevice(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	for _, tt := range []struct {
		path      string
		form      []string
		says, ask string
	}{
		{"/admin/device", []string{"do", "eject", "stick", "sda1"}, "abgezogen", "POST /stick/sda1/eject "},
		{"/admin/device", []string{"do", "reset", "confirm", "box"}, "nichts gelöscht", ""},
		{"/admin/device", []string{"do", "reset", "confirm", " box.test "}, "wird gelöscht", `POST /factory-reset {"confirm":"box.test"}`},
		{"/admin/device", []string{"do", "reboot"}, "startet neu", "POST /reboot "},
		{"/admin/device", []string{"do", "poweroff"}, "schaltet sich aus", "POST /poweroff "},
		{"/admin/device", []string{"do", "dance"}, "nicht", ""},
		{"/admin/update", []string{"do", "start"}, "auf Probe", "POST /update/start "},
		{"/admin/update", []string{"do", "back"}, "Häkchen", ""},
		{"/admin/update", []string{"do", "back", "sure", "1"}, "vorigen System", "POST /update/back "},
		{"/admin/update", []string{"do", "stick", "path", "/x y"}, "1.3.0", "POST /update?path=%2Fx+y "},
		{"/admin/update", []string{"do", "box", "box", "box2.test"}, "box2.test is gone", ""},
		{"/admin/certificate", []string{"pem", "nonsense"}, "this is no certificate: nonsense", ""},
	} {
		before := len(s.init.told())
		_, body, _ := s.post(tt.path, append(tt.form, "csrf", csrf)...)
		asked := strings.Join(s.init.told()[before:], "; ")
		if !strings.Contains(body, tt.says) || asked != tt.ask {
			t.Errorf("%v: the steward was asked %q, want %q; the page shall say %q\n%s", tt.form, asked, tt.ask, tt.says, body)
		}
	}
	_, page, _ := s.get("/admin/device")
	for _, want := range []string{"die Box verteilt die Adressen", "192.168.7.1/24", "3 Geräte haben eine Adresse, Platz für 200", "Hinweis.", "kein Kabel", "Kein WLAN.", "Zwei Server.", "Anderen Adapter nehmen.", "Zeile 3 ist falsch."} {
		if !strings.Contains(page, want) {
			t.Errorf("the device page does not say %q:\n%s", want, page)
		}
	}
	if _, body, _ := s.get("/admin/log?process=hallig-lan"); !strings.Contains(body, "&lt;b&gt;line&lt;/b&gt; of hallig-lan") {
		t.Errorf("log:\n%s", body)
	}
	if _, body, _ := s.get("/admin/log?process=../hallig&download=1"); body != "first <b>line</b> of hallig\n" {
		t.Errorf("log as a file: %q", body)
	}
	if _, body, _ := s.post("/admin/backup", "csrf", csrf); !strings.Contains(body, "no stick is there") {
		t.Errorf("backup:\n%s", body)
	}
}

// TestWithoutImage: a box that is a program on somebody's machine has no pages about the machine.
func TestWithoutImage(t *testing.T) {
	s := newSite(t, func(o *PageOptions) { o.Steward = nil; o.Backup = BackupPart{} })
	s.signIn()
	_, body, _ := s.get("/admin/")
	for _, path := range []string{"/admin/update", "/admin/device", "/admin/log", "/admin/backup"} {
		if status, _, _ := s.get(path); status != 404 || strings.Contains(body, `"`+path+`"`) {
			t.Errorf("%s is there: %d", path, status)
		}
	}
	if status, body, _ := s.get("/admin/clock"); status != 200 || !strings.Contains(body, "zu frühe Zeit") {
		t.Errorf("clock: %d\n%s", status, body)
	}
}

// TestErrands: what takes long goes on behind its page, one at a time, and how it ended is told once.
func TestErrands(t *testing.T) {
	release := make(chan error)
	s := newSite(t, func(o *PageOptions) {
		o.Backup.Start = func(context.Context) error { return <-release }
	})
	csrf := s.signIn()
	if _, body, _ := s.post("/admin/backup", "csrf", csrf); !strings.Contains(body, "Eine Sicherung läuft") || !strings.Contains(body, `http-equiv="refresh"`) {
		t.Errorf("a backup that takes long:\n%s", body)
	}
	if _, body, _ := s.post("/admin/update", "csrf", csrf, "do", "stick", "path", "/x"); !strings.Contains(body, "mit etwas anderem beschäftigt") {
		t.Errorf("two at a time:\n%s", body)
	}
	release <- steward.Text{De: "Der Stick ist voll.", En: "The stick is full."}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		_, body, _ := s.get("/admin/backup")
		if strings.Contains(body, "Der Stick ist voll.") {
			if _, body, _ := s.get("/admin/backup"); strings.Contains(body, "Der Stick ist voll.") || strings.Contains(body, "läuft") {
				t.Errorf("told twice:\n%s", body)
			}
			return
		}
	}
	t.Error("that the backup failed is not told")
}
