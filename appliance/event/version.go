// SPDX-License-Identifier: EUPL-1.2

package event

// Where event ids come from.
const (
	idInEvent  = iota // versions 1, 2: "$opaque:server", a field of the event
	idStandard        // version 3: reference hash in base64
	idURLSafe         // version 4 and later: the same in the URL-safe alphabet
)

// Version is one row of the table of room versions: everything in which they differ.
// https://spec.matrix.org/v1.16/rooms/
type Version struct {
	ID       string
	Readable bool // only readable: events can be parsed, named and redacted, but we take no part in such rooms
	StateRes int  // 1, 2, 21 for 2.1

	StrictJSON       bool // canonical JSON is enforced: integers in +-(2^53-1)
	KeyValidity      bool // signing keys must have been valid at origin_server_ts
	CreateIsRoomID   bool // the room id is the create event's hash; it is never an auth event
	Creators         bool // creators stand above all power levels; additional_creators
	CreatorInContent bool // create events must have content.creator, and it is the creator
	RedactsInContent bool // redactions name their target in the content
	RedactionRule    bool // redactions are judged by the authorisation rules
	AliasesRule      bool // m.room.aliases is judged by its own rule
	NotifyLevels     bool // changes of content.notifications need power
	Knock            bool
	Restricted       bool // join rule restricted
	KnockRestricted  bool
	IntegerLevels    bool // power levels must be integers
	FloatLevels      bool // power levels may be floats
	ByteLimits       bool // the limits of 255 count bytes, not code points

	eventIDs int

	// What redaction leaves.
	keepOrigin        bool // top level: origin, membership, prev_state
	keepAliases       bool
	keepAllow         bool // join_rules: allow
	keepAuthorised    bool // member: join_authorised_via_users_server
	keepCreate        bool // create: everything
	keepInviteLevel   bool // power_levels: invite
	keepInviteSigned  bool // member: third_party_invite.signed
	keepRedactsTarget bool // redaction: redacts
}

var versions = makeVersions()

// makeVersions tells the story of the versions: each row changes the one before.
func makeVersions() []*Version {
	v := Version{ID: "1", Readable: true, StateRes: 1, CreatorInContent: true, RedactionRule: true, AliasesRule: true, FloatLevels: true,
		eventIDs: idInEvent, keepOrigin: true, keepAliases: true}
	var all []*Version
	next := func(id string) {
		row := v
		all = append(all, &row)
		v.ID = id
	}
	next("2")
	v.StateRes = 2
	next("3")
	v.Readable, v.RedactionRule, v.eventIDs = false, false, idStandard
	next("4")
	v.eventIDs = idURLSafe
	next("5")
	v.KeyValidity = true
	next("6")
	v.StrictJSON, v.AliasesRule, v.keepAliases, v.NotifyLevels, v.FloatLevels = true, false, false, true, false
	next("7")
	v.Knock = true
	next("8")
	v.Restricted, v.keepAllow = true, true
	next("9")
	v.keepAuthorised = true
	next("10")
	v.KnockRestricted, v.IntegerLevels = true, true
	next("11")
	v.CreatorInContent, v.RedactsInContent, v.ByteLimits, v.keepOrigin = false, true, true, false
	v.keepCreate, v.keepInviteLevel, v.keepInviteSigned, v.keepRedactsTarget = true, true, true, true
	next("12")
	v.StateRes, v.CreateIsRoomID, v.Creators = 21, true, true
	next("")
	return all
}

// Lookup finds a version by its id. Versions that are only Readable are found as well.
func Lookup(id string) (*Version, bool) {
	for _, v := range versions {
		if v.ID == id {
			return v, true
		}
	}
	return nil, false
}

// Default is the version of new rooms.
func Default() *Version { return versions[len(versions)-1] }

// Known lists the ids of all versions, oldest first.
func Known() []string {
	ids := make([]string, len(versions))
	for i, v := range versions {
		ids[i] = v.ID
	}
	return ids
}
