// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"strings"
	"testing"
	"time"

	"hallig/tools/matrixclient"
)

// TestSecondStart: SIGTERM ends a box within seconds while long polls are open, and the next start goes on: sessions, rooms,
// tokens, the name.
func TestSecondStart(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	b := newBox(t, "again.example")
	b.start()
	anna := b.register("anna")
	room := must[string](t, "create room")(anna.CreateRoom(ctx, matrixclient.CreateRoom{Name: "Wache"}))
	id := must[string](t, "send")(anna.SendText(ctx, room, "before"))
	since := must[*matrixclient.SyncResponse](t, "sync")(anna.Sync(ctx, matrixclient.SyncOptions{})).NextBatch
	before := b.status().BoxID

	const polls = 8
	ended := make(chan error, polls)
	for range polls {
		go func() { // ends with the box, which is stopped below
			_, err := anna.Sync(ctx, matrixclient.SyncOptions{Since: since, Timeout: 5 * time.Minute})
			ended <- err
		}()
	}
	// A round trip behind the polls: nothing says that they wait already, but a poll that comes late is refused as well.
	must[*matrixclient.SyncResponse](t, "sync")(anna.Sync(ctx, matrixclient.SyncOptions{Since: since}))
	if took := b.stop(); took > 4*time.Second {
		t.Errorf("stopping took %v with long polls open", took)
	} else {
		t.Logf("stopped in %v", took)
	}
	for range polls {
		select {
		case <-ended:
		case <-ctx.Done():
			t.Fatal("a long poll hangs though the box is gone")
		}
	}

	b.start()
	if got := b.status().BoxID; got != before {
		t.Errorf("box id after the restart is %s, want %s", got, before)
	}
	e := must[matrixclient.Event](t, "read an event of before")(anna.Event(ctx, room, id))
	if e.Body() != "before" {
		t.Errorf("body %q, want before", e.Body())
	}
	next := must[string](t, "send after")(anna.SendText(ctx, room, "after"))
	got, _, err := anna.WaitEvent(ctx, since, room, func(e matrixclient.Event) bool { return e.ID == next })
	if err != nil || got.Body() != "after" {
		t.Errorf("sync from a token of before: %q, %v", got.Body(), err)
	}
	ok(t, "log in again", matrixclient.New(b.base).Login(ctx, "anna", "Rungholt lebt 1362", ""))
}

// TestRefusedStarts: another name after the first account, a second process on the same directory, a configuration nobody understands.
func TestRefusedStarts(t *testing.T) {
	b := newBox(t, "first.example")
	b.start()
	b.register("anna")

	refused := func(what string, words []string, args ...string) {
		t.Helper()
		cmd, said := b.command(args...), new(lines)
		cmd.Stdout, cmd.Stderr = said, said
		ok(t, what, cmd.Start())
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }() // waited for below
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("%s: the process ended well", what)
			}
			for _, w := range words {
				if !strings.Contains(said.String(), w) {
					t.Errorf("%s: the text lacks %q: %s", what, w, said)
				}
			}
		case <-time.After(inTime):
			t.Errorf("%s: not refused", what)
			ok(t, what, cmd.Process.Kill())
			<-done
		}
	}
	refused("second process", []string{"already running", b.dir, "hallig status"}, "--listen", "127.0.0.1:0")
	b.stop()
	refused("another name", []string{"first.example", "other.example", "--name"}, "--name", "other.example")
	b.start() // and it still is the same
	if got := b.status().ServerName; got != "first.example" {
		t.Errorf("name after a refused change: %s", got)
	}
}
