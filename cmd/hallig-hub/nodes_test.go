// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"hallig/sync/identity"
	"hallig/tools/testpeer"
	"hallig/tools/testpostgres"
)

// TestLettersOverNodes: two nodes of a hub over one PostgreSQL database. A box has left letters at the first one and gone; that is killed (SIGKILL) in the middle of bringing them, when the central server has
// taken one and the node has not heard it. The second goes on: nothing is lost, all comes in order and once, messages between devices as well.
func TestLettersOverNodes(t *testing.T) {
	t.Parallel() // it waits half a minute for the end of a lease

	server, err := testpostgres.Start("fsync=off") // a process that is killed loses nothing by it
	if errors.Is(err, testpostgres.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Create("hub", ""); err != nil {
		t.Fatal(err)
	}
	c := dendrite(t)
	host, _, err := net.SplitHostPort(c.name)
	if err != nil {
		t.Fatal(err)
	}
	door, err := testpeer.NewDoor(c.ca, t.TempDir(), host, "https://"+c.name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(door.Close)
	first, second := freeAddr(t), freeAddr(t)
	name, err := testpeer.NewLink(first) // as a name leads to the node that is there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(name.Close)
	h := &home{T: t, central: c, mode: "sealed", hubDir: t.TempDir(), boxDir: t.TempDir(), world: name.Addr(), listen: first, meeting: freeAddr(t)}
	node := func(dir, meeting string) {
		h.configure(dir, meeting, map[string]any{"database": server.URL("hub"), "internal": freeAddr(t), "server_addresses": map[string]string{c.name: door.Addr()}})
	}
	node(h.hubDir, h.meeting)
	h.open()
	other := t.TempDir()
	for _, file := range []string{identity.BoxKeyFile, identity.SigningKeyFile} { // nodes share who they are
		raw, err := os.ReadFile(filepath.Join(h.hubDir, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(other, file), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	node(other, freeAddr(t))
	room, anna, carl := h.talk()
	two := h.hubProcess(other, second)
	t.Cleanup(func() {
		_ = two.Process.Kill()
		_ = two.Wait() // it was killed
	})
	gone, before := h.writeLetters(room)
	h.stopBox()

	var sends atomic.Int32
	dead := make(chan time.Time, 1)
	door.Answered(func(kind string) {
		if kind == "send" && sends.Add(1) == 2 {
			h.killHub()
			name.Lead(second)
			dead <- time.Now()
		}
	})
	if err := h.back(); err != nil {
		t.Fatal(err)
	}
	var at time.Time
	select {
	case at = <-dead:
	case <-time.After(2 * time.Minute):
		t.Fatal("no second letter was brought")
	}
	door.Answered(nil)
	killed := h.hubDir
	h.hubDir = other
	carl.sees("the first node was killed", gone...)
	h.await("the messages between devices", func() bool { carl.look(); return len(carl.whispers) == 3 })
	t.Logf("all had come %v after the node was killed", time.Since(at).Round(100*time.Millisecond))
	h.await("the second node to have nothing left", func() bool { s, err := h.hubStatus(); return err == nil && len(s.Boxes[0].Letters) == 0 })
	carl.inOrder(gone)

	h.hubDir = killed // it is started again, and the box comes to it
	h.startHub()
	h.boxHears(before + 3)
	carl.sees("the box is back", h.say(h.anna, room, 3, "bin wieder da")...)
	anna.sees("the box is back", h.say(h.carl, room, 3, "schön")...)
	for what, n := range carl.whispers {
		if n != 1 {
			t.Errorf("%s came %d times", what, n)
		}
	}
}
