// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file is about key documents: ours, and how others' are read and put together.

// keyDocument is the answer of /_matrix/key/v2/server.
// https://spec.matrix.org/v1.16/server-server-api/#publishing-keys
type keyDocument struct {
	ServerName    string                       `json:"server_name"`
	VerifyKeys    map[string]verifyKey         `json:"verify_keys"`
	OldVerifyKeys map[string]oldVerifyKey      `json:"old_verify_keys"`
	ValidUntilTS  int64                        `json:"valid_until_ts"`
	Signatures    map[string]map[string]string `json:"signatures,omitempty"`
}

type verifyKey struct {
	Key string `json:"key"`
}

type oldVerifyKey struct {
	Key       string `json:"key"`
	ExpiredTS int64  `json:"expired_ts"`
}

// ownDocument is our own key document as it was last signed.
type ownDocument struct {
	json  []byte
	at    time.Time
	until int64
	keys  keyDocument
}

// current says whether a document lists the keys that we have now. It need not list a delegated one, whose holder has to sign it, too.
func (d ownDocument) current(l Local) bool {
	keys := 1
	if d.delegates(l) {
		keys = 2
	}
	if d.json == nil || len(d.keys.VerifyKeys) != keys || len(d.keys.OldVerifyKeys) != len(l.Old) {
		return false
	}
	if _, ok := d.keys.VerifyKeys[l.Key.ID]; !ok {
		return false
	}
	for id, k := range l.Old {
		if d.keys.OldVerifyKeys[id].ExpiredTS != k.ExpiredTS {
			return false
		}
	}
	return true
}

// delegates says whether a document lists the delegated key that we have now.
func (d ownDocument) delegates(l Local) bool {
	return l.Delegated.ID != "" && d.keys.VerifyKeys[l.Delegated.ID].Key == base64.RawStdEncoding.EncodeToString(l.Delegated.Key)
}

const sourceOwn = "own" // of our own document in the table of keys, which outlives a restart with an untrusted clock

// lastOwn gives the document that was signed last; r.mu is held.
func (r *KeyRing) lastOwn(l Local) (ownDocument, error) {
	last, ok := r.own[l.Server]
	if ok || r.c.DB == nil {
		return last, nil
	}
	err := r.c.DB.View(context.Background(), func(rd *store.Read) error {
		rows, err := rd.ServerKeys(l.Server)
		for _, k := range rows {
			var doc keyDocument
			if k.Source != sourceOwn || k.ValidUntil <= last.until || json.Unmarshal(k.Document, &doc) != nil {
				continue
			}
			last = ownDocument{json: k.Document, at: time.UnixMilli(k.LearntAt), until: k.ValidUntil, keys: doc}
		}
		return err
	})
	if err != nil {
		return last, fmt.Errorf("read our key document: %w", err)
	}
	r.own[l.Server] = last
	return last, nil
}

// keepOwn remembers a document that was signed now; r.mu is held. A power cut may take it back: another is as good.
func (r *KeyRing) keepOwn(l Local, d ownDocument) {
	r.own[l.Server] = d
	if r.c.DB == nil {
		return
	}
	row := store.ServerKey{Server: l.Server, KeyID: l.Key.ID, Key: publicHalf(l.Key), ValidUntil: d.until, LearntAt: millis(d.at), Source: sourceOwn, Document: d.json}
	r.c.DB.Lazy(func(tx *store.Tx) error { return tx.SaveServerKeys([]store.ServerKey{row}) })
}

// Document gives the signed key document of one of our names, signed afresh once a day. While the clock is not trusted the last one is kept.
func (r *KeyRing) Document(l Local) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.c.Now()
	last, err := r.lastOwn(l)
	if err != nil {
		return nil, err
	}
	if last.current(l) && (r.fresh(last, now) || last.delegates(l) && last.until-millis(now) > cosignedLeft.Milliseconds()) {
		return last.json, nil
	}
	d, err := r.signedNow(l, last, now, false)
	if err != nil {
		return nil, err
	}
	r.keepOwn(l, d)
	return d.json, nil
}

// fresh says whether a document need not be signed anew.
func (r *KeyRing) fresh(d ownDocument, now time.Time) bool {
	return now.Sub(d.at) < ownRenewal && !now.Before(d.at) || !r.c.ClockTrusted()
}

// signedNow is a document that we have signed; with the delegated key in it, it counts for nobody before the holder of that has signed it, too.
func (r *KeyRing) signedNow(l Local, last ownDocument, now time.Time, delegated bool) (ownDocument, error) {
	until := millis(now.Add(ownValidity))
	if !r.c.ClockTrusted() { // now lags: what was promised stays promised
		until = max(until, last.until)
	}
	doc := keyDocument{
		ServerName:    l.Server,
		VerifyKeys:    map[string]verifyKey{l.Key.ID: {Key: base64.RawStdEncoding.EncodeToString(publicHalf(l.Key))}},
		OldVerifyKeys: map[string]oldVerifyKey{},
		ValidUntilTS:  until,
	}
	for id, k := range l.Old {
		doc.OldVerifyKeys[id] = oldVerifyKey{Key: base64.RawStdEncoding.EncodeToString(k.Key), ExpiredTS: k.ExpiredTS}
	}
	if delegated {
		doc.VerifyKeys[l.Delegated.ID] = verifyKey{Key: base64.RawStdEncoding.EncodeToString(l.Delegated.Key)}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return ownDocument{}, fmt.Errorf("make key document: %w", err)
	}
	signed, err := event.SignJSON(raw, l.Server, l.Key)
	if err != nil {
		return ownDocument{}, fmt.Errorf("make key document: %w", err)
	}
	return ownDocument{json: signed, at: now, until: until, keys: doc}, nil
}

// readDocument checks a document and gives its keys. now, in milliseconds, is when they are learnt.
func readDocument(raw []byte, source string, now int64) ([]store.ServerKey, error) {
	if len(raw) > maxKeyDoc {
		return nil, errors.New("document too long")
	}
	var doc keyDocument
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	if !event.ValidServerName(doc.ServerName) {
		return nil, errors.New("document without a server name")
	}
	if len(doc.VerifyKeys) == 0 {
		return nil, errors.New("document without a current key")
	}
	var keys []store.ServerKey
	for id, k := range doc.VerifyKeys {
		if !strings.HasPrefix(id, "ed25519:") {
			continue // algorithms we do not know sign nothing for us
		}
		pub, err := publicKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", id, err)
		}
		if err := event.VerifyJSON(raw, doc.ServerName, id, pub); err != nil {
			return nil, fmt.Errorf("document not signed by its own key %s: %w", id, err)
		}
		keys = append(keys, store.ServerKey{
			Server: doc.ServerName, KeyID: id, Key: pub, ValidUntil: doc.ValidUntilTS, LearntAt: now, Source: source, Document: raw,
		})
	}
	if len(keys) == 0 {
		return nil, errors.New("document without an ed25519 key")
	}
	for id, k := range doc.OldVerifyKeys {
		pub, err := publicKey(k.Key)
		if err != nil || !strings.HasPrefix(id, "ed25519:") || k.ExpiredTS <= 0 {
			continue
		}
		if _, twice := doc.VerifyKeys[id]; twice {
			continue // it is in use
		}
		keys = append(keys, store.ServerKey{
			Server: doc.ServerName, KeyID: id, Key: pub, ValidUntil: doc.ValidUntilTS, ExpiredAt: k.ExpiredTS, LearntAt: now, Source: source,
		})
	}
	return keys, nil
}

func publicHalf(k event.Key) ed25519.PublicKey {
	pub, _ := k.Private.Public().(ed25519.PublicKey)
	return pub
}

func publicKey(text string) (ed25519.PublicKey, error) {
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, errors.New("not base64")
	}
	if len(b) != ed25519.PublicKeySize {
		return nil, errors.New("not 32 bytes")
	}
	return b, nil
}

// merged gives the rows that a document changes. What the server itself has said just now (direct) counts for all. What others attest
// counts unless a newer document of the server is known: whoever replays an old one brings no retired key back. A document that only a
// notary gave counts as much when a key that we know from a better source has signed it, as then the server made it; otherwise it stays
// out of the way of what better sources have told.
func merged(old, keys []store.ServerKey, direct bool) []store.ServerKey {
	known := map[string]store.ServerKey{}
	for _, o := range old {
		known[o.KeyID] = o
	}
	notary := strings.HasPrefix(keys[0].Source, SourceNotary)
	voucher := "" // the source of the known key that signed
	for _, k := range keys {
		o := known[k.KeyID]
		if k.ExpiredAt == 0 && o.ExpiredAt == 0 && bytes.Equal(o.Key, k.Key) && !strings.HasPrefix(o.Source, SourceNotary) {
			voucher = o.Source
		}
	}
	var out []store.ServerKey
	for _, k := range keys {
		o, is := known[k.KeyID]
		better := is && !strings.HasPrefix(o.Source, SourceNotary)
		switch {
		case notary && better && voucher == "", is && !direct && k.ValidUntil < o.ValidUntil && (better || notary):
			continue
		case notary && voucher != "":
			k.Source = voucher
		}
		k.LearntAt = max(k.LearntAt, o.LearntAt)
		out = append(out, k)
	}
	return out
}

// joined is what is known after some rows have changed.
func joined(old, changed []store.ServerKey) []store.ServerKey {
	out := slices.DeleteFunc(slices.Clone(old), func(o store.ServerKey) bool {
		return slices.ContainsFunc(changed, func(c store.ServerKey) bool { return c.KeyID == o.KeyID })
	})
	return append(out, changed...)
}

// CheckDocument says whether a key document is a server's, signed by every key that it lists as current.
func CheckDocument(raw []byte, server string) error {
	keys, err := readDocument(raw, "", 0)
	if err == nil && keys[0].Server != server {
		err = errors.New("the document is another server's")
	}
	return err
}
