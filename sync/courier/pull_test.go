// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"hallig/appliance/event"
)

var errPulled = errors.New("the stick is gone")

// The ways in which an act fails when the stick is pulled.
const (
	notDone = iota // it did not happen
	torn           // of a write, half happened
	notTold        // it happened, and nobody heard of it
	ways
)

// shaky is a stick that is pulled at its cut-th act of writing. What was flushed is there afterwards; of what was not, crash decides.
type shaky struct {
	Disk
	cut, way int // cut below 0: never
	acts     int
	dice     *rand.Rand
	undo     []func() // of acts on the directory since the last Sync, newest last
	open     []*shakyFile
}

type shakyFile struct {
	s      *shaky
	f      File
	name   string
	wrote  []byte
	synced int
}

// act says what becomes of the next act.
func (s *shaky) act() (do bool, err error) {
	s.acts++
	switch {
	case s.cut < 0 || s.acts <= s.cut:
		return true, nil
	case s.acts == s.cut+1 && s.way != notDone:
		return true, errPulled
	}
	return false, errPulled
}

func (s *shaky) Read(name string, size, most int64) ([]byte, error) {
	if s.cut >= 0 && s.acts > s.cut {
		return nil, errPulled
	}
	return s.Disk.Read(name, size, most)
}

func (s *shaky) Create(name string) (File, error) {
	do, err := s.act()
	if !do {
		return nil, err
	}
	f, rerr := s.Disk.Create(name)
	if rerr != nil {
		return nil, rerr
	}
	sf := &shakyFile{s: s, f: f, name: name}
	s.open = append(s.open, sf)
	s.undo = append(s.undo, func() { _ = s.Disk.Remove(sf.name) })
	return sf, err
}

func (f *shakyFile) Write(b []byte) (int, error) {
	do, err := f.s.act()
	if !do {
		return 0, err
	}
	if err != nil && f.s.way == torn {
		b = b[:len(b)/2]
	}
	f.wrote = append(f.wrote, b...)
	n, rerr := f.f.Write(b)
	return n, errors.Join(err, rerr)
}

func (f *shakyFile) Sync() error {
	do, err := f.s.act()
	if !do {
		return err
	}
	f.synced = len(f.wrote)
	return errors.Join(err, f.f.Sync())
}

func (f *shakyFile) Close() error { return f.f.Close() }

func (s *shaky) Rename(from, to string) error {
	do, err := s.act()
	if !do {
		return err
	}
	old, oerr := s.Disk.Read(to, -1, 1<<30)
	if rerr := s.Disk.Rename(from, to); rerr != nil {
		return rerr
	}
	for _, f := range s.open {
		if f.name == from {
			f.name = to
		}
	}
	s.undo = append(s.undo, func() {
		if s.Disk.Rename(to, from) != nil {
			return
		}
		for _, f := range s.open {
			if f.name == to {
				f.name = from
			}
		}
		if oerr == nil {
			s.fill(to, old)
		}
	})
	return err
}

func (s *shaky) Remove(name string) error {
	do, err := s.act()
	if !do {
		return err
	}
	old, oerr := s.Disk.Read(name, -1, 1<<30)
	if rerr := s.Disk.Remove(name); rerr != nil {
		return rerr
	}
	s.undo = append(s.undo, func() {
		if oerr == nil {
			s.fill(name, old)
		}
	})
	return err
}

func (s *shaky) Sync() error {
	do, err := s.act()
	if do {
		s.undo = nil
	}
	return err
}

func (s *shaky) fill(name string, b []byte) {
	f, err := s.Disk.Create(name)
	if err == nil {
		_, err = f.Write(b)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		panic(err)
	}
}

// crash leaves what a file system leaves that has no journal: of the acts that were not flushed any may be undone, and files that
// were not flushed end anywhere.
func (s *shaky) crash() Disk {
	for i := len(s.undo) - 1; i >= 0; i-- {
		if s.dice.IntN(2) == 0 {
			s.undo[i]()
		}
	}
	for _, f := range s.open {
		left := f.synced
		if n := len(f.wrote) - f.synced; n > 0 {
			left += s.dice.IntN(n + 1)
		}
		if left < len(f.wrote) {
			if _, err := s.Disk.Read(f.name, -1, 1<<30); err == nil {
				s.fill(f.name, f.wrote[:left])
			}
		}
	}
	return s.Disk
}

// TestPulledAtEveryAct pulls the stick at each act of an export, in each way that it can fail, on a stick that carries older segments of both boxes. The other
// box reads what is left; then the stick goes round once more, and nothing is lost or there twice.
func TestPulledAtEveryAct(t *testing.T) {
	_, a, b, id := pair(t)
	place := t.TempDir()
	d := openStick(t, place)
	var ids []event.ID
	edus := 0
	dice := rand.New(rand.NewPCG(5, 1))
	round := func(cut, way int) (done bool) {
		for range 2 {
			ids = append(ids, a.say(id, fmt.Sprint("Pegel ", len(ids))))
		}
		a.queue(b, "m.direct_to_device", "", fmt.Sprint(edus))
		edus++
		s := &shaky{Disk: d, cut: cut, way: way, dice: dice}
		r, err := a.courier.Export(t.Context(), s, nil)
		pulled := s.acts > cut
		if pulled && err == nil && (way == notDone && s.acts > cut+1) {
			t.Errorf("cut %d, way %d: the export says that all is well: %+v", cut, way, r)
		}
		if !pulled && err != nil {
			t.Fatal(err)
		}
		after := s.crash()
		in := b.imports(after)
		for why, n := range in.Bad {
			if why != errMalformed.Error() && why != errForged.Error() && why != errSize.Error() && why != "it is missing" && why != errChanged.Error() {
				t.Errorf("cut %d, way %d: %d %s", cut, way, n, why)
			}
		}
		return !pulled
	}
	points := 0
	for way := range ways {
		for cut := 0; ; cut++ {
			if round(cut, way) {
				break
			}
			points++
			if cut%5 == 4 { // and now and then all is well, so that there is something to clear away
				b.export(d)
				a.visit(d)
			}
		}
		a.export(d)
		b.visit(d)
		a.visit(d)
		b.has(id, ids...)
	}
	if points < 60 {
		t.Errorf("only %d points were tried", points)
	}
	got := b.took()
	if len(got) != edus {
		t.Fatalf("%d of %d messages between devices", len(got), edus)
	}
	for i, e := range got {
		if e != fmt.Sprint("a.test m.direct_to_device ", i) {
			t.Fatalf("message %d is %q", i, e)
		}
	}
	if a.pending(b) != 0 || a.queued(b) != 0 {
		t.Errorf("%d events and %d EDUs are still due", a.pending(b), a.queued(b))
	}
}

// TestPulled100Times pulls the stick at a hundred random moments, at both boxes, while both write.
func TestPulled100Times(t *testing.T) {
	_, a, b, id := pair(t)
	d := openStick(t, t.TempDir())
	dice := rand.New(rand.NewPCG(6, 1))
	var ids []event.ID
	boxes := []*box{a, b}
	pulls := 0
	for pulls < 100 {
		x := boxes[dice.IntN(2)]
		for range dice.IntN(3) {
			ids = append(ids, x.say(id, fmt.Sprint("Pegel ", len(ids))))
		}
		if dice.IntN(2) == 0 {
			reads := &shortLived{Disk: d, left: dice.IntN(6)}
			var ctx context.Context
			ctx, reads.cancel = context.WithCancel(t.Context())
			if _, err := x.courier.Import(ctx, reads, nil); err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if reads.left < 0 {
				pulls++
			}
			reads.cancel()
			continue
		}
		s := &shaky{Disk: d, cut: dice.IntN(45), way: dice.IntN(ways), dice: dice}
		if _, err := x.courier.Export(t.Context(), s, nil); err != nil {
			pulls++
		}
		s.crash()
	}
	for range 3 {
		a.visit(d)
		b.visit(d)
	}
	a.has(id, ids...)
	b.has(id, ids...)
	if a.pending(b) != 0 || b.pending(a) != 0 {
		t.Errorf("%d and %d events are still due", a.pending(b), b.pending(a))
	}
}

// shortLived is a stick that can be read so many times: after that the reader is gone, or the stick gives nonsense.
type shortLived struct {
	Disk
	left   int
	cancel context.CancelFunc
}

func (s *shortLived) Read(name string, size, most int64) ([]byte, error) {
	b, err := s.Disk.Read(name, size, most)
	if s.left--; s.left >= 0 || err != nil {
		return b, err
	}
	switch s.left % 3 {
	case 0:
		return nil, errPulled
	case -1:
		s.cancel()
		return b, nil
	}
	b[len(b)/2] ^= 4
	return b, nil
}
