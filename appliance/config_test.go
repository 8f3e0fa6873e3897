// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"hallig/appliance/provision"
)

func TestLoadConfig(t *testing.T) {
	tests := []struct{ name, file, wantErr string }{
		{"missing file is an empty one", "", ""},
		{"good", `{"server_name":"box1.example","listen":"0.0.0.0:8008","serial":[{"device":"/dev/ttyUSB0"}]}`, ""},
		{"typing error", `{"sever_name":"box1.example"}`, `Line 1, column 2: "sever_name" is not known; "server_name" was probably meant.`},
		{"not JSON", `server_name: box1`, "Line 1, column 1: this is no valid JSON"},
		{"two values", `{} {}`, "Line 1, column 4: something follows"},
		{"typing error in a line", "{\n  \"serial\": [\n    {\"device\": \"/dev/x\", \"rate\": 9600}\n  ]\n}", `Line 3, column 26: "serial[0].rate" is not known; "baud" was probably meant.`},
		{"nothing near", `{"serial":[{"device":"/dev/x","colour":"red"}]}`, `"serial[0].colour" is not known; here are: device, modem, baud, bits_per_second`},
		{"number as text", "{\n  \"serial\": [{\"device\": \"/dev/x\", \"baud\": \"9600\"}]\n}", `Line 2, column 43: "serial[0].baud" must be a whole number, without quotation marks.`},
		{"comma too many", "{\n  \"listen\": \"127.0.0.1:8008\",\n}", "Line 3, column 1: there is a comma too many"},
		{"the other file", `{"hallig": 1, "serial": []}`, `Line 1, column 2: "hallig" belongs in hallig.json, not here`},
		{"a line without its list", `{"modem": "null"}`, `"modem" belongs in a line: "serial": [{`},
		{"p2p as a word", `{"p2p": "off"}`, `"p2p" must be a block in braces { }`},
		{"large number", `{"media_quota_bytes": 1e3}`, `"media_quota_bytes" must be a whole number`},
		{"null, as ever", `{"serial": null, "listen": "127.0.0.1:1"}`, ""},
		{"bad name", `{"server_name":"box one"}`, "no server name"},
		{"bad address", `{"listen":"8008"}`, "want ADDR:PORT"},
		{"bad federation host", `{"federation_host":"https://box.example"}`, "no host"},
		{"half a key pair", `{"federation_tls":{"certificate":"a.pem"}}`, "come together"},
		{"serial line without device", `{"serial":[{"baud":9600}]}`, `device" is missing`},
		{"negative rate", `{"serial":[{"device":"x","baud":-1}]}`, "must be between 50 and 4000000 bit/s"},
		{"modem that nobody knows", `{"serial":[{"device":"x","modem":"vara"}]}`, "transparent, null, rs485, at, kiss, rnode, meshcore"},
		{"field of another modem", `{"serial":[{"device":"x","modem":"kiss","band":"licensed","frequency_hz":869525000}]}`, "only rnode, meshcore"},
		{"a band", `{"serial":[{"device":"x","band":"eu868-10"}]}`, ""},
		{"band nobody knows", `{"serial":[{"device":"x","band":"433"}]}`, "none of wire, eu868-10"},
		{"older rooms", `{"room_version":"10"}`, ""},
		{"rooms nobody makes", `{"room_version":"1"}`, "none that new rooms can have"},
		{"metrics token", `{"metrics_token":"0123456789abcdef"}`, ""},
		{"metrics token that can be guessed", `{"metrics_token":"secret"}`, "could be guessed"},
		{"a hub's place without its form", `{"hub":{"server":"hub.example","peers":["hub.example:4001"]}}`, `"hub.peers[0]" must be an address like /dns/`},
		{"a box's place without its form", `{"p2p":{"peers":["192.0.2.7:4001"]}}`, `"p2p.peers[0]" must be an address like /dns/`},
		{"a protocol that is none", `{"p2p":{"peers":["/ip4/192.0.2.7/tcp/4001/qick/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"]}}`, "read p2p address"},
		{"bad override", `{"server_addresses":{"a b":"1.2.3.4:1"}}`, "no server name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(tt.file), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := LoadConfig(dir)
			switch {
			case tt.wantErr == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("got %v, want an error with %q", err, tt.wantErr)
			case tt.wantErr != "" && !strings.Contains(err.Error(), "config.json"):
				t.Errorf("the error does not name the file: %v", err)
			case tt.wantErr != "" && strings.Contains(err.Error(), ".;"):
				t.Errorf("full stop and semicolon: %v", err)
			}
		})
	}
}

// sample is JSON that a type takes, with every field that it has.
func sample(t reflect.Type) any {
	switch {
	case t == reflect.TypeFor[json.RawMessage]():
		return map[string]any{}
	case t.Kind() == reflect.Struct:
		out := map[string]any{}
		for f := range t.Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
				out[name] = sample(f.Type)
			}
		}
		return out
	case t.Kind() == reflect.Pointer:
		return sample(t.Elem())
	case t.Kind() == reflect.Slice:
		return []any{sample(t.Elem())}
	case t.Kind() == reflect.Map:
		return map[string]any{"a": sample(t.Elem())}
	}
	return reflect.Zero(t).Interface()
}

// TestEveryFieldHasWords: the reader that explains what is wrong knows the type of every field of both files.
func TestEveryFieldHasWords(t *testing.T) {
	for _, of := range []any{Config{}, provision.File{}} {
		raw, err := json.Marshal(sample(reflect.TypeOf(of)))
		if err != nil {
			t.Fatal(err)
		}
		if err := provision.Explain(raw, of, true); err != nil {
			t.Errorf("%T: %v in %s", of, err, raw)
		}
		if len(raw) < 300 {
			t.Errorf("%T has only %s", of, raw)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"listen":"127.0.0.1:1"}`))
	f.Add([]byte(`{"serial":[{"device":"x","rate":1,"airtime_limit_long":"1"}],"clock_gps":{"device":1},"server_addresses":{"a":1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var c Config
		if err := parseConfig(raw, &c); err == nil && c.check() != nil {
			t.Errorf("accepted what it refuses: %q", raw)
		}
		err := decodeConfig(raw, &c)
		if err == nil {
			return
		}
		if explained(raw, err, true).Error() == "" {
			t.Errorf("no word on %q", raw)
		}
	})
}
