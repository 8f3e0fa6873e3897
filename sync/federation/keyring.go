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
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Sources of a key document. What follows the colon of SourceBox is the box's id.
const (
	SourceTLS  = "tls"   // fetched from the server itself over verified TLS
	SourceBox  = "box:"  // attested by a paired box
	SourceRoot = "root:" // certified by the organisation's root key
	// SourceNotary: by the word of the server that gave us something to verify, while the key's own server is out of reach. Such a key never
	// takes the place of one from the other sources, and gives way to them.
	SourceNotary = "notary:"
)

const (
	ownValidity = 365 * 24 * time.Hour // of our own document: a box may be away for long
	ownRenewal  = 24 * time.Hour
	maxValidity = 7 * 24 * time.Hour // of others', from each attestation on
	maxKeyDoc   = 64 << 10
	askAgain    = 2 * time.Second // after a server had no answer
)

// ErrKeyUnavailable says that a key could not be had now (the server is away, or knows no such key at this moment). What
// it would verify is neither good nor bad: keep it and try again.
var ErrKeyUnavailable = errors.New("key is not available now")

// KeyRingConfig is what a KeyRing needs.
type KeyRingConfig struct {
	// Locals are the names whose keys are our own.
	Locals Locals
	DB     *store.DB // where learnt documents live; nil keeps them in memory only
	// Fetch gets /_matrix/key/v2/server from a server over a way that proves the server's name (verified TLS). nil: never.
	Fetch func(ctx context.Context, server string) ([]byte, error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// ClockTrusted says whether Now may be believed; nil means yes. While it may not, no document counts as expired.
	ClockTrusted func() bool
	// Paired gives the key that a paired box has stated under its box key, which pairing made trusted; nil when the server is
	// none or has no such key. A nil function means that there are no paired boxes.
	Paired func(server, keyID string) ed25519.PublicKey
}

// OldKey is a retired verify key.
type OldKey struct {
	Key       ed25519.PublicKey
	ExpiredTS int64
}

// KeyRing knows the signing keys of servers, where it has them from and until when they may be believed. Safe for
// concurrent use.
type KeyRing struct {
	c     KeyRingConfig
	group singleflight.Group

	mu     sync.Mutex
	learnt uint64                       // counts documents learnt, so that an older reading never covers a newer one
	own    map[string]ownDocument       // by our own names
	cache  map[string][]store.ServerKey // by server
	notNow map[string]time.Time         // servers that gave no document, until when they are left alone
	asked  map[[2]string]time.Time      // notary and server, by when
}

// ownDocument is our own key document as it was last signed.
type ownDocument struct {
	key  string // id of the key that signed it
	json []byte
	at   time.Time
}

// NewKeyRing returns a ring that knows our own keys.
func NewKeyRing(c KeyRingConfig) *KeyRing {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.ClockTrusted == nil {
		c.ClockTrusted = func() bool { return true }
	}
	return &KeyRing{c: c, own: map[string]ownDocument{}, cache: map[string][]store.ServerKey{}, notNow: map[string]time.Time{}, asked: map[[2]string]time.Time{}}
}

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

// Document gives the signed key document of one of our names, signed afresh once a day. While the clock is not trusted the last one is kept.
func (r *KeyRing) Document(l Local) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.c.Now()
	last := r.own[l.Server]
	fresh := now.Sub(last.at) < ownRenewal && !now.Before(last.at)
	if last.key == l.Key.ID && (fresh || !r.c.ClockTrusted()) {
		return last.json, nil
	}
	pub, _ := l.Key.Private.Public().(ed25519.PublicKey)
	doc := keyDocument{
		ServerName:    l.Server,
		VerifyKeys:    map[string]verifyKey{l.Key.ID: {Key: base64.RawStdEncoding.EncodeToString(pub)}},
		OldVerifyKeys: map[string]oldVerifyKey{},
		ValidUntilTS:  millis(now.Add(ownValidity)),
	}
	for id, k := range l.Old {
		doc.OldVerifyKeys[id] = oldVerifyKey{Key: base64.RawStdEncoding.EncodeToString(k.Key), ExpiredTS: k.ExpiredTS}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("make key document: %w", err)
	}
	signed, err := event.SignJSON(raw, l.Server, l.Key)
	if err != nil {
		return nil, fmt.Errorf("make key document: %w", err)
	}
	r.own[l.Server] = ownDocument{l.Key.ID, signed, now}
	return signed, nil
}

// Learn takes in a server's key document that came from source. It checks that the document is signed by every key it
// lists as current; the source is the caller's to vouch for.
func (r *KeyRing) Learn(ctx context.Context, doc []byte, source string) error {
	keys, err := r.readDocument(doc, source)
	if err != nil {
		return fmt.Errorf("learn keys: %w", err)
	}
	server := keys[0].Server
	if r.c.Locals.has(server) {
		return errors.New("learn keys: that is our own name")
	}
	if r.c.DB != nil {
		err := r.c.DB.Do(ctx, func(tx *store.Tx) error { return tx.SaveServerKeys(keys) })
		if err != nil {
			return fmt.Errorf("learn keys of %s: %w", server, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cache, server) // the database merges; read it again
	r.learnt++
	delete(r.notNow, server)
	if r.c.DB == nil {
		r.cache[server] = keys
	}
	return nil
}

// readDocument checks a document and gives its keys, with the validity that they have for us.
func (r *KeyRing) readDocument(raw []byte, source string) ([]store.ServerKey, error) {
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
	now := r.c.Now()
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
			Server: doc.ServerName, KeyID: id, Key: pub, ValidUntil: doc.ValidUntilTS, LearntAt: millis(now), Source: source, Document: raw,
		})
	}
	if len(keys) == 0 {
		return nil, errors.New("document without an ed25519 key")
	}
	for id, k := range doc.OldVerifyKeys {
		pub, err := publicKey(k.Key)
		if err != nil || !strings.HasPrefix(id, "ed25519:") {
			continue
		}
		keys = append(keys, store.ServerKey{
			Server: doc.ServerName, KeyID: id, Key: pub, ExpiredAt: k.ExpiredTS, LearntAt: millis(now), Source: source,
		})
	}
	return keys, nil
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

// believed says whether k may verify something dated at (milliseconds). at 0 asks for any time: rooms of old
// versions do not bind events to the key's validity.
func (r *KeyRing) believed(k store.ServerKey, at int64) bool {
	if k.ExpiredAt != 0 {
		return at <= k.ExpiredAt
	}
	if at == 0 || !r.c.ClockTrusted() {
		return true
	}
	// A document's own date counts at most 7 days past its last attestation.
	// https://spec.matrix.org/v1.16/server-server-api/#publishing-keys
	until := min(k.ValidUntil, k.LearntAt+maxValidity.Milliseconds())
	return at <= until
}

// Key gives the key of a server that is good for something dated at (milliseconds; 0: any time). It answers from what
// is known and asks the server otherwise. ErrKeyUnavailable: keep the matter and try again later.
func (r *KeyRing) Key(ctx context.Context, server, keyID string, at int64) (ed25519.PublicKey, error) {
	if r.c.Paired != nil {
		if key := r.c.Paired(server, keyID); key != nil {
			return key, nil
		}
	}
	if l, own := r.c.Locals(server); own {
		if keyID == l.Key.ID {
			pub, _ := l.Key.Private.Public().(ed25519.PublicKey)
			return pub, nil
		}
		if k, ok := l.Old[keyID]; ok && at <= k.ExpiredTS {
			return k.Key, nil
		}
		return nil, fmt.Errorf("key %s is none of ours", keyID)
	}
	known, err := r.known(ctx, server)
	if err != nil {
		return nil, err
	}
	if pub := r.pick(known, keyID, at); pub != nil {
		return pub, nil
	}
	if err := r.fetch(ctx, server); err != nil {
		return nil, fmt.Errorf("key %s of %s: %w: %w", keyID, server, ErrKeyUnavailable, err)
	}
	if known, err = r.known(ctx, server); err != nil {
		return nil, err
	}
	if pub := r.pick(known, keyID, at); pub != nil {
		return pub, nil
	}
	for _, k := range known {
		if k.KeyID == keyID {
			return nil, fmt.Errorf("key %s of %s is not valid at that time", keyID, server)
		}
	}
	return nil, fmt.Errorf("%s has no key %s", server, keyID)
}

func (r *KeyRing) pick(known []store.ServerKey, keyID string, at int64) ed25519.PublicKey {
	for _, k := range known {
		if k.KeyID == keyID && r.believed(k, at) {
			return k.Key
		}
	}
	return nil
}

func (r *KeyRing) known(ctx context.Context, server string) ([]store.ServerKey, error) {
	r.mu.Lock()
	keys, ok := r.cache[server]
	learnt := r.learnt
	r.mu.Unlock()
	if ok || r.c.DB == nil {
		return keys, nil
	}
	err := r.c.DB.View(ctx, func(rd *store.Read) (err error) {
		keys, err = rd.ServerKeys(server)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look up keys of %s: %w", server, err)
	}
	r.remember(server, keys, learnt)
	return keys, nil
}

// remember caches what was read of a server when learnt documents had been learnt. If another has come since, the
// reading may be older than it, and is not kept.
func (r *KeyRing) remember(server string, keys []store.ServerKey, learnt uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.learnt == learnt {
		bound(r.cache)
		r.cache[server] = keys
	}
}

// fetch asks the server itself, once for all who ask at the same time, and not again within askAgain of a failure.
func (r *KeyRing) fetch(ctx context.Context, server string) error {
	if r.c.Fetch == nil {
		return errors.New("no way to ask for keys")
	}
	r.mu.Lock()
	until, failed := r.notNow[server]
	r.mu.Unlock()
	if failed && time.Now().Before(until) {
		return errors.New("the server did not answer a moment ago")
	}
	_, err, _ := r.group.Do(server, func() (any, error) {
		began := time.Now()
		raw, err := r.c.Fetch(ctx, server)
		if err == nil && !bytes.Contains(raw, []byte(server)) {
			err = errors.New("the document is another server's")
		}
		if err == nil {
			var doc keyDocument
			if err = json.Unmarshal(raw, &doc); err == nil && doc.ServerName != server {
				err = errors.New("the document is another server's")
			}
		}
		if err == nil {
			err = r.Learn(ctx, raw, SourceTLS)
		}
		if err != nil {
			r.mu.Lock()
			bound(r.notNow)
			r.notNow[server] = time.Now().Add(askAgain + 2*time.Since(began)) // a server that lets us wait is not asked for each event anew
			r.mu.Unlock()
		}
		return nil, err
	})
	return err
}

// maxRemembered is how many entries about other servers are kept in memory by one table.
const maxRemembered = 10_000

// bound empties a full table before one more entry: its keys are names that strangers send before anything is verified,
// and what was lost is asked for again.
func bound[K comparable, V any](m map[K]V) {
	if len(m) >= maxRemembered {
		clear(m)
	}
}

// mayNotarise bounds how often one server is asked for the keys of another.
func (r *KeyRing) mayNotarise(giver, server string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.c.Now()
	key := [2]string{giver, server}
	if last, ok := r.asked[key]; ok && now.Sub(last).Abs() < 15*askAgain {
		return false
	}
	bound(r.asked)
	r.asked[key] = now
	return true
}

// Reachable forgets that a server did not answer: it is in reach again.
func (r *KeyRing) Reachable(server string) {
	r.mu.Lock()
	delete(r.notNow, server)
	r.mu.Unlock()
}

// Documents gives the last document of a server as it was learnt, for those who ask us about it; nil when unknown.
func (r *KeyRing) Documents(ctx context.Context, server string) ([][]byte, error) {
	if l, own := r.c.Locals(server); own {
		doc, err := r.Document(l)
		return [][]byte{doc}, err
	}
	keys, err := r.known(ctx, server)
	if err != nil {
		return nil, err
	}
	var docs [][]byte
	seen := map[string]bool{}
	for _, k := range keys {
		if len(k.Document) > 0 && !seen[string(k.Document)] {
			seen[string(k.Document)] = true
			docs = append(docs, k.Document)
		}
	}
	return docs, nil
}
