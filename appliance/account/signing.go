// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// CrossSigningUpload is the body of POST /keys/device_signing/upload, without auth.
type CrossSigningUpload struct {
	MasterKey      json.RawMessage `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage `json:"self_signing_key,omitempty"`
	UserSigningKey json.RawMessage `json:"user_signing_key,omitempty"`
}

func (u CrossSigningUpload) byUsage() map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for usage, body := range map[string]json.RawMessage{"master": u.MasterKey, "self_signing": u.SelfSigningKey, "user_signing": u.UserSigningKey} {
		if !null(body) {
			out[usage] = body
		}
	}
	return out
}

// CrossSigningNeedsAuth says whether the upload replaces keys, so that the user must prove to be there. The first upload
// and a repeated one need no proof: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3keysdevice_signingupload
func (a *Accounts) CrossSigningNeedsAuth(ctx context.Context, user event.UserID, up CrossSigningUpload) (bool, error) {
	needs := false
	err := a.db.View(ctx, func(r *store.Read) error {
		old, err := r.CrossSigningKeys(user)
		if err != nil || old["master"] == nil {
			return err
		}
		for usage, body := range up.byUsage() {
			if publicKey(old[usage]) != publicKey(body) {
				needs = true
			}
		}
		return nil
	})
	return needs, err
}

type signingKey struct {
	User       event.UserID                       `json:"user_id"`
	Usage      []string                           `json:"usage"`
	Keys       map[string]string                  `json:"keys"`
	Signatures map[event.UserID]map[string]string `json:"signatures"`
}

// UploadCrossSigning stores the user's cross-signing keys. The caller has asked CrossSigningNeedsAuth before.
func (a *Accounts) UploadCrossSigning(ctx context.Context, s Session, up CrossSigningUpload) error {
	keys := up.byUsage()
	for usage, body := range keys {
		var k signingKey
		if err := json.Unmarshal(body, &k); err != nil {
			return badJSON("a cross-signing key is not as it should be")
		}
		if k.User != s.User || len(k.Keys) != 1 || !slices.Contains(k.Usage, usage) || publicKey(body) == "" {
			return refuse(400, "M_INVALID_PARAM", "the "+usage+" key must name its user, its usage and one key")
		}
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		old, err := tx.CrossSigningKeys(s.User)
		if err != nil {
			return err
		}
		master := keys["master"]
		if master == nil {
			master = old["master"]
		}
		if master == nil {
			return refuse(400, "M_MISSING_PARAM", "there is no master key yet")
		}
		pub, err := decodeKey(publicKey(master))
		if err != nil {
			return err
		}
		changed := false
		for usage, body := range keys {
			if usage != "master" {
				if event.VerifyJSON(body, string(s.User), "ed25519:"+publicKey(master), pub) != nil {
					return refuse(400, "M_INVALID_SIGNATURE", "the "+usage+" key is not signed by the master key")
				}
			}
			if sameJSON(old[usage], body) {
				continue
			}
			changed = true
			if err := tx.PutCrossSigningKey(s.User, usage, body); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return a.signingKeysChanged(tx, s.User)
	})
}

// UploadSignatures stores signatures that the session's user made on own devices, the own master key, or others' master
// keys. What cannot be taken is answered by user and key.
func (a *Accounts) UploadSignatures(ctx context.Context, s Session, up map[event.UserID]map[string]json.RawMessage) (map[event.UserID]map[string]json.RawMessage, error) {
	var failures map[event.UserID]map[string]json.RawMessage
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		failures = map[event.UserID]map[string]json.RawMessage{}
		var devices []string
		signing := false
		for target, keys := range up {
			for id, obj := range keys {
				isDevice, err := a.putSignature(tx, s.User, target, id, obj)
				if refused, ok := err.(*room.Error); ok {
					if failures[target] == nil {
						failures[target] = map[string]json.RawMessage{}
					}
					failures[target][id] = json.RawMessage(`{"errcode":` + string(quote(refused.Code)) + `,"error":` + string(quote(refused.Text)) + `}`)
					continue
				}
				if err != nil {
					return err
				}
				switch {
				case target == s.User && isDevice:
					devices = append(devices, id)
				case target == s.User:
					signing = true
				default: // only the signer's own devices can see it
					if err := tx.MarkDeviceList(target, []event.UserID{s.User}); err != nil {
						return err
					}
				}
			}
		}
		if signing {
			if err := a.signingKeysChanged(tx, s.User); err != nil {
				return err
			}
		}
		if len(devices) > 0 {
			return a.devicesChanged(tx, s.User, devices...)
		}
		return nil
	})
	return failures, err
}

// putSignature checks and stores what signer put on one key.
func (a *Accounts) putSignature(tx *store.Tx, signer, target event.UserID, id string, obj json.RawMessage) (isDevice bool, err error) {
	known, isDevice, err := findKey(tx.Read, a.server, target, id)
	if err != nil {
		return false, err
	}
	if known == nil {
		return false, notFound("there is no such key")
	}
	if isDevice && target != signer {
		return false, refuse(400, "M_INVALID_PARAM", "only a user's own devices can be signed")
	}
	if !sameJSON(bare(known), bare(obj)) {
		return false, refuse(400, "M_INVALID_PARAM", "the signed key is not the key that is known here")
	}
	var k signingKey
	if err := json.Unmarshal(obj, &k); err != nil {
		return false, badJSON("this is not a signed key")
	}
	if len(k.Signatures[signer]) == 0 {
		return false, refuse(400, "M_INVALID_SIGNATURE", "there is no signature of yours")
	}
	for _, keyID := range sortedKeys(k.Signatures[signer]) {
		pub, err := signerKey(tx.Read, signer, strings.TrimPrefix(keyID, "ed25519:"))
		if err != nil {
			return false, err
		}
		if pub == nil || event.VerifyJSON(obj, string(signer), keyID, pub) != nil {
			return false, refuse(400, "M_INVALID_SIGNATURE", "a signature does not verify")
		}
		row := store.KeySignatureRow{User: target, Key: id, Signer: signer, KeyID: keyID, Signature: k.Signatures[signer][keyID]}
		if err := tx.PutKeySignature(row); err != nil {
			return false, err
		}
	}
	return isDevice, nil
}

// findKey looks for a device or cross-signing key by the name that signature uploads use.
func findKey(r *store.Read, server string, user event.UserID, id string) (body json.RawMessage, isDevice bool, err error) {
	keys, err := r.CrossSigningKeys(user)
	if err != nil {
		return nil, false, err
	}
	for _, body := range keys {
		if publicKey(body) == id {
			return body, false, nil
		}
	}
	if user.Server() != server {
		return nil, false, nil
	}
	row, err := r.Device(user, id)
	if err != nil || row == nil {
		return nil, false, err
	}
	return row.Keys, true, nil
}

// signerKey finds the public key behind "ed25519:name": a device's, or a cross-signing key named by itself.
func signerKey(r *store.Read, signer event.UserID, name string) (ed25519.PublicKey, error) {
	keys, err := r.CrossSigningKeys(signer)
	if err != nil {
		return nil, err
	}
	for _, body := range keys {
		if publicKey(body) == name {
			return decodeKey(name)
		}
	}
	row, err := r.Device(signer, name)
	if err != nil || row == nil {
		return nil, err
	}
	var k signingKey
	if json.Unmarshal(row.Keys, &k) != nil {
		return nil, nil
	}
	return decodeKey(k.Keys["ed25519:"+name])
}

// publicKey is the one key of a cross-signing key object, in the unpadded base64 that also names it.
func publicKey(body json.RawMessage) string {
	var k signingKey
	if len(body) == 0 || json.Unmarshal(body, &k) != nil {
		return ""
	}
	for _, v := range k.Keys {
		return v
	}
	return ""
}

func decodeKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, refuse(400, "M_INVALID_PARAM", "a key is not an Ed25519 key in base64")
	}
	return b, nil
}

// bare is a signed object without what is not signed.
func bare(raw json.RawMessage) json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return raw
	}
	delete(m, "signatures")
	delete(m, "unsigned")
	b, err := json.Marshal(m)
	if err != nil {
		return raw
	}
	return b
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func contains(list []string, s string) bool { return slices.Contains(list, s) }
