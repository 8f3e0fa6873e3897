// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

// Create is the content of m.room.create.
type Create struct {
	Creator     event.UserID   // of versions before 12: who has power 100 before there are power levels
	Creators    []event.UserID // since version 12: who stands above all power levels
	Federate    bool
	RoomVersion string // "" if it does not say
	Predecessor event.RoomID

	noCreator  bool // content.creator is missing
	badVersion bool // content.room_version is not a text
}

// Member is the content of m.room.member.
type Member struct {
	Membership string
	Authorised event.UserID  // join_authorised_via_users_server
	ThirdParty *SignedInvite // nil: no third_party_invite

	hasAuthorised bool
}

// SignedInvite is what a third-party invite proves: that an identity server bound a token to a user.
type SignedInvite struct {
	User  string // mxid
	Token string

	complete bool // there is a signed object with the texts mxid and token
	signed   []byte
	sigs     []signedBy
}

type signedBy struct{ server, key string }

// JoinRules is the content of m.room.join_rules.
type JoinRules struct {
	JoinRule string
	Allow    []event.RoomID // rooms whose members may join; the only kind of condition there is
}

// ThirdPartyInvite is the content of m.room.third_party_invite.
type ThirdPartyInvite struct{ Keys []ed25519.PublicKey }

// PowerLevels is the content of m.room.power_levels, with defaults filled in.
type PowerLevels struct {
	Ban, Invite, Kick, Redact                 int64
	UsersDefault, EventsDefault, StateDefault int64

	Users                 map[event.UserID]int64
	Events, Notifications map[string]int64

	present uint // bit i: levelNames[i] is there
}

var levelNames = [...]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

func (p *PowerLevels) level(i int) *int64 {
	return [...]*int64{&p.UsersDefault, &p.EventsDefault, &p.StateDefault, &p.Ban, &p.Redact, &p.Kick, &p.Invite}[i]
}

// Thin makes the record of an event that the law works on. An error says that the law calls the content invalid: such an event must
// be rejected. Content of a draft need not be canonical.
func Thin(p *event.PDU) (*Event, error) {
	e := &Event{ID: p.ID, Version: p.Version, Room: p.RoomID, Sender: p.Sender, Type: p.Type, TS: p.TS, Depth: p.Depth, Prev: p.Prev, Auth: p.Auth,
		Redacts: p.Redacts}
	if p.StateKey != nil {
		e.key = *p.StateKey
		e.StateKey = &e.key
	}
	var read func(*Event, []byte) error
	switch p.Type {
	case typeCreate:
		read = readCreate
	case typeMember:
		read = readMember
	case typePower:
		read = readPower
	case typeJoinRules:
		read = readJoinRules
	case typeThirdParty:
		read = readThirdParty
	case typeHistory:
		read = func(e *Event, content []byte) error {
			val, _ := event.Field(content, "history_visibility")
			e.HistoryVisibility, _ = event.Text(val)
			return nil
		}
	default:
		return e, nil
	}
	content, err := p.Version.Canonical(p.Content)
	if err == nil && content[0] != '{' {
		err = errors.New("is no object")
	}
	if err != nil {
		return nil, fmt.Errorf("content of %s: %w", p.Type, err)
	}
	if err := read(e, content); err != nil {
		return nil, fmt.Errorf("content of %s: %w", p.Type, err)
	}
	return e, nil
}

func readCreate(e *Event, content []byte) error {
	v := e.Version
	c := &Create{Creator: e.Sender, Federate: true, noCreator: v.CreatorInContent}
	if v.Creators {
		c.Creators = []event.UserID{e.Sender}
	}
	var err error
	event.Each(content, func(key, val []byte) bool {
		switch string(key) {
		case "creator":
			if v.CreatorInContent {
				c.noCreator = false
				s, _ := event.Text(val)
				c.Creator = event.UserID(s)
			}
		case "m.federate":
			c.Federate = string(val) != "false"
		case "room_version":
			var ok bool
			c.RoomVersion, ok = event.Text(val)
			c.badVersion = !ok
		case "predecessor":
			id, _ := event.Field(val, "room_id")
			s, _ := event.Text(id)
			c.Predecessor = event.RoomID(s)
		case "additional_creators":
			if !v.Creators {
				break
			}
			if !event.Elements(val, func(val []byte) bool {
				s, ok := event.Text(val)
				if !ok {
					err = errors.New("additional_creators must be user ids")
					return false
				}
				var u event.UserID
				if u, err = event.ParseUserID(s); err != nil {
					err = fmt.Errorf("additional_creators: %w", err)
					return false
				}
				c.Creators = append(c.Creators, u)
				return true
			}) {
				err = errors.New("additional_creators is no list")
			}
		}
		return err == nil
	})
	e.Create = c
	return err
}

func readMember(e *Event, content []byte) error {
	m := &Member{}
	e.Member = m
	event.Each(content, func(key, val []byte) bool {
		switch string(key) {
		case "membership":
			m.Membership = word(val)
		case "join_authorised_via_users_server":
			s, _ := event.Text(val)
			m.Authorised, m.hasAuthorised = event.UserID(s), true
		case "third_party_invite":
			m.ThirdParty = readSigned(val)
		}
		return true
	})
	return nil
}

// word reads a text that is nearly always one of few, without making a new string for these.
func word(val []byte) string {
	for _, w := range [...]string{`"join"`, `"leave"`, `"invite"`, `"ban"`, `"knock"`} {
		if string(val) == w {
			return w[1 : len(w)-1]
		}
	}
	s, _ := event.Text(val)
	return s
}

func readSigned(val []byte) *SignedInvite {
	s := &SignedInvite{}
	signed, ok := event.Field(val, "signed")
	if !ok {
		return s
	}
	mxid, _ := event.Field(signed, "mxid")
	token, _ := event.Field(signed, "token")
	var okUser, okToken bool
	s.User, okUser = event.Text(mxid)
	s.Token, okToken = event.Text(token)
	s.complete = okUser && okToken
	s.signed = append([]byte(nil), signed...)
	sigs, _ := event.Field(signed, "signatures")
	event.Each(sigs, func(server, keys []byte) bool {
		name := string(server)
		event.Each(keys, func(id, _ []byte) bool {
			s.sigs = append(s.sigs, signedBy{name, string(id)})
			return len(s.sigs) < 16
		})
		return len(s.sigs) < 16 // each signature is tried with each key: no reason for more
	})
	return s
}

// verify tells whether any of the signatures is by any of the keys.
func (s *SignedInvite) verify(keys []ed25519.PublicKey) bool {
	for _, pub := range keys {
		for _, by := range s.sigs {
			if event.VerifyJSON(s.signed, by.server, by.key, pub) == nil {
				return true
			}
		}
	}
	return false
}

func readThirdParty(e *Event, content []byte) error {
	t := &ThirdPartyInvite{}
	e.ThirdParty = t
	add := func(val []byte) {
		s, _ := event.Text(val)
		s = strings.TrimRight(s, "=")
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} { // both alphabets are allowed
			if b, err := enc.DecodeString(s); err == nil && len(b) == ed25519.PublicKeySize && len(t.Keys) < 16 {
				t.Keys = append(t.Keys, b)
				return
			}
		}
	}
	if val, ok := event.Field(content, "public_key"); ok {
		add(val)
	}
	list, _ := event.Field(content, "public_keys")
	event.Elements(list, func(val []byte) bool {
		if key, ok := event.Field(val, "public_key"); ok {
			add(key)
		}
		return true
	})
	return nil
}

func readJoinRules(e *Event, content []byte) error {
	j := &JoinRules{JoinRule: "invite"}
	e.JoinRules = j
	event.Each(content, func(key, val []byte) bool {
		switch string(key) {
		case "join_rule":
			j.JoinRule, _ = event.Text(val)
		case "allow":
			event.Elements(val, func(val []byte) bool {
				typ, _ := event.Field(val, "type")
				room, _ := event.Field(val, "room_id")
				if s, ok := event.Text(room); ok && string(typ) == `"m.room_membership"` {
					j.Allow = append(j.Allow, event.RoomID(s))
				}
				return true
			})
		}
		return true
	})
	return nil
}

func readPower(e *Event, content []byte) (err error) {
	p := &PowerLevels{StateDefault: 50, Ban: 50, Redact: 50, Kick: 50}
	e.Power = p
	event.Each(content, func(key, val []byte) bool {
		switch name := string(key); name {
		case "users":
			p.Users = make(map[event.UserID]int64)
			err = levels(e.Version, val, func(key string, n int64) error {
				u, err := event.ParseUserID(key)
				p.Users[u] = n
				return err
			})
		case "events":
			p.Events, err = levelMap(e.Version, val)
		case "notifications":
			if e.Version.NotifyLevels {
				p.Notifications, err = levelMap(e.Version, val)
			}
		default:
			for i, l := range levelNames {
				if l == name {
					p.present |= 1 << i
					*p.level(i), err = level(e.Version, val)
				}
			}
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", key, err)
		}
		return err == nil
	})
	return err
}

func levelMap(v *event.Version, val []byte) (map[string]int64, error) {
	m := make(map[string]int64)
	return m, levels(v, val, func(key string, n int64) error {
		m[key] = n
		return nil
	})
}

func levels(v *event.Version, val []byte, f func(string, int64) error) (err error) {
	if !event.Each(val, func(key, val []byte) bool {
		var n int64
		if n, err = level(v, val); err == nil {
			err = f(string(key), n)
		}
		return err == nil
	}) {
		return errors.New("is no object")
	}
	return err
}

var errLevel = errors.New("a power level must be an integer")

// level reads a power level: an integer; up to version 9 also a text that spells one; up to version 5 also a float, which is cut off. What 64 bits
// do not hold becomes the most that they do.
// https://spec.matrix.org/v1.16/rooms/v1/#deprecated-event-content-schemas
func level(v *event.Version, val []byte) (int64, error) {
	if n, ok := event.Int(val); ok {
		return n, nil
	}
	if s, ok := event.Text(val); ok && !v.IntegerLevels {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return 0, errLevel
		}
		return n, nil
	}
	if v.FloatLevels && (val[0] == '-' || val[0] >= '0' && val[0] <= '9') {
		f, err := strconv.ParseFloat(string(val), 64)
		if err != nil {
			return 0, errLevel
		}
		switch {
		case f >= 1<<63:
			return math.MaxInt64, nil
		case f <= -1<<63:
			return math.MinInt64, nil
		}
		return int64(f), nil
	}
	return 0, errLevel
}
