// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"testing"
	"time"

	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/sync/peer"
)

// carriers counts the boxes that this node plays to.
func (w *world) carriers() int {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	return len(w.hub.carriers)
}

// A box that another node has turned away or forgotten is served no more once this node has looked at the roster, and leaves nothing behind.
func TestCarrierEndsWithItsBox(t *testing.T) {
	for name, elsewhere := range map[string]func(*world) error{
		"revoked":   func(w *world) error { return w.spool.Revoke(w.Context(), "box1.test", "stolen") },
		"forgotten": func(w *world) error { return w.spool.Remove(w.Context(), "box1.test") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.newBox("box1.test")
			w.await("the box to be played to", func() bool { return w.carriers() == 1 })
			if err := elsewhere(w); err != nil {
				t.Fatal(err)
			}
			if err := w.hub.readRoster(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.await("nobody to play to it", func() bool { return w.carriers() == 0 })
		})
	}
}

// slowBoxes is a spool that shows the boxes as they were a while ago, once.
type slowBoxes struct {
	spool.Spool
	read, goOn chan struct{}
}

func (s *slowBoxes) Boxes(ctx context.Context) ([]spool.Box, error) {
	rows, err := s.Spool.Boxes(ctx)
	if s.read != nil {
		read := s.read
		s.read = nil
		close(read)
		<-s.goOn
	}
	return rows, err
}

// Who read the boxes earlier does not put what he has read over what somebody has read since.
func TestOlderRosterDoesNotWin(t *testing.T) {
	w := newWorld(t)
	w.stop() // no reader beside those of the test
	id, err := identity.Load(t.TempDir(), "box1.test", false)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := id.Statement()
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.ReadStatement(statement)
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowBoxes{Spool: w.spool, read: make(chan struct{}), goOn: make(chan struct{})}
	h := &Hub{spool: slow, log: w.hub.log, carriers: map[string]*carrier{}}
	h.roster.Store(&roster{})
	read, ended := slow.read, make(chan error, 2)
	go func() { ended <- h.readRoster(t.Context()) }()
	<-read
	if err := w.spool.PutBox(t.Context(), spool.Box{Server: "box1.test", ID: string(p.ID), Statement: statement, Mode: spool.Sealed, Added: time.Now()}); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- h.readRoster(t.Context()) }()
	select {
	case err := <-ended: // it did not wait for the first
		ended <- err
	case <-time.After(100 * time.Millisecond):
	}
	close(slow.goOn)
	for range 2 {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := h.box("box1.test"); !ok {
		t.Error("the box that was paired meanwhile is forgotten")
	}
}
