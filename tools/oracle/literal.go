// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// This file and its neighbours law.go and resolution.go are the specification once more: literal, slow, on decoded JSON, with types of
// their own and nothing of the product. They were written from the text of the specification, and where ours and these differ,
// one of the two has a fault.

// object is a decoded JSON object. Numbers are json.Number, as they were written.
type object = map[string]any

// lit is an event as the transcription sees it.
type lit struct {
	version  int
	id       string
	raw      object
	room     string
	sender   string
	typ      string
	key      *string
	content  object
	prev     []string
	auth     []string
	ts       int64
	rejected bool
}

func decode(b []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var o object
	err := d.Decode(&o)
	return o, err
}

// readLit takes an event that is already known to be well formed.
func readLit(version int, raw object) *lit {
	e := &lit{version: version, raw: raw}
	e.id = litID(version, raw)
	e.sender, _ = raw["sender"].(string)
	e.typ, _ = raw["type"].(string)
	e.content, _ = raw["content"].(object)
	if k, ok := raw["state_key"].(string); ok {
		e.key = &k
	}
	if e.room, _ = raw["room_id"].(string); e.room == "" {
		e.room = "!" + e.id[1:]
	}
	texts := func(v any) (out []string) {
		list, _ := v.([]any)
		for _, x := range list {
			s, _ := x.(string)
			out = append(out, s)
		}
		return out
	}
	e.prev, e.auth = texts(raw["prev_events"]), texts(raw["auth_events"])
	n, _ := raw["origin_server_ts"].(json.Number)
	e.ts, _ = n.Int64()
	return e
}

// litCanonical writes canonical JSON. https://spec.matrix.org/v1.16/appendices/#canonical-json
func litCanonical(v any) []byte {
	var b bytes.Buffer
	var write func(v any)
	text := func(s string) {
		b.WriteByte('"')
		for _, r := range s {
			switch {
			case r == '"' || r == '\\':
				b.WriteByte('\\')
				b.WriteRune(r)
			case r == '\b':
				b.WriteString(`\b`)
			case r == '\t':
				b.WriteString(`\t`)
			case r == '\n':
				b.WriteString(`\n`)
			case r == '\f':
				b.WriteString(`\f`)
			case r == '\r':
				b.WriteString(`\r`)
			case r < 0x20:
				fmt.Fprintf(&b, `\u%04x`, r)
			default:
				b.WriteRune(r)
			}
		}
		b.WriteByte('"')
	}
	write = func(v any) {
		switch v := v.(type) {
		case nil:
			b.WriteString("null")
		case bool:
			fmt.Fprint(&b, v)
		case json.Number:
			b.WriteString(v.String())
		case int, int64:
			fmt.Fprint(&b, v)
		case string:
			text(v)
		case []any:
			b.WriteByte('[')
			for i, x := range v {
				if i > 0 {
					b.WriteByte(',')
				}
				write(x)
			}
			b.WriteByte(']')
		case object:
			b.WriteByte('{')
			for i, k := range slices.Sorted(maps.Keys(v)) { // Go orders strings by their bytes, which is the order of code points
				if i > 0 {
					b.WriteByte(',')
				}
				text(k)
				b.WriteByte(':')
				write(v[k])
			}
			b.WriteByte('}')
		default:
			panic(fmt.Sprintf("no JSON: %T", v))
		}
	}
	write(v)
	return b.Bytes()
}

// litRedact strips an event. https://spec.matrix.org/v1.16/rooms/v11/#redactions and its forerunners.
func litRedact(version int, raw object) object {
	keep := []string{"event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures", "depth", "prev_events", "auth_events", "origin_server_ts"}
	if version < 11 {
		keep = append(keep, "prev_state", "origin", "membership")
	}
	out := object{}
	for _, k := range keep {
		if v, ok := raw[k]; ok {
			out[k] = v
		}
	}
	old, _ := raw["content"].(object)
	content := object{}
	allow := func(keys ...string) {
		for _, k := range keys {
			if v, ok := old[k]; ok {
				content[k] = v
			}
		}
	}
	switch raw["type"] {
	case "m.room.member":
		allow("membership")
		if version >= 9 {
			allow("join_authorised_via_users_server")
		}
		if version >= 11 {
			if invite, ok := old["third_party_invite"].(object); ok {
				kept := object{}
				if signed, ok := invite["signed"]; ok {
					kept["signed"] = signed
				}
				content["third_party_invite"] = kept
			}
		}
	case "m.room.create":
		allow("creator")
		if version >= 11 {
			content = old
		}
	case "m.room.join_rules":
		allow("join_rule")
		if version >= 8 {
			allow("allow")
		}
	case "m.room.power_levels":
		allow("ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default")
		if version >= 11 {
			allow("invite")
		}
	case "m.room.aliases":
		if version < 6 {
			allow("aliases")
		}
	case "m.room.history_visibility":
		allow("history_visibility")
	case "m.room.redaction":
		if version >= 11 {
			allow("redacts")
		}
	}
	out["content"] = content
	return out
}

func dropped(o object, keys ...string) object {
	o = maps.Clone(o)
	for _, k := range keys {
		delete(o, k)
	}
	return o
}

// litContentHash: https://spec.matrix.org/v1.16/server-server-api/#calculating-the-content-hash-for-an-event
func litContentHash(raw object) [32]byte {
	return sha256.Sum256(litCanonical(dropped(raw, "unsigned", "signatures", "hashes")))
}

// litEssential is what the reference hash and the signatures cover.
func litEssential(version int, raw object) []byte {
	return litCanonical(dropped(litRedact(version, raw), "signatures", "unsigned"))
}

// litID: https://spec.matrix.org/v1.16/rooms/v3/#event-ids and https://spec.matrix.org/v1.16/rooms/v4/#event-ids
func litID(version int, raw object) string {
	h := sha256.Sum256(litEssential(version, raw))
	if version == 3 {
		return "$" + base64.RawStdEncoding.EncodeToString(h[:])
	}
	return "$" + base64.RawURLEncoding.EncodeToString(h[:])
}

func litHashOK(raw object) bool {
	hashes, _ := raw["hashes"].(object)
	s, _ := hashes["sha256"].(string)
	h := litContentHash(raw)
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	return err == nil && bytes.Equal(b, h[:])
}

// seal hashes and signs an event in place. https://spec.matrix.org/v1.16/server-server-api/#signing-events
func seal(version int, raw object, signers ...*server) {
	h := litContentHash(raw)
	raw["hashes"] = object{"sha256": base64.RawStdEncoding.EncodeToString(h[:])}
	sigs := object{}
	for _, s := range signers {
		sig := ed25519.Sign(s.private, litEssential(version, raw))
		sigs[s.name] = object{s.keyID: base64.RawStdEncoding.EncodeToString(sig)}
	}
	raw["signatures"] = sigs
}

// signObject: https://spec.matrix.org/v1.16/appendices/#signing-details
func signObject(o object, s *server) {
	sig := ed25519.Sign(s.private, litCanonical(dropped(o, "signatures", "unsigned")))
	o["signatures"] = object{s.name: object{s.keyID: base64.RawStdEncoding.EncodeToString(sig)}}
}

// litSigned tells whether the server's signature is there and right.
func litSigned(e *lit, name string, keys map[string]*server) bool {
	sigs, _ := e.raw["signatures"].(object)
	of, _ := sigs[name].(object)
	s := keys[name]
	if s == nil {
		return false
	}
	text, _ := of[s.keyID].(string)
	sig, err := base64.RawStdEncoding.DecodeString(text)
	return err == nil && ed25519.Verify(s.public, litEssential(e.version, e.raw), sig)
}
