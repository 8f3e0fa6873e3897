// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// Who accepts an invite whose signed form is not back yet is not told that nobody has invited him.
func TestJoinWhileTheInviteIsUnderWay(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat"}))
	if a.client.inviting.underWay(event.RoomID(id), event.UserID(bert.UserID)) {
		t.Error("a stranger would be kept waiting")
	}
	if _, err := bert.Join(t.Context(), id, a.name); err == nil {
		t.Fatal("a stranger came in")
	}
	done := a.client.inviting.begin(event.RoomID(id), event.UserID(bert.UserID))
	joined := make(chan error, 1)
	go func() { // waited for below
		_, err := bert.Join(t.Context(), id, a.name)
		joined <- err
	}()
	select {
	case err := <-joined:
		t.Fatalf("answered before the invite was there: %v", err)
	case <-time.After(5 * inviteLook):
	}
	if err := anna.Invite(t.Context(), id, bert.UserID); err != nil {
		t.Fatal(err)
	}
	done()
	if err := <-joined; err != nil {
		t.Errorf("the join of an invited user: %v", err)
	}
	if a.client.As(Local{}).inviting != a.client.inviting {
		t.Error("each identity has invites of its own")
	}
}
