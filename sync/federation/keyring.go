// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

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
	// Fetch gets /_matrix/key/v2/server from a server over a way that proves the server's name: verified TLS, unless the way says otherwise (CameBy). nil: never.
	Fetch func(ctx context.Context, server string) ([]byte, error)
	// Notary asks somebody else who may be believed for a server's keys, and has the ring learn them, when Fetch has failed. nil: there is nobody.
	Notary func(ctx context.Context, server string) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// ClockTrusted says whether Now may be believed; nil means yes. While it may not, no document counts as expired.
	ClockTrusted func() bool
	// Paired gives the key that a paired box has stated under its box key, which pairing made trusted; nil when the server is
	// none or has no such key. A nil function means that there are no paired boxes.
	Paired func(server, keyID string) ed25519.PublicKey
	// Distrusted says that the word of a source on a server's keys does not count any more. nil: nobody's.
	Distrusted func(server, source string) bool
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

// Learn takes in a server's key document that somebody attests: source says who, and is the caller's to vouch for. It checks that the document is
// signed by every key it lists as current.
func (r *KeyRing) Learn(ctx context.Context, doc []byte, source string) error {
	return r.learn(ctx, doc, source, false)
}

// learn is Learn; direct says that the document came from the server itself just now, so that nothing that is known counts against it.
func (r *KeyRing) learn(ctx context.Context, doc []byte, source string, direct bool) error {
	keys, err := readDocument(doc, source, millis(r.c.Now()))
	if err != nil {
		return fmt.Errorf("learn keys: %w", err)
	}
	server := keys[0].Server
	if r.c.Locals.has(server) {
		return errors.New("learn keys: that is our own name")
	}
	if r.c.DB != nil {
		err := r.c.DB.Do(ctx, func(tx *store.Tx) error {
			old, err := tx.ServerKeys(server)
			if err != nil {
				return err
			}
			return tx.SaveServerKeys(merged(old, keys, direct))
		})
		if err != nil {
			return fmt.Errorf("learn keys of %s: %w", server, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.cache[server]
	delete(r.cache, server) // the database has merged; read it again
	r.learnt++
	delete(r.notNow, server)
	if r.c.DB == nil {
		r.cache[server] = joined(old, merged(old, keys, direct))
	}
	return nil
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
			return publicHalf(l.Key), nil
		}
		if k, ok := l.Old[keyID]; ok && at <= k.ExpiredTS {
			return k.Key, nil
		}
		if keyID == l.Delegated.ID && keyID != "" {
			return l.Delegated.Key, nil
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
	if lag := r.lag(known, keyID, at); lag > 0 && r.recent(known) {
		return nil, lagging(server, lag)
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
	if r.askedNotary(ctx, server, keyID) {
		if known, err = r.known(ctx, server); err != nil {
			return nil, err
		}
		if pub := r.pick(known, keyID, at); pub != nil {
			return pub, nil
		}
	}
	if lag := r.lag(known, keyID, at); lag > 0 {
		return nil, lagging(server, lag)
	}
	for _, k := range known {
		if k.KeyID == keyID {
			return nil, fmt.Errorf("key %s of %s is not valid at that time", keyID, server)
		}
	}
	return nil, fmt.Errorf("%s has no key %s", server, keyID)
}

// lag is how far ahead of our clock something is dated that a key would be good for if its document's own word counted for longer: then our clock lags, or the other one leads, and it is not
// for us to say which. 0: that is not so.
func (r *KeyRing) lag(known []store.ServerKey, keyID string, at int64) time.Duration {
	for _, k := range known {
		if now := millis(r.c.Now()); k.KeyID == keyID && k.ExpiredAt == 0 && at > now && at <= k.ValidUntil {
			return time.Duration(at-now) * time.Millisecond
		}
	}
	return 0
}

// recent says whether a document was learnt just now: to fetch it again would tell nothing new.
func (r *KeyRing) recent(known []store.ServerKey) bool {
	now := millis(r.c.Now())
	return slices.ContainsFunc(known, func(k store.ServerKey) bool { return k.ExpiredAt == 0 && now-k.LearntAt < time.Minute.Milliseconds() })
}

// lagging holds what cannot be judged yet.
func lagging(server string, lag time.Duration) error {
	return fmt.Errorf("it is dated %v ahead of this clock, so it waits: is the clock right? (%s; %w)", lag.Round(time.Second), server, ErrKeyUnavailable)
}

// askedNotary asks whoever may be believed for a key that its own server shows no more: one that was set up anew does not list what it signed with before. Not again
// within a minute for the same key. False: there was nothing to learn.
func (r *KeyRing) askedNotary(ctx context.Context, server, keyID string) bool {
	if r.c.Notary == nil {
		return false
	}
	name := server + " " + keyID
	r.mu.Lock()
	until, asked := r.notNow[name]
	if asked = asked && time.Now().Before(until); !asked {
		bound(r.notNow)
		r.notNow[name] = time.Now().Add(notaryAgain)
	}
	r.mu.Unlock()
	return !asked && r.c.Notary(ctx, server) == nil
}

const notaryAgain = time.Minute

func (r *KeyRing) pick(known []store.ServerKey, keyID string, at int64) ed25519.PublicKey {
	for _, k := range known {
		if k.KeyID == keyID && r.believed(k, at) && (r.c.Distrusted == nil || !r.c.Distrusted(k.Server, k.Source)) {
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
		by := way{source: SourceTLS, direct: true}
		raw, err := r.c.Fetch(context.WithValue(ctx, wayKey{}, &by), server)
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
			err = r.learn(ctx, raw, by.source, by.direct)
		}
		if err != nil && r.c.Notary != nil && r.c.Notary(ctx, server) == nil {
			return nil, nil
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

// way is how a document came.
type way struct {
	source string
	direct bool // from the server itself
}

// wayKey finds the way in the context of a request for keys.
type wayKey struct{}

// CameBy is said by whoever takes a request its way: how that proves whose answer it is, as a source of keys, and whether the answer is the server's own (direct) or somebody tells what it
// says. The last word counts. Of requests for anything but keys nobody wants to know. It must not be said by two at once.
func CameBy(ctx context.Context, source string, direct bool) {
	if by, ok := ctx.Value(wayKey{}).(*way); ok {
		*by = way{source, direct}
	}
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

// Reachable forgets that a server did not answer: it is in reach again.
func (r *KeyRing) Reachable(server string) {
	r.mu.Lock()
	delete(r.notNow, server)
	r.mu.Unlock()
}
