// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"hallig/appliance/event"
)

// Remote is what needs other servers. All calls block until they are answered or ctx ends; a refusal by the other server
// comes as *room.Error. Implementations may be called from many goroutines.
type Remote interface {
	// Join lets user join through one of servers; room is a room id. The room is stored when it returns.
	Join(ctx context.Context, room string, user event.UserID, servers []string, reason string, content json.RawMessage) (event.RoomID, error)
	// Leave refuses a remote invite, takes a remote knock back, or leaves a room of which we hold no state.
	Leave(ctx context.Context, room event.RoomID, user event.UserID, reason string) error
	Knock(ctx context.Context, room string, user event.UserID, servers []string, reason string, content json.RawMessage) (event.RoomID, error)
	// Invite has the invitee's server co-sign an invite.
	Invite(ctx context.Context, v *event.Version, invite *event.PDU) (*event.PDU, error)
	Profile(ctx context.Context, user event.UserID) (json.RawMessage, error)
	ResolveAlias(ctx context.Context, alias string) (event.RoomID, []string, error)
	QueryKeys(ctx context.Context, server string, req json.RawMessage) (json.RawMessage, error)
	ClaimKeys(ctx context.Context, server string, req json.RawMessage) (json.RawMessage, error)
	Media(ctx context.Context, server, id string) (body io.ReadCloser, contentType, filename string, err error)
	// Thumbnail has a server make a smaller picture of its file.
	Thumbnail(ctx context.Context, server, id string, width, height int, crop bool) (body io.ReadCloser, contentType string, err error)
	PublicRooms(ctx context.Context, server string, req json.RawMessage) (json.RawMessage, error)
	// Hierarchy asks a server for a room and its children: the answer of the Server-Server API.
	Hierarchy(ctx context.Context, server string, room event.RoomID, suggested bool) (json.RawMessage, error)
	// EventAtTime asks the room's other servers for the event nearest to a time; it is in the room's history when it is named. Empty: nobody knows one.
	EventAtTime(ctx context.Context, room event.RoomID, ts int64, back bool) (event.ID, int64, error)
	// Backfill asks the room's other servers for history before what we hold.
	Backfill(ctx context.Context, room event.RoomID, limit int) error
}

// errAlone is what clients get for things that another server would have to do.
func errAlone(server string) error {
	return refuse(http.StatusNotFound, "M_NOT_FOUND", "the server "+server+" cannot be asked from here")
}

// panicked carries a panic out of a goroutine.
type panicked struct{ value any }

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }
