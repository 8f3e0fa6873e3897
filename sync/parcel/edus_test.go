// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// device is what servers tell of one.
func (r *life) device(user, id string) string {
	server := r.sender(0, user)
	return `{"algorithms":["m.olm.v1.curve25519-aes-sha2","m.megolm.v1.aes-sha2"],"device_id":"` + id + `","keys":{"curve25519:` + id + `":"` + r.b64(32) + `","ed25519:` + id + `":"` + r.b64(32) +
		`"},"signatures":{"` + server + `":{"ed25519:` + id + `":"` + r.b64(64) + `","ed25519:` + base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{7, 99, 201, user[0]}, 8)) + `":"` + r.b64(64) + `"}},"user_id":"` + server + `"}`
}

// olm is an encrypted to-device message for some devices.
func (r *life) olm(to string, sender string, first bool, devices ...string) string {
	kind, size := 1, 900
	if first {
		kind, size = 0, 1100
	}
	var list []string
	for _, d := range devices {
		list = append(list, fmt.Sprintf(`"%s":{"algorithm":"m.olm.v1.curve25519-aes-sha2","ciphertext":{"%s":{"body":"%s","type":%d}},"org.matrix.msgid":"%s","sender_key":"%s"}`,
			d, r.b64(32), r.b64(size), kind, strings.ToLower(r.letters(32, "ABCDEF0123456789")), base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte(sender[:1]), 32))))
	}
	return `{"message_id":"` + r.letters(16, alphabet) + `","messages":{"` + r.sender(1, to) + `":{` + strings.Join(list, ",") + `}},"sender":"` + r.sender(0, sender) + `","type":"m.room.encrypted"}`
}

// queue is what boxes have to tell each other besides events.
func (r *life) queue() map[string]Parcel {
	edu := func(typ, content string) Parcel { return &EDU{Seq: 7, Type: typ, Content: []byte(content)} }
	master := `{"keys":{"ed25519:` + r.b64(32) + `":"` + r.b64(32) + `"},"usage":["master"],"user_id":"` + r.sender(0, "anna") + `"}`
	list := fmt.Sprintf(`{"device_display_name":"Element X Android","device_id":"QBUAZIFURK","keys":%s,"prev_id":[%d],"stream_id":%d,"user_id":"%s"}`, r.device("anna", "QBUAZIFURK"), 41, 42, r.sender(0, "anna"))
	receipt := func(user string) string {
		return `"` + r.sender(0, user) + `":{"data":{"thread_id":"main","ts":` + fmt.Sprint(r.ts) + `},"event_ids":["` + r.some() + `"]}`
	}
	query := fmt.Sprintf(`{"device_keys":{"%s":{"GHTYAJCE22":%s,"QBUAZIFURK":%s}},"master_keys":{"%s":%s},"self_signing_keys":{}}`, r.sender(0, "anna"), r.device("anna", "GHTYAJCE22"), r.device("anna", "QBUAZIFURK"), r.sender(0, "anna"), master)
	claim := fmt.Sprintf(`{"one_time_keys":{"%s":{"GHTYAJCE22":{"signed_curve25519:AAAAHg":{"key":"%s","signatures":{"%s":{"ed25519:GHTYAJCE22":"%s"}}}}}}}`, r.sender(0, "anna"), r.b64(32), r.sender(0, "anna"), r.b64(64))
	return map[string]Parcel{
		"keys for a session, one device":   edu("m.direct_to_device", r.olm("björn", "anna", false, "GHTYAJCE22")),
		"keys for a session, four devices": edu("m.direct_to_device", r.olm("björn", "anna", true, "GHTYAJCE22", "QBUAZIFURK", "ABCDEFGHIJ", "KLMNOPQRST")),
		"key request":                      edu("m.direct_to_device", `{"message_id":"`+r.letters(16, alphabet)+`","messages":{"`+r.sender(1, "björn")+`":{"*":{"action":"request","body":{"algorithm":"m.megolm.v1.aes-sha2","room_id":"`+string(r.id)+`","sender_key":"`+r.b64(32)+`","session_id":"`+r.b64(32)+`"},"request_id":"`+r.letters(16, alphabet)+`","requesting_device_id":"QBUAZIFURK"}}},"sender":"`+r.sender(0, "anna")+`","type":"m.room_key_request"}`),
		"device list update":               edu("m.device_list_update", list),
		"device gone":                      edu("m.device_list_update", fmt.Sprintf(`{"deleted":true,"device_id":"QBUAZIFURK","prev_id":[42],"stream_id":43,"user_id":"%s"}`, r.sender(0, "anna"))),
		"signing keys":                     edu("m.signing_key_update", `{"master_key":`+master+`,"user_id":"`+r.sender(0, "anna")+`"}`),
		"one receipt":                      edu("m.receipt", `{"`+string(r.id)+`":{"m.read":{`+receipt("anna")+`}}}`),
		"three receipts":                   edu("m.receipt", `{"`+string(r.id)+`":{"m.read":{`+receipt("anna")+`,`+receipt("leitstelle")+`,`+receipt("fritz.meyer")+`}}}`),
		"typing":                           edu("m.typing", `{"room_id":"`+string(r.id)+`","typing":true,"user_id":"`+r.sender(0, "anna")+`"}`),
		"presence":                         edu("m.presence", `{"push":[{"currently_active":true,"last_active_ago":5000,"presence":"online","user_id":"`+r.sender(0, "anna")+`"}]}`),
		"question for device keys":         &Request{ID: 9, To: "a.example", Method: "POST", Target: "/_matrix/federation/v1/user/keys/query", Body: []byte(`{"device_keys":{"` + r.sender(0, "anna") + `":[],"` + r.sender(0, "leitstelle") + `":[]}}`)},
		"device keys":                      &Response{ID: 9, Status: 200, Body: []byte(query)},
		"question for one-time keys":       &Request{ID: 10, To: "a.example", Method: "POST", Target: "/_matrix/federation/v1/user/keys/claim", Body: []byte(`{"one_time_keys":{"` + r.sender(0, "anna") + `":{"GHTYAJCE22":"signed_curve25519"}}}`)},
		"one-time keys":                    &Response{ID: 10, Status: 200, Body: []byte(claim)},
		"devices":                          &Response{ID: 11, Status: 200, Body: []byte(`{"devices":[{"device_display_name":"Element","device_id":"GHTYAJCE22","keys":` + r.device("anna", "GHTYAJCE22") + `}],"stream_id":12,"user_id":"` + r.sender(0, "anna") + "\"}\n")},
		"profile":                          &Response{ID: 12, Status: 200, Body: []byte(`{"avatar_url":"` + r.mxc(0) + `","displayname":"Anna"}`)},
		"template of a join":               &Response{ID: 13, Status: 200, Body: []byte(`{"event":{"auth_events":["` + r.some() + `","` + r.some() + `"],"content":{"membership":"join"},"depth":41,"origin":"a.example","origin_server_ts":1790000000000,"prev_events":["` + r.some() + `"],"room_id":"` + string(r.id) + `","sender":"` + r.sender(1, "björn") + `","state_key":"` + r.sender(1, "björn") + `","type":"m.room.member"},"room_version":"12"}`)},
	}
}

func contentOf(p Parcel) []byte {
	switch p := p.(type) {
	case *EDU:
		return p.Content
	case *Request:
		return p.Body
	case *Response:
		return p.Body
	}
	return nil
}

// TestQueues: what boxes tell each other besides events comes out byte for byte, and is smaller than compressed JSON.
func TestQueues(t *testing.T) {
	r := newLife(t, "12", 1)
	near, old := newExchange(t, 0), newExchange(t, 0)
	for _, s := range old.ends {
		s.UseVersion2(false)
	}
	for _, ev := range r.events {
		near.send(0, ev)
		old.send(0, ev)
	}
	json, first, later, before := 0, 0, 0, 0
	for round := range 2 { // the second time the names of users and devices are known; all keys are others
		for name, p := range r.queue() {
			got, n := near.send(0, p)
			if string(contentOf(got[0])) != string(contentOf(p)) || fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", p) {
				t.Fatalf("%s came out as %+v, want %+v", name, got[0], p)
			}
			_, o := old.send(0, p)
			if round == 0 {
				first += n
				continue
			}
			json, later, before = json+len(contentOf(p)), later+n, before+o
			t.Logf("%-34s %4d bytes of JSON, %4d in version 1, %4d now", name, len(contentOf(p)), o, n)
			if n > o {
				t.Errorf("%s: %d bytes, %d in version 1", name, n, o)
			}
		}
	}
	fmt.Printf("measured codec_queue_percent %.1f of the JSON of EDUs, keys and small answers (%d bytes, by zstd %d; the first time, with all names, %d)\n", 100*float64(later)/float64(json), later, before, first)
	if later*100 > before*85 {
		t.Errorf("%d bytes, %d in version 1", later, before)
	}
}
