// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// central is a box with a way to a central server that nobody here wrote. Both ways can be cut.
type central struct {
	*testing.T
	box     *running
	peer    *testpeer.Peer
	in, out *testpeer.Link
	carl    *matrixclient.Client // runs the rooms at the central server
}

func newCentral(t *testing.T) *central {
	t.Helper()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := &central{T: t}
	if c.peer, err = testpeer.Start(t.Context(), testpeer.Options{Dir: t.TempDir(), CA: ca}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.peer.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log("the central server's log ends:\n" + c.peer.LogTail(4000))
		}
	})
	if c.out, err = testpeer.NewLink(c.peer.Link.Addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.out.Close)
	if c.in, err = testpeer.NewLink(""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.in.Close)
	fed := freePort(t)
	c.in.Lead(fed)
	c.box = startWith(t, Config{Data: t.TempDir(), ServerName: c.in.Addr(), Federation: fed, FederationTLS: TLSConfig{CACertificate: ca.File, CAKey: ca.KeyFile}, CAFile: ca.File,
		ServerAddresses: map[string]string{c.peer.Name: c.out.Addr()}, PrivateAddresses: true, P2P: P2PConfig{Off: true}, restAfter: 2 * time.Second})
	c.carl = matrixclient.New(c.peer.Client)
	if err := c.carl.RegisterShared(t.Context(), c.peer.Secret, "carl", "a long enough password", false); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *central) cut(cut bool) {
	for _, l := range []*testpeer.Link{c.in, c.out} {
		if cut {
			l.Cut()
		} else {
			l.Join()
		}
	}
}

// room is one that carl has made, with people of the box.
func (c *central) room(name string, people ...*phone) string {
	c.Helper()
	id, err := c.carl.CreateRoom(c.Context(), matrixclient.CreateRoom{Preset: "public_chat", Name: name})
	if err != nil {
		c.Fatal(err)
	}
	for _, p := range people {
		if _, err := p.Join(c.Context(), id, c.peer.Name); err != nil {
			c.Fatal(err)
		}
	}
	return id
}

// notices gives what the box has told a phone's user, as any client shows it.
func (p *phone) notices() (bodies []string) {
	for _, id := range p.order {
		if e := p.events[id]; strings.HasPrefix(e.Sender, "@hallig:") && e.Type == "m.room.message" {
			bodies = append(bodies, e.Body())
		}
	}
	return bodies
}

// told waits until the user was told, once, and checks what.
func (p *phone) told(parts ...string) {
	p.t.Helper()
	p.until("to be told", func() bool { return len(p.notices()) > 0 })
	p.until("some time", waited(3*time.Second))
	got := p.notices()
	if len(got) != 1 {
		p.t.Fatalf("%s was told %q", p.UserID, got)
	}
	for _, part := range parts {
		if !strings.Contains(got[0], part) {
			p.t.Errorf("%s was not told %q:\n%s", p.UserID, part, got[0])
		}
	}
}

// TestConflictsWithCentral: while the way to the central server is cut, it bans one user of the box, and the only user of the box in another room; a third room is
// replaced. When the way is back, each of them is told in their client, whoever follows is in the new room, and nobody else hears anything.
func TestConflictsWithCentral(t *testing.T) {
	c := newCentral(t)
	ctx := t.Context()
	anna, bert, dora, emil := c.box.phone("anna"), c.box.phone("bert"), c.box.phone("dora"), c.box.phone("emil")
	lage, alone, old := c.room("Lage", anna, emil), c.room("Deich", dora), c.room("Fahrzeuge", bert)
	first := anna.say(lage, "vorher")
	eventually(t, "the central server to have anna's message", func() bool { _, err := c.carl.Event(ctx, lage, first); return err == nil })
	c.cut(true)
	for _, s := range []string{"Pegel 1", "Pegel 2", "Pegel 3"} {
		anna.say(lage, s)
		dora.say(alone, "Deich "+s)
	}
	emil.say(lage, "ich auch")
	for _, s := range []string{"1", "2", "3"} {
		if _, err := c.carl.SendText(ctx, alone, "Zentrale "+s); err != nil {
			t.Fatal(err)
		}
	}
	for room, user := range map[string]*phone{lage: anna, alone: dora} {
		if err := c.carl.Ban(ctx, room, user.UserID, "Streit"); err != nil {
			t.Fatal(err)
		}
	}
	var up struct {
		Next string `json:"replacement_room"`
	}
	if err := c.carl.Do(ctx, "POST", matrixclient.Path("rooms", old, "upgrade"), map[string]string{"new_version": "11"}, &up); err != nil {
		t.Fatal(err)
	}
	c.cut(false)
	anna.told("3 Ihrer Nachrichten", "3 of your messages", "@carl:", "Streit", "Pegel 1", "Pegel 3", "Lage")
	bert.told("Fahrzeuge", up.Next)
	raw := bert.call("GET", matrixclient.Path("joined_rooms"), "")
	var joined struct {
		Rooms []string `json:"joined_rooms"`
	}
	if err := json.Unmarshal(raw, &joined); err != nil || !strings.Contains(strings.Join(joined.Rooms, " "), up.Next) {
		t.Errorf("bert is in %s, not in %s", raw, up.Next)
	}
	dora.told("3 Ihrer Nachrichten", "Deich Pegel 3")
	emil.until("some time", waited(time.Second))
	if got := emil.notices(); len(got) > 0 {
		t.Errorf("emil was told %q", got)
	}
}

// eventually waits for what another program does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(inTime); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
