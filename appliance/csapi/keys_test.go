// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// device is a client with the keys of its encryption.
type device struct {
	*matrixclient.Client
	b    *box
	priv ed25519.PrivateKey
}

func b64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

func (d device) sign(obj object, keyID string, priv ed25519.PrivateKey) json.RawMessage {
	d.b.Helper()
	raw, err := json.Marshal(obj)
	d.b.ok(err)
	signed, err := event.SignJSON(raw, d.UserID, event.Key{ID: keyID, Private: priv})
	d.b.ok(err)
	return signed
}

// newDevice uploads device keys and n one-time keys.
func newDevice(b *box, c *matrixclient.Client, n int) device {
	b.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	b.ok(err)
	d := device{c, b, priv}
	keys := object{}
	for i := range n {
		id := fmt.Sprintf("signed_curve25519:K%d", i)
		keys[id] = d.sign(object{"key": b64([]byte(fmt.Sprintf("%s one-time key %02d 0123456789", c.DeviceID, i))[:32])}, "ed25519:"+c.DeviceID, priv)
	}
	var out struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	b.ok(c.Do(b.ctx, "POST", matrixclient.Path("keys", "upload"), object{
		"device_keys": d.sign(object{"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys": object{"ed25519:" + c.DeviceID: b64(pub), "curve25519:" + c.DeviceID: b64(pub)}}, "ed25519:"+c.DeviceID, priv),
		"one_time_keys": keys,
		"fallback_keys": object{"signed_curve25519:F": d.sign(object{"key": "fallback", "fallback": true}, "ed25519:"+c.DeviceID, priv)},
	}, &out))
	if n > 0 && out.Counts["signed_curve25519"] != n {
		b.Errorf("%v one-time keys after uploading %d", out.Counts, n)
	}
	return d
}

func TestTwoClientsSetUpEncryption(t *testing.T) {
	b := newBox(t)
	alice, bob := newDevice(b, b.user("alice"), 2), newDevice(b, b.user("bob"), 2)
	room := b.room(alice.Client, matrixclient.CreateRoom{Invite: []string{bob.UserID},
		InitialState: []map[string]any{{"type": "m.room.encryption", "state_key": "", "content": object{"algorithm": "m.megolm.v1.aes-sha2"}}}})
	s, err := alice.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	if s.OneTimeKeys["signed_curve25519"] != 2 {
		t.Errorf("counts in sync: %v", s.OneTimeKeys)
	}
	_, err = bob.Join(b.ctx, room)
	b.ok(err)
	s, err = alice.Sync(b.ctx, matrixclient.SyncOptions{Since: s.NextBatch})
	b.ok(err)
	if !contains(s.DeviceLists.Changed, bob.UserID) {
		t.Errorf("bob came, device lists say %+v", s.DeviceLists)
	}

	var q struct {
		DeviceKeys map[string]map[string]json.RawMessage `json:"device_keys"`
		Failures   object                                `json:"failures"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "query"), object{"device_keys": object{bob.UserID: []string{}, "@x:far.example": []string{}}}, &q))
	keys := q.DeviceKeys[bob.UserID][bob.DeviceID]
	if err := event.VerifyJSON(keys, bob.UserID, "ed25519:"+bob.DeviceID, bob.priv.Public().(ed25519.PublicKey)); err != nil {
		t.Errorf("bob's keys came back as %s: %v", keys, err)
	}
	if _, ok := q.Failures["far.example"]; !ok {
		t.Errorf("the unreachable server is not named: %v", q.Failures)
	}

	// One-time keys are given once and in upload order; then the fallback key.
	for _, want := range []string{"K0", "K1", "F", "F"} {
		var claim struct {
			Keys map[string]map[string]map[string]json.RawMessage `json:"one_time_keys"`
		}
		b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "claim"), object{"one_time_keys": object{bob.UserID: object{bob.DeviceID: "signed_curve25519"}}}, &claim))
		if _, ok := claim.Keys[bob.UserID][bob.DeviceID]["signed_curve25519:"+want]; !ok {
			t.Errorf("claim gives %v, want %s", claim.Keys, want)
		}
	}

	// The room key goes to bob's device, once for a repeated transaction.
	letter := object{"messages": object{bob.UserID: object{bob.DeviceID: object{"ciphertext": "olm"}}}}
	for range 2 {
		b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("sendToDevice", "m.room.encrypted", "t1"), letter, nil))
	}
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("sendToDevice", "m.dummy", "t2"), object{"messages": object{bob.UserID: object{"*": object{}}}}, nil))
	b.refused("letters to nobody", alice.Do(b.ctx, "PUT", matrixclient.Path("sendToDevice", "m.dummy", "t3"), object{"messages": object{"bob": object{"*": object{}}}}, nil), 400, "M_INVALID_PARAM")
	b.refused("no letters", alice.Do(b.ctx, "PUT", matrixclient.Path("sendToDevice", "m.dummy", "t4"), object{}, nil), 400, "M_MISSING_PARAM")
	s, err = bob.Sync(b.ctx, matrixclient.SyncOptions{})
	b.ok(err)
	if n := len(s.ToDevice.Events); n != 2 || s.ToDevice.Events[0].Sender != alice.UserID || s.ToDevice.Events[0].Type != "m.room.encrypted" {
		t.Errorf("to bob's device came %+v", s.ToDevice.Events)
	}
	_, err = alice.Send(b.ctx, room, "m.room.encrypted", "", object{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": "s", "device_id": alice.DeviceID, "sender_key": "k"})
	b.ok(err)
	s2, err := bob.Sync(b.ctx, matrixclient.SyncOptions{Since: s.NextBatch})
	b.ok(err)
	if len(s2.ToDevice.Events) != 0 || len(s2.Rooms.Join[room].Timeline.Events) != 1 {
		t.Errorf("bob's next sync: %+v", s2)
	}
	var changes struct {
		Changed []string `json:"changed"`
	}
	newDevice(b, alice.Client, 0) // new keys of the same device
	s3, err := bob.Sync(b.ctx, matrixclient.SyncOptions{Since: s2.NextBatch})
	b.ok(err)
	b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("keys", "changes")+"?from="+s2.NextBatch+"&to="+s3.NextBatch, nil, &changes))
	if !contains(changes.Changed, alice.UserID) || !contains(s3.DeviceLists.Changed, alice.UserID) {
		t.Errorf("alice's keys changed; changes %v, sync %v", changes, s3.DeviceLists)
	}
	newDevice(b, alice.Client, 0) // and once more, before bob asks
	changes.Changed = nil
	b.ok(bob.Do(b.ctx, "GET", matrixclient.Path("keys", "changes")+"?from="+s2.NextBatch+"&to="+s3.NextBatch, nil, &changes))
	if !contains(changes.Changed, alice.UserID) {
		t.Errorf("changes %v do not name alice, whose keys changed within and after the span", changes)
	}
}

func TestKeysThatAreNone(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	for _, keys := range []any{5, object{"user_id": alice.UserID, "device_id": alice.DeviceID}, object{"algorithms": object{}}} {
		err := alice.Do(b.ctx, "POST", matrixclient.Path("keys", "upload"), object{"device_keys": keys}, nil)
		b.refused("device keys that are none", err, 400, "M_BAD_JSON")
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "upload"), object{}, nil))
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

func TestCrossSigning(t *testing.T) {
	b := newBox(t)
	alice := newDevice(b, b.user("alice"), 0)
	upload := func(auth object) (ed25519.PrivateKey, string, error) {
		masterPub, master, err := ed25519.GenerateKey(nil)
		b.ok(err)
		selfPub, _, err := ed25519.GenerateKey(nil)
		b.ok(err)
		body := object{
			"master_key": object{"user_id": alice.UserID, "usage": []string{"master"}, "keys": object{"ed25519:" + b64(masterPub): b64(masterPub)}},
			"self_signing_key": alice.sign(object{"user_id": alice.UserID, "usage": []string{"self_signing"}, "keys": object{"ed25519:" + b64(selfPub): b64(selfPub)}},
				"ed25519:"+b64(masterPub), master),
		}
		if auth != nil {
			body["auth"] = auth["auth"]
		}
		return master, b64(masterPub), alice.Do(b.ctx, "POST", matrixclient.Path("keys", "device_signing", "upload"), body, nil)
	}
	_, _, err := upload(nil)
	b.ok(err) // the first upload needs no proof
	_, _, err = upload(nil)
	b.refused("replacing keys", err, 401, "")
	master, pub, err := upload(withPassword(b, err, "alice", "password-alice"))
	b.ok(err)

	var q struct {
		Devices map[string]map[string]object `json:"device_keys"`
		Master  map[string]object            `json:"master_keys"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "query"), object{"device_keys": object{alice.UserID: []string{}}}, &q))
	if keys, _ := q.Master[alice.UserID]["keys"].(object); keys["ed25519:"+pub] != pub {
		t.Errorf("master key: %v", q.Master)
	}
	dev := q.Devices[alice.UserID][alice.DeviceID]
	delete(dev, "unsigned")
	var fail struct {
		Failures map[string]object `json:"failures"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "signatures", "upload"), object{alice.UserID: object{alice.DeviceID: alice.sign(dev, "ed25519:"+pub, master)}}, &fail))
	if len(fail.Failures) != 0 {
		t.Errorf("signatures: %v", fail.Failures)
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("keys", "query"), object{"device_keys": object{alice.UserID: []string{}}}, &q))
	raw, err := json.Marshal(q.Devices[alice.UserID][alice.DeviceID])
	b.ok(err)
	if !strings.Contains(string(raw), "ed25519:"+pub) {
		t.Errorf("the device does not carry the signature: %s", raw)
	}
}

func TestKeyBackup(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	var v struct {
		Version string `json:"version"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("room_keys", "version"), object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{"public_key": "x"}}, &v))
	key := func(index int) object {
		return object{"first_message_index": index, "forwarded_count": 0, "is_verified": false, "session_data": object{"ciphertext": index}}
	}
	one := matrixclient.Path("room_keys", "keys", "!r:x", "s/1") + "?version=" + v.Version
	b.ok(alice.Do(b.ctx, "PUT", one, key(5), nil))
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("room_keys", "keys")+"?version="+v.Version, object{"rooms": object{"!r:x": object{"sessions": object{"s2": key(0)}}}}, nil))
	b.ok(alice.Do(b.ctx, "PUT", one, key(9), nil)) // worse than what is there
	var got object
	b.ok(alice.Do(b.ctx, "GET", one, nil, &got))
	if got["first_message_index"] != 5.0 {
		t.Errorf("key: %v", got)
	}
	var all struct {
		Rooms map[string]struct{ Sessions object } `json:"rooms"`
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("room_keys", "keys")+"?version="+v.Version, nil, &all))
	if len(all.Rooms["!r:x"].Sessions) != 2 {
		t.Errorf("all keys: %v", all)
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("room_keys", "version"), nil, &got))
	if got["count"] != 2.0 || got["version"] != v.Version {
		t.Errorf("version: %v", got)
	}
	b.refused("no version", alice.Do(b.ctx, "PUT", matrixclient.Path("room_keys", "keys"), object{}, nil), 400, "M_MISSING_PARAM")
	old := v.Version
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("room_keys", "version"), object{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": object{}}, &v))
	err := alice.Do(b.ctx, "PUT", matrixclient.Path("room_keys", "keys", "!r:x", "s")+"?version="+old, key(0), nil)
	b.refused("an old version", err, 403, "M_WRONG_ROOM_KEYS_VERSION")
	if e, ok := err.(*matrixclient.Error); !ok || !strings.Contains(string(e.Body), `"current_version":"`+v.Version+`"`) {
		t.Errorf("the answer does not name the current version: %v", err)
	}
	b.ok(alice.Do(b.ctx, "DELETE", matrixclient.Path("room_keys", "version", v.Version), nil, nil))
}
