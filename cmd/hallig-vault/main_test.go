// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/vault"
	"hallig/tools/testport"
)

const code = "H7KQ-2RT9-WXYZ-4D6F"

// stage is a partition, a code in a file, and a folder with one stick.
func stage(t *testing.T) (device, sticks, codeFile string) {
	t.Helper()
	dir := t.TempDir()
	device, sticks, codeFile = filepath.Join(dir, "partition"), filepath.Join(dir, "sticks"), filepath.Join(dir, "code")
	if err := os.MkdirAll(filepath.Join(sticks, "sda1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(codeFile, []byte(code+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(device, 8<<20); err != nil {
		t.Fatal(err)
	}
	return device, sticks, codeFile
}

func TestStickOpens(t *testing.T) {
	device, sticks, codeFile := stage(t)
	if err := create(device, sticks, codeFile); err != nil {
		t.Fatal(err)
	}
	if err := create(device, sticks, codeFile); err == nil {
		t.Error("a vault was made over another one")
	}
	h, err := readHeader(device)
	if err != nil {
		t.Fatal(err)
	}
	disk, stick, err := unlock(t.Context(), device, h.ID, sticks, "")
	if err != nil {
		t.Fatal(err)
	}
	disk.Close()
	if filepath.Base(stick) != keyName(h.ID) {
		t.Errorf("opened by %s", stick)
	}
}

func TestNoStick(t *testing.T) {
	device, sticks, codeFile := stage(t)
	if err := os.RemoveAll(filepath.Join(sticks, "sda1")); err != nil {
		t.Fatal(err)
	}
	if err := create(device, sticks, codeFile); err == nil || !strings.Contains(err.Error(), "plug in") {
		t.Errorf("no stick: %v; want the next step", err)
	}
	if _, err := readHeader(device); err == nil {
		t.Error("a vault was made although no stick has the key")
	}
}

func TestCodeOpens(t *testing.T) {
	device, sticks, codeFile := stage(t)
	if err := create(device, sticks, codeFile); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(sticks, "sda1")); err != nil { // the stick is pulled
		t.Fatal(err)
	}
	h, err := readHeader(device)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := testport.Take()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	result := make(chan error, 1)
	go func() { // the test waits for the result
		disk, stick, err := unlock(ctx, device, h.ID, sticks, addr)
		if err == nil {
			disk.Close()
			if stick != "" {
				t.Errorf("opened by %s; want the code", stick)
			}
		}
		result <- err
	}()
	page := "http://" + addr + "/"
	body := get(t, page)
	if !strings.Contains(body, "verschlossen") || !strings.Contains(body, "locked") {
		t.Errorf("the page says %q", body)
	}
	if body := get(t, "http://"+addr+"/_matrix/client/versions"); !strings.Contains(body, "locked") {
		t.Errorf("a client hears %q", body)
	}
	for typed, want := range map[string]string{"1234": "zu kurz", "H7KQ-2RT9-WXYZ-4D6G": "öffnet die Box nicht"} {
		if body := post(t, page, typed); !strings.Contains(body, want) {
			t.Errorf("%s: the page says %q, want %q", typed, body, want)
		}
	}
	if body := post(t, page, strings.ToLower(code)); !strings.Contains(body, "ist offen") {
		t.Errorf("the page says %q", body)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if l, err := net.Listen("tcp", addr); err != nil {
		t.Errorf("the port is not free for the box: %v", err)
	} else {
		l.Close()
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // until the page is served
		if resp, err := http.Get(url); err == nil {
			return text(t, resp)
		}
	}
	t.Fatal("no page")
	return ""
}

func post(t *testing.T, page, code string) string {
	t.Helper()
	resp, err := http.PostForm(page, url.Values{"code": {code}})
	if err != nil {
		t.Fatal(err)
	}
	return text(t, resp)
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func FuzzKeyFile(f *testing.F) {
	text, _ := vault.NewKeyFile(vault.NewID())
	f.Add([]byte(text))
	f.Add([]byte("hallig-key-1 x y"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, _, err := vault.ParseKeyFile(b); err == nil && len(id) != 32 {
			t.Errorf("id %q", id)
		}
	})
}
