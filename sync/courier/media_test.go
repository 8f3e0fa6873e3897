// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// shelf is a box's media: files of its own users by id, copies of others' by "server/id".
type shelf map[string][]byte

func (b *box) shelf() shelf {
	s := shelf{}
	b.courier.c.OpenMedia = func(_ context.Context, id string) (*MediaFile, error) {
		raw, ok := s[id]
		if !ok {
			return nil, errors.New("absent")
		}
		return &MediaFile{Type: "image/jpeg", Name: id + ".jpg", Size: int64(len(raw)), ReadCloser: io.NopCloser(bytes.NewReader(raw))}, nil
	}
	b.courier.c.KeepMedia = func(ctx context.Context, server, id, typ, name string, body io.Reader) error {
		raw, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		s[server+"/"+id] = raw
		return b.db.Do(ctx, func(tx *store.Tx) error {
			sum := seed(string(raw))
			if err := tx.InsertMediaFile(sum, int64(len(raw))); err != nil {
				return err
			}
			return tx.InsertMedia(store.Media{Server: server, ID: id, Hash: sum, Type: typ, Name: name})
		})
	}
	return s
}

func (b *box) picture(id event.RoomID, media string) {
	b.t.Helper()
	body, err := json.Marshal(map[string]any{"msgtype": "m.image", "body": "Bild", "url": "mxc://" + b.name + "/" + media, "info": map[string]string{"thumbnail_url": "mxc://" + b.name + "/gone"}})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.rooms.Send(b.t.Context(), room.Draft{Room: id, Sender: b.user(), Type: "m.room.message", Content: body}); err != nil {
		b.t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	_, a, b, id := pair(t)
	mine, theirs := a.shelf(), b.shelf()
	place := t.TempDir()
	d := openStick(t, place)
	rng := rand.NewChaCha8([32]byte{2})
	for name, size := range map[string]int{"small": 1000, "large": 9 << 20, "huge": 11 << 20} {
		mine[name] = make([]byte, size)
		rng.Read(mine[name])
		a.picture(id, name)
	}
	mine["unsaid"] = []byte("nobody mentions it")
	export := func() BoxReport {
		t.Helper()
		r, err := a.courier.ExportWith(t.Context(), d, Options{Media: 10 << 20}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return of(r, b)
	}
	if got := export(); got.Files != 2 || got.Large != 1 {
		t.Errorf("exported %+v", got)
	}
	if got := export(); got.Files != 0 || got.Large != 1 {
		t.Errorf("exported once more %+v", got)
	}
	// A part in the middle is damaged: the file does not come, and is put there anew.
	x := readIndex(d, a.peer.ID, func(n string, err error) { t.Error(n, err) })
	var parts []entry
	for _, e := range x.entries {
		if e.kind == kindMedia && e.size > 1<<20 {
			parts = append(parts, e)
		}
	}
	if len(parts) != 3 {
		t.Fatalf("%d large parts", len(parts))
	}
	name := filepath.Join(place, Folder, parts[1].name(a.peer.ID))
	if err := os.Truncate(name, parts[1].size-1); err != nil {
		t.Fatal(err)
	}
	in := b.imports(d)
	if of(in, a).Files != 1 || in.Bad[errSize.Error()] != 1 || len(theirs) != 1 || !bytes.Equal(theirs["a.test/small"], mine["small"]) {
		t.Errorf("from a damaged stick: %+v, bad %v, %d files", of(in, a), in.Bad, len(theirs))
	}
	b.export(d)
	a.imports(d)
	if got := export(); got.Files != 1 {
		t.Errorf("after the damage: %+v", got)
	}
	if in := b.imports(d); of(in, a).Files != 1 || len(in.Bad) > 0 || !bytes.Equal(theirs["a.test/large"], mine["large"]) {
		t.Errorf("the second time: %+v, %v", of(in, a), in.Bad)
	}
	b.export(d)
	a.imports(d)
	if got := export(); got.Files != 0 {
		t.Errorf("what the box has goes there again: %+v", got)
	}
	for _, e := range readIndex(d, a.peer.ID, func(n string, err error) { t.Error(n, err) }).entries {
		if e.kind == kindMedia {
			t.Errorf("a file that the box has still lies on the stick")
		}
	}
}

// TestForgedFiles: heads that lie.
func TestForgedFiles(t *testing.T) {
	_, a, b, _ := pair(t)
	theirs := b.shelf()
	part := func(head string, data int) *segment {
		s := a.courier.build(b.peer, kindMedia).s
		s.messages = [][]byte{[]byte(head), make([]byte, data)}
		return s
	}
	for what, parts := range map[string][]*segment{
		"longer than it says":  {part(`{"id":"x","size":5,"parts":1}`, 9)},
		"shorter":              {part(`{"id":"x","size":50,"parts":1}`, 9)},
		"begins in the middle": {part(`{"id":"x","size":9,"part":1,"parts":2}`, 9)},
		"a part is missing":    {part(`{"id":"x","size":18,"parts":3}`, 6), part(`{"id":"x","size":18,"part":2,"parts":3}`, 6)},
		"two files":            {part(`{"id":"x","size":18,"parts":2}`, 9), part(`{"id":"y","size":18,"part":1,"parts":2}`, 9)},
		"no id":                {part(`{"size":9,"parts":1}`, 9)},
		"a path":               {part(`{"id":"../x","size":9,"parts":1}`, 9)},
		"no head":              {part(`x`, 9)},
		"nothing":              {part(`{"id":"x","size":0}`, 0)},
	} {
		d := openStick(t, t.TempDir())
		e := export{c: a.courier, d: d, x: &index{epoch: a.out.Epoch()}, report: &Report{}}
		for _, s := range parts {
			if err := e.write(s, entry{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if in := b.imports(d); len(in.Bad) == 0 || len(theirs) > 0 {
			t.Errorf("%s: %+v, %s", what, in, fmt.Sprint(theirs))
		}
	}
}
