// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"encoding/base64"
	"encoding/json"
	"math/rand/v2"
	"syscall"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
)

// small is a stick with room for so many bytes; lies: it says that there is more.
type small struct {
	Disk
	left int64
	lies bool
}

func (s *small) Free() (int64, error) {
	if s.lies {
		return 1 << 40, nil
	}
	return s.left + spare, nil
}

func (s *small) Create(name string) (File, error) {
	f, err := s.Disk.Create(name)
	return &smallFile{f, s}, err
}

type smallFile struct {
	File
	s *small
}

func (f *smallFile) Write(b []byte) (int, error) {
	if f.s.lies && int64(len(b)) > f.s.left {
		n, _ := f.File.Write(b[:max(f.s.left, 0)])
		f.s.left = 0
		return n, syscall.ENOSPC
	}
	f.s.left -= int64(len(b))
	return f.File.Write(b)
}

// TestFullStick: what fits goes, receipts and keys first, then the rooms that may be urgent; the rest goes with the next one.
func TestFullStick(t *testing.T) {
	for _, lies := range []bool{false, true} {
		_, a, b, id := pair(t)
		urgent := a.create()
		b.join(a, urgent)
		key := ""
		if _, err := a.rooms.Send(t.Context(), room.Draft{Room: urgent, Sender: a.user(), Type: priority.Type, StateKey: &key, Content: json.RawMessage(`{}`)}); err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 40_000)
		rng := rand.NewChaCha8([32]byte{9})
		want := map[event.RoomID][]event.ID{}
		for range 60 {
			for _, r := range []event.RoomID{id, urgent} {
				rng.Read(noise)
				want[r] = append(want[r], a.say(r, base64.StdEncoding.EncodeToString(noise)))
			}
		}
		a.queue(b, "m.direct_to_device", "", `{}`)
		d := openStick(t, t.TempDir())
		out := a.export(&small{Disk: d, left: 4 << 20, lies: lies})
		if !out.Full || of(out, b).Segments < 2 {
			t.Errorf("lies %v: export to a small stick: %+v", lies, out)
		}
		in := b.imports(d)
		if len(in.Bad) > 0 || len(b.took()) != 1 || len(b.texts(urgent)) < 40 || len(b.texts(id)) > 8 { // the last handful of what fills a segment
			t.Errorf("lies %v: from a small stick: bad %v, %v, %d urgent texts and %d others", lies, in.Bad, b.took(), len(b.texts(urgent)), len(b.texts(id)))
		}
		if out := a.export(&small{Disk: d, left: 100}); !out.Full {
			t.Errorf("lies %v: there is no room, and nobody says so: %+v", lies, out)
		}
		b.imports(d)
		if out := a.export(d); out.Full {
			t.Errorf("lies %v: %+v", lies, out)
		}
		b.imports(d)
		b.has(id, want[id]...)
		b.has(urgent, want[urgent]...)
	}
}
