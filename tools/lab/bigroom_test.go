// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/bigroom"
	"hallig/tools/matrixclient"
)

// written is how much the running box has written to the disk.
func (b *box) written() (n int64) {
	b.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", b.cmd.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
			return n
		}
	}
	b.t.Fatal("no write_bytes in /proc/PID/io")
	return 0
}

// lacks says of a stopped box whether it still lacks members of a room.
func (b *box) lacks(id event.RoomID) (lacking bool) {
	b.t.Helper()
	db, err := store.Open(b.t.Context(), filepath.Join(b.dir, "hallig.db"), store.Options{})
	if err != nil {
		b.t.Fatalf("open the database of %s: %v", b.name, err)
	}
	defer db.Close()
	if err := db.View(b.t.Context(), func(r *store.Read) error {
		p, err := r.Partial(id)
		lacking = p != nil && p.Whole == 0
		return err
	}); err != nil {
		b.t.Fatal(err)
	}
	return lacking
}

// TestKilledWhileMembersAreLearnt joins a room whose members come behind the user's back, and kills the box while they come, again and again: when it asks for
// them, and while it writes them down. What was said and acknowledged meanwhile, here and there, is not lost, and in the end the box knows the state of the room
// as its server does.
func TestKilledWhileMembersAreLearnt(t *testing.T) {
	room, err := bigroom.Make(bigroom.Spec{Version: "12", Seed: 5, Servers: 40, Joined: 6000, Left: 500, Banned: 1500, Other: 100, Talk: 50})
	if err != nil {
		t.Fatal(err)
	}
	server, err := bigroom.Serve(room, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	var wanted atomic.Value // the operation at which the box is to die
	wanted.Store("")
	reached, dead := make(chan struct{}), make(chan struct{}, 1)
	server.Before = func(operation string) {
		if operation != "" && wanted.CompareAndSwap(operation, "") {
			reached <- struct{}{}
			<-dead
		}
	}
	ctx := within(t, 4*time.Minute)
	b := newBox(t, "crash.example")
	server.Configure(b.config)
	b.start()
	anna := b.register("anna")
	said := map[string]string{} // event by text
	talk := func(text string) {
		t.Helper()
		said[text] = must[string](t, "send "+text)(anna.SendText(ctx, string(server.Room()), text))
		there := fmt.Sprint("answer to ", text)
		said[there] = string(must[event.ID](t, "hear "+there)(server.Say(ctx, b.name, b.base, there)))
	}
	await := func() {
		t.Helper()
		select {
		case <-reached:
		case <-ctx.Done():
			t.Fatalf("the box does not ask for the state; it has asked %v", server.Counts())
		}
	}
	middle := 0
	die := func() {
		t.Helper()
		b.kill()
		if b.lacks(server.Room()) {
			middle++
		}
	}
	for i := range 3 {
		wanted.Store("state")
		if i == 0 {
			must[string](t, "join")(anna.Join(ctx, string(server.Room()), bigroom.Resident))
		} else {
			b.start()
		}
		await()
		talk(fmt.Sprint("gefragt ", i))
		die()
		dead <- struct{}{}
	}
	for i := range 8 {
		wanted.Store("state")
		b.start()
		await()
		talk(fmt.Sprint("geschrieben ", i))
		before := b.written()
		dead <- struct{}{}
		whole := make(chan error, 1) // the question waits until the members are known, or the box is dead
		go func() {
			whole <- anna.StateEvent(ctx, string(server.Room()), "m.room.member", string(server.LastMember()), nil)
		}()
		for over := false; !over && b.written() < before+int64(i)<<18; {
			select {
			case <-whole:
				over = true
			default:
			}
		}
		die()
		if !b.lacks(server.Room()) {
			break
		}
	}
	if middle < 5 {
		t.Errorf("only %d of the kills hit a box that lacked members", middle)
	}
	b.start()
	talk("zuletzt")
	knowsAll(t, ctx, b, anna, server)
	checkSaid(t, ctx, anna, server, said)
	b.stop()
	b.verify()
	t.Logf("%d kills in the middle; the server was asked %v", middle, server.Counts())
}

// knowsAll waits until the box's state of the room is the server's.
func knowsAll(t *testing.T, ctx context.Context, b *box, c *matrixclient.Client, server *bigroom.Server) {
	t.Helper()
	eventually(t, inTime, "all members are known", func() error {
		return c.StateEvent(ctx, string(server.Room()), "m.room.member", string(server.LastMember()), nil)
	})
	got := must[[]matrixclient.Event](t, "read the state")(c.State(ctx, string(server.Room())))
	want := server.State()
	if len(got) != len(want) {
		t.Errorf("a state of %d events, the server has %d", len(got), len(want))
	}
	for _, e := range got {
		if id := want[[2]string{e.Type, *e.StateKey}]; string(id) != e.ID {
			t.Errorf("%s %s is held by %s, at the server by %s", e.Type, *e.StateKey, e.ID, id)
		}
	}
}

// checkSaid wants each text once in the history, and what was said here at the server.
func checkSaid(t *testing.T, ctx context.Context, c *matrixclient.Client, server *bigroom.Server, said map[string]string) {
	t.Helper()
	found := map[string]int{}
	for _, e := range must[[]matrixclient.Event](t, "page back")(c.AllMessages(ctx, string(server.Room()))) {
		found[e.ID]++
	}
	for text, id := range said {
		if found[id] != 1 {
			t.Errorf("%q is %d times in the history", text, found[id])
		}
		if err := server.Await(ctx, event.ID(id)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}
