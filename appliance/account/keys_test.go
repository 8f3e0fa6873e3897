// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

func raw(format string, a ...any) json.RawMessage { return json.RawMessage(fmt.Sprintf(format, a...)) }

func deviceKeysOf(s Session) json.RawMessage {
	return raw(`{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1"],"keys":{"ed25519:%s":"AAAA"},"signatures":{}}`, s.User, s.Device, s.Device)
}

func TestOneTimeKeys(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	up := KeyUpload{DeviceKeys: deviceKeysOf(s), OneTimeKeys: map[string]json.RawMessage{}}
	for i := range 3 {
		up.OneTimeKeys[fmt.Sprintf("signed_curve25519:K%d", i)] = raw(`{"key":"%d"}`, i)
	}
	counts, err := h.UploadKeys(ctx, s, up)
	ok(t, err)
	if counts["signed_curve25519"] != 3 {
		t.Fatalf("counts %v", counts)
	}
	counts, err = h.UploadKeys(ctx, s, up) // the answer was lost: the same again
	ok(t, err)
	if counts["signed_curve25519"] != 3 {
		t.Fatalf("counts after a repeat %v", counts)
	}
	_, err = h.UploadKeys(ctx, s, KeyUpload{OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:K1": raw(`{"key":"other"}`)}})
	wantCode(t, err, "M_INVALID_PARAM")
	_, err = h.UploadKeys(ctx, s, KeyUpload{DeviceKeys: raw(`{"user_id":"@other:box.test","device_id":%q}`, s.Device)})
	wantCode(t, err, "M_INVALID_PARAM")
	// Later keys with smaller names come later all the same.
	_, err = h.UploadKeys(ctx, s, KeyUpload{OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:A": raw(`{"key":"late"}`)},
		FallbackKeys: map[string]json.RawMessage{"signed_curve25519:F": raw(`{"key":"fallback","fallback":true}`)}})
	ok(t, err)
	h.restart()
	var order []string
	for range 6 {
		got, err := h.ClaimKeys(ctx, map[event.UserID]map[string]string{s.User: {s.Device: "signed_curve25519", "NONE": "signed_curve25519"}})
		ok(t, err)
		order = append(order, sortedKeys(got[s.User][s.Device])...)
	}
	want := []string{"signed_curve25519:K0", "signed_curve25519:K1", "signed_curve25519:K2", "signed_curve25519:A", "signed_curve25519:F", "signed_curve25519:F"}
	if !slices.Equal(order, want) {
		t.Fatalf("claimed %v, want %v", order, want)
	}
}

func TestClaimsAreUnique(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	up := KeyUpload{OneTimeKeys: map[string]json.RawMessage{}}
	for i := range 40 {
		up.OneTimeKeys[fmt.Sprintf("signed_curve25519:%02d", i)] = raw(`{"key":"%d"}`, i)
	}
	_, err := h.UploadKeys(ctx, s, up)
	ok(t, err)
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]int{}
	for range 8 {
		wg.Go(func() {
			for range 5 {
				got, err := h.ClaimKeys(ctx, map[event.UserID]map[string]string{s.User: {s.Device: "signed_curve25519"}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for id := range got[s.User][s.Device] {
					seen[id]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 40 {
		t.Errorf("%d different keys were claimed of 40", len(seen))
	}
}

// signer is a key that signs JSON as a client does.
type signer struct {
	user event.UserID
	name string
	key  ed25519.PrivateKey
}

func newSigner(t *testing.T, user event.UserID, name string) signer {
	pub, key, err := ed25519.GenerateKey(nil)
	ok(t, err)
	if name == "" {
		name = base64.RawStdEncoding.EncodeToString(pub)
	}
	return signer{user, name, key}
}

func (k signer) pub() string {
	return base64.RawStdEncoding.EncodeToString(k.key.Public().(ed25519.PublicKey))
}

func (k signer) sign(t *testing.T, obj json.RawMessage) json.RawMessage {
	t.Helper()
	out, err := event.SignJSON(obj, string(k.user), event.Key{ID: "ed25519:" + k.name, Private: k.key})
	ok(t, err)
	return out
}

func TestCrossSigning(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	bert := h.register("bert")
	device := newSigner(t, s.User, s.Device)
	master, self := newSigner(t, s.User, ""), newSigner(t, s.User, "")
	deviceKeys := device.sign(t, raw(`{"user_id":%q,"device_id":%q,"algorithms":[],"keys":{"ed25519:%s":%q}}`, s.User, s.Device, s.Device, device.pub()))
	_, err := h.UploadKeys(ctx, s, KeyUpload{DeviceKeys: deviceKeys})
	ok(t, err)
	masterKey := raw(`{"user_id":%q,"usage":["master"],"keys":{"ed25519:%s":%q}}`, s.User, master.pub(), master.pub())
	selfKey := raw(`{"user_id":%q,"usage":["self_signing"],"keys":{"ed25519:%s":%q}}`, s.User, self.pub(), self.pub())
	up := CrossSigningUpload{MasterKey: masterKey, SelfSigningKey: selfKey}
	wantCode(t, h.UploadCrossSigning(ctx, s, up), "M_INVALID_SIGNATURE")
	up.SelfSigningKey = master.sign(t, selfKey)
	if needs, err := h.CrossSigningNeedsAuth(ctx, s.User, up); needs || err != nil {
		t.Fatalf("the first upload needs auth: %v %v", needs, err)
	}
	ok(t, h.UploadCrossSigning(ctx, s, up))
	if needs, _ := h.CrossSigningNeedsAuth(ctx, s.User, up); needs {
		t.Error("a repeated upload needs auth")
	}
	other := newSigner(t, s.User, "")
	if needs, _ := h.CrossSigningNeedsAuth(ctx, s.User, CrossSigningUpload{MasterKey: raw(`{"user_id":%q,"usage":["master"],"keys":{"ed25519:%s":%q}}`, s.User, other.pub(), other.pub())}); !needs {
		t.Error("a replaced master key needs no auth")
	}

	// The device is signed by the self-signing key, the master key by the device; a forged signature is refused.
	failures, err := h.UploadSignatures(ctx, s, map[event.UserID]map[string]json.RawMessage{s.User: {
		s.Device: self.sign(t, deviceKeys), master.pub(): device.sign(t, masterKey)}})
	ok(t, err)
	if len(failures) != 0 {
		t.Fatalf("failures %s", failures)
	}
	forged := signer{s.User, s.Device, other.key}
	failures, err = h.UploadSignatures(ctx, s, map[event.UserID]map[string]json.RawMessage{s.User: {master.pub(): forged.sign(t, masterKey)}})
	ok(t, err)
	if len(failures[s.User]) != 1 {
		t.Error("a forged signature was taken")
	}
	h.restart()
	got, remote, err := h.QueryKeys(ctx, bert.User, map[event.UserID][]string{s.User: nil, "@x:far.test": nil})
	ok(t, err)
	if len(remote["far.test"]) != 1 {
		t.Errorf("remote %v", remote)
	}
	for what, body := range map[string]json.RawMessage{self.name: got.DeviceKeys[s.User][s.Device], s.Device: got.MasterKeys[s.User]} {
		var k signingKey
		ok(t, json.Unmarshal(body, &k))
		if k.Signatures[s.User]["ed25519:"+what] == "" {
			t.Errorf("signature of %s is missing in %s", what, body)
		}
	}
	if got.UserSigningKeys[s.User] != nil {
		t.Error("a user-signing key is shown to another user")
	}
}

func TestToDevice(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	anna, bert := h.register("anna"), h.register("bert")
	msg := map[event.UserID]map[string]json.RawMessage{
		bert.User:     {bert.Device: raw(`{"n":1}`), "GONE": raw(`{}`)},
		"@z:far.test": {"*": raw(`{"n":2}`)},
	}
	ok(t, h.SendToDevice(ctx, anna, "m.test", "t1", msg))
	ok(t, h.SendToDevice(ctx, anna, "m.test", "t1", msg)) // repeated
	edu := raw(`{"sender":"@z:far.test","type":"m.test","message_id":"m1","messages":{%q:{"*":{"n":3}}}}`, bert.User)
	ok(t, h.ReceiveToDevice(ctx, "far.test", edu))
	ok(t, h.ReceiveToDevice(ctx, "far.test", edu))  // repeated
	ok(t, h.ReceiveToDevice(ctx, "evil.test", edu)) // not its to send
	h.restart()
	var bodies []string
	err := h.db.View(ctx, func(r *store.Read) error {
		rows, err := r.ToDevice(bert.User, bert.Device, 0, 1<<60, 100)
		for _, row := range rows {
			bodies = append(bodies, string(row.Body))
		}
		if err != nil {
			return err
		}
		edus, err := r.PendingEDUs("far.test", 0, 10)
		n := 0
		for _, e := range edus {
			if e.Kind == kindToDevice {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d letters for far.test, want 1", n)
		}
		return err
	})
	ok(t, err)
	want := []string{`{"content":{"n":1},"sender":"@anna:box.test","type":"m.test"}`, `{"content":{"n":3},"sender":"@z:far.test","type":"m.test"}`}
	if !slices.Equal(bodies, want) {
		t.Errorf("letters %q, want %q", bodies, want)
	}
}

func TestDeviceListUpdates(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	_, err := h.UploadKeys(ctx, s, KeyUpload{DeviceKeys: deviceKeysOf(s)})
	ok(t, err)
	ok(t, h.RenameDevice(ctx, s.User, s.Device, "Phone"))
	var ups []deviceListUpdate
	ok(t, h.db.View(ctx, func(r *store.Read) error {
		edus, err := r.PendingEDUs("far.test", 0, 10)
		for _, e := range edus {
			var up deviceListUpdate
			ok(t, json.Unmarshal(e.Body, &up))
			ups = append(ups, up)
		}
		return err
	}))
	if len(ups) != 1 || ups[0].StreamID != 2 || !slices.Equal(ups[0].PrevID, []int64{1}) || ups[0].Name != "Phone" {
		t.Fatalf("updates %+v", ups)
	}
	list, err := h.UserDevices(ctx, s.User)
	ok(t, err)
	var devices federationDevices
	ok(t, json.Unmarshal(list, &devices))
	if devices.StreamID != 2 || len(devices.Devices) != 1 || devices.Devices[0].ID != s.Device {
		t.Fatalf("list %s", list)
	}
}

// TestDeviceListAfterRestore: a box that was restored from an older copy has forgotten updates that others have seen; they must not take the next one for an old story.
func TestDeviceListAfterRestore(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	_, err := h.UploadKeys(ctx, s, KeyUpload{DeviceKeys: deviceKeysOf(s)})
	ok(t, err)
	ok(t, h.db.Do(ctx, func(tx *store.Tx) error { return tx.JumpDeviceLists() }))
	ok(t, h.RenameDevice(ctx, s.User, s.Device, "Phone"))
	var up deviceListUpdate
	ok(t, h.db.View(ctx, func(r *store.Read) error {
		edus, err := r.PendingEDUs("far.test", 0, 10)
		if len(edus) == 1 {
			err = json.Unmarshal(edus[0].Body, &up)
		}
		return err
	}))
	// Another server has seen 50 updates, of which this one remembers the first.
	const zoe event.UserID = "@zoe:far.test"
	ok(t, h.UpdateRemoteDevices(ctx, zoe, raw(`{"user_id":%q,"stream_id":50,"devices":[]}`, zoe)))
	resync, err := h.ReceiveDeviceList(ctx, "far.test", raw(`{"user_id":%q,"device_id":"A","stream_id":%d,"prev_id":[%d],"keys":{"a":1}}`, zoe, up.StreamID, up.PrevID[0]))
	ok(t, err)
	if resync != zoe {
		t.Errorf("update %d after %v is passed over, or no reason to fetch the list", up.StreamID, up.PrevID)
	}
}

func TestRemoteDeviceLists(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	const zoe event.UserID = "@zoe:far.test"
	ok(t, h.UpdateRemoteDevices(ctx, zoe, raw(`{"user_id":%q,"stream_id":5,"devices":[{"device_id":"A","keys":{"a":1}}]}`, zoe)))
	resync, err := h.ReceiveDeviceList(ctx, "far.test", raw(`{"user_id":%q,"device_id":"B","stream_id":6,"prev_id":[5],"keys":{"b":1}}`, zoe))
	ok(t, err)
	if resync != "" {
		t.Error("an update in order asks for the whole list")
	}
	resync, err = h.ReceiveDeviceList(ctx, "evil.test", raw(`{"user_id":%q,"device_id":"A","stream_id":7,"prev_id":[6],"deleted":true}`, zoe))
	ok(t, err)
	if resync != "" {
		t.Error("a stranger's update was taken")
	}
	resync, err = h.ReceiveDeviceList(ctx, "far.test", raw(`{"user_id":%q,"device_id":"C","stream_id":9,"prev_id":[8],"keys":{"c":1}}`, zoe))
	ok(t, err)
	if resync != zoe {
		t.Error("a gap was not seen")
	}
	stale, err := h.StaleRemoteUsers(ctx, "far.test")
	ok(t, err)
	if !slices.Equal(stale, []event.UserID{zoe}) {
		t.Errorf("stale %v", stale)
	}
	// The other server is out of reach: what was kept is answered.
	out := newKeyAnswer()
	missing, err := h.MergeRemoteKeys(ctx, "@anna:box.test", []event.UserID{zoe, "@y:far.test"}, map[event.UserID][]string{zoe: nil}, nil, &out)
	ok(t, err)
	if got := sortedKeys(out.DeviceKeys[zoe]); !slices.Equal(got, []string{"A", "B", "C"}) || !slices.Equal(missing, []event.UserID{"@y:far.test"}) {
		t.Errorf("kept devices %v, missing %v", got, missing)
	}
	ok(t, h.UpdateRemoteDevices(ctx, zoe, raw(`{"user_id":%q,"stream_id":9,"devices":[{"device_id":"C","keys":{"c":1}}]}`, zoe)))
	if stale, _ := h.StaleRemoteUsers(ctx, "far.test"); len(stale) != 0 {
		t.Errorf("still stale: %v", stale)
	}
}

// When a server is back after an outage its users' lists are doubted: they are asked for anew, and clients hear of those that have changed.
func TestDoubtedListsAreFetchedAnew(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	const zoe, yan event.UserID = "@zoe:far.test", "@yan:far.test"
	ok(t, h.UpdateRemoteDevices(ctx, zoe, raw(`{"user_id":%q,"stream_id":5,"devices":[{"device_id":"A","keys":{"a":1}}]}`, zoe)))
	ok(t, h.UpdateRemoteDevices(ctx, yan, raw(`{"user_id":%q,"stream_id":2,"devices":[{"device_id":"Y","keys":{"y":1}}]}`, yan)))
	ok(t, h.UpdateRemoteDevices(ctx, "@else:far.test:8448", raw(`{"user_id":"@else:far.test:8448","stream_id":2,"devices":[]}`)))
	ok(t, h.DoubtRemoteLists(ctx, "far.test"))
	stale, err := h.StaleRemoteUsers(ctx, "far.test")
	ok(t, err)
	if !slices.Equal(stale, []event.UserID{yan, zoe}) {
		t.Fatalf("doubted: %v", stale)
	}
	if other, _ := h.StaleRemoteUsers(ctx, "far.test:8448"); len(other) > 0 {
		t.Errorf("another server's users are doubted: %v", other)
	}
	before := h.db.Published()
	answer := raw(`{"device_keys":{%q:{"A":{"a":1,"unsigned":{"device_display_name":"Phone"}},"B":{"b":1}},%q:{"Y":{"y":1,"unsigned":{"device_display_name":"Phone"}}}}}`, zoe, yan)
	ok(t, h.FreshenRemoteLists(ctx, stale, answer))
	ok(t, h.db.View(ctx, func(r *store.Read) error {
		changed, err := r.DeviceListChanges(before, h.db.Published())
		if !slices.Equal(changed, []event.UserID{zoe}) {
			t.Errorf("clients hear of %v", changed)
		}
		return err
	}))
	if stale, _ := h.StaleRemoteUsers(ctx, "far.test"); len(stale) != 0 {
		t.Errorf("still stale: %v", stale)
	}
	ok(t, h.FreshenRemoteLists(ctx, []event.UserID{"@anna:box.test"}, raw(`{"device_keys":{"@anna:box.test":{"X":{"x":1}}}}`)))
	ok(t, h.db.View(ctx, func(r *store.Read) error {
		known, err := r.RemoteListKnown("@anna:box.test")
		if known {
			t.Error("another server tells the devices of our own user")
		}
		return err
	}))
}

// A list that came by a query has no place in its owner's stream: the first update builds on one that we cannot have seen, and asks for the whole list. From
// then on it is followed.
func TestQueriedListsAreKept(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	const zoe event.UserID = "@zoe:far.test"
	out := newKeyAnswer()
	answer := raw(`{"device_keys":{%q:{"A":{"a":1,"unsigned":{"device_display_name":"Phone"}}}}}`, zoe)
	_, err := h.MergeRemoteKeys(ctx, "@anna:box.test", []event.UserID{zoe}, map[event.UserID][]string{zoe: nil}, answer, &out)
	ok(t, err)
	if len(out.DeviceKeys[zoe]) != 1 {
		t.Fatalf("answer %+v", out)
	}
	update := func(n, prev int) event.UserID {
		t.Helper()
		resync, err := h.ReceiveDeviceList(ctx, "far.test", raw(`{"user_id":%q,"device_id":"D%d","stream_id":%d,"prev_id":[%d],"keys":{"n":%d}}`, zoe, n, n, prev, n))
		ok(t, err)
		return resync
	}
	if update(41, 40) != zoe {
		t.Error("what came between the query and the first update is not asked for")
	}
	ok(t, h.UpdateRemoteDevices(ctx, zoe, raw(`{"user_id":%q,"stream_id":41,"devices":[{"device_id":"D41","keys":{"n":41}}]}`, zoe)))
	if update(42, 41) != "" || update(43, 42) != "" {
		t.Error("updates in order ask for the whole list")
	}
	if update(50, 49) != zoe {
		t.Error("a gap was not seen")
	}
}

func TestKeyBackup(t *testing.T) {
	h, ctx := newHouse(t), t.Context()
	s := h.register("anna")
	_, err := h.Backup(ctx, s.User, "")
	wantCode(t, err, "M_NOT_FOUND")
	v, err := h.CreateBackup(ctx, s.User, "m.test", raw(`{"k":1}`))
	ok(t, err)
	put := func(first, forwarded int, verified bool) string {
		t.Helper()
		etag, n, err := h.PutBackupKeys(ctx, s.User, v, map[event.RoomID]map[string]json.RawMessage{"!r": {"s": raw(`{"first_message_index":%d,"forwarded_count":%d,"is_verified":%v,"session_data":{"x":"%d/%d/%v"}}`, first, forwarded, verified, first, forwarded, verified)}})
		ok(t, err)
		if n != 1 {
			t.Fatalf("%d keys", n)
		}
		return etag
	}
	e1 := put(5, 2, false)
	e2 := put(6, 0, false) // worse
	e3 := put(5, 1, false)
	e4 := put(9, 9, true)
	e5 := put(0, 0, false) // worse: not verified
	if e1 != e2 || e2 == e3 || e3 == e4 || e4 != e5 {
		t.Errorf("etags %s %s %s %s %s", e1, e2, e3, e4, e5)
	}
	got, err := h.BackupKeys(ctx, s.User, v, "!r", "s")
	ok(t, err)
	var k backedUpKey
	ok(t, json.Unmarshal(got["!r"]["s"], &k))
	if !k.Verified || k.FirstIndex != 9 {
		t.Errorf("kept %s", got["!r"]["s"])
	}
	v2, err := h.CreateBackup(ctx, s.User, "m.test", raw(`{}`))
	ok(t, err)
	if _, _, err := h.PutBackupKeys(ctx, s.User, v, nil); err == nil {
		t.Error("keys went into an old version")
	}
	ok(t, h.DeleteBackup(ctx, s.User, v2))
	b, err := h.Backup(ctx, s.User, "")
	ok(t, err)
	if b.Version != v {
		t.Errorf("latest version %q", b.Version)
	}
	v3, err := h.CreateBackup(ctx, s.User, "m.test", raw(`{}`))
	ok(t, err)
	if v3 == v2 {
		t.Error("a number was given twice")
	}
}
