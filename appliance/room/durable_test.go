// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// A child of the test binary is the box under load; it is killed, or what it had not flushed is taken away.
const childEnv = "HALLIG_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child sends without end from several users and prints, after each answer, the transaction id, the event id and how long the record of its writes is by now.
func child(dir string) error {
	ctx := context.Background()
	db, err := store.Open(ctx, filepath.Join(dir, "hallig.db"), store.Options{})
	if err != nil {
		return err
	}
	r := New(db, Identity{Server: "a", Key: testKey("a")}, Options{})
	room, err := childRoom(ctx, db, r)
	if err != nil {
		return err
	}
	run := fmt.Sprint(time.Now().UnixNano())
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	var wg sync.WaitGroup
	for s := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				d := text(room, alice, strings.Repeat("Sturmflut ", 1+i%40))
				if s == 0 && i%5 == 0 {
					d = state(room, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%s %d"}`, run, i))
				}
				txn := fmt.Sprintf("%s.%d.%d", run, s, i)
				d.Txn = &Txn{Device: "D", ID: txn, Path: "/send"}
				id, err := r.Send(ctx, d)
				if err != nil {
					fmt.Fprintln(os.Stderr, "send:", err)
					return
				}
				size := int64(0)
				if st, err := os.Stat(os.Getenv("RECORD_LOG")); err == nil {
					size = st.Size()
				}
				mu.Lock()
				fmt.Fprintln(out, txn, id, size)
				out.Flush()
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.New("all senders gave up")
}

func childRoom(ctx context.Context, db *store.DB, r *Rooms) (room event.RoomID, err error) {
	err = db.View(ctx, func(rd *store.Read) error {
		rooms, err := rd.Rooms()
		if len(rooms) > 0 {
			room = rooms[0]
		}
		return err
	})
	if err != nil || room != "" {
		return room, err
	}
	return r.Create(ctx, CreateRequest{Creator: alice})
}

type ack struct {
	txn  string
	id   event.ID
	size int64
}

// runChild lets a child work until it has answered n times, kills it, and gives its answers.
func runChild(t *testing.T, dir string, n int, env ...string) (acks []ack) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"="+dir), env...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(pipe)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break // a line without its end was cut by the kill
		}
		var a ack
		if _, err := fmt.Sscan(line, &a.txn, &a.id, &a.size); err != nil {
			t.Fatalf("child said %q: %v", line, err)
		}
		acks = append(acks, a)
		if len(acks) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd.Wait() // killed: the error says so
	if len(acks) < n {
		t.Fatalf("the child gave up after %d answers", len(acks))
	}
	return acks
}

// audit opens what is left and looks for every acknowledged event: there, once, shown; its transaction id answers it; the file is whole; the room goes on.
func audit(t *testing.T, path string, acks []ack) {
	t.Helper()
	b := &box{t: t, path: path, now: time.Now()}
	b.open("a")
	defer b.db.Close()
	<-b.db.Checked()
	if err := b.db.Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	rooms := b.allRooms()
	if len(rooms) == 0 {
		if len(acks) > 0 {
			t.Fatalf("the room is gone, with %d acknowledged events", len(acks))
		}
		return
	}
	times := make(map[event.ID]int)
	for _, e := range b.timeline(rooms[0]) {
		times[e.ID]++
	}
	for i, a := range acks {
		if times[a.id] != 1 {
			t.Errorf("answer %d of %d: %s is there %d times", i, len(acks), a.id, times[a.id])
		}
	}
	if n := len(acks); n > 0 {
		d := text(rooms[0], alice, "noch einmal")
		d.Txn = &Txn{Device: "D", ID: acks[n-1].txn, Path: "/send"}
		if id := b.send(d); id != acks[n-1].id {
			t.Errorf("the repeated request made %s, want %s", id, acks[n-1].id)
		}
	}
	b.send(text(rooms[0], alice, "weiter"))
}

func TestKill(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	dir := t.TempDir()
	var all []ack
	for range 8 { // the same file, again and again
		all = append(all, runChild(t, dir, 20+rng.IntN(300))...)
		audit(t, filepath.Join(dir, "hallig.db"), all)
	}
}

// TestPowerCut replays what a box wrote up to a random moment, keeping what was flushed and a random part of what was not.
func TestPowerCut(t *testing.T) {
	work := t.TempDir()
	lib := filepath.Join(work, "record.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-O1", "-o", lib, "testdata/record.c", "-ldl", "-lpthread").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	dir, log := filepath.Join(work, "data"), filepath.Join(work, "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	acks := runChild(t, dir, 3500, // long enough for the log to be folded into the file
		"LD_PRELOAD="+lib, "RECORD_DIR="+dir, "RECORD_LOG="+log)
	raw, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	writes := parseRecord(t, raw)
	seed := uint64(time.Now().UnixNano())
	t.Logf("%d answers, %d records, seed %d", len(acks), len(writes), seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 40 {
		cut := rng.IntN(len(writes) + 1)
		if i < 10 {
			cut = rng.IntN(len(writes)/100 + 1) // the creation of the file is a dangerous time too
		}
		var known []ack
		end := int64(0)
		if cut > 0 {
			end = writes[cut-1].end
		}
		for _, a := range acks {
			if a.size <= end {
				known = append(known, a)
			}
		}
		keep := []float64{0, 0.3, 0.7, 1}[rng.IntN(4)]
		files := replay(writes[:cut], func() bool { return rng.Float64() < keep })
		dir := filepath.Join(work, fmt.Sprint("cut", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, b := range files {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		audit(t, filepath.Join(dir, "hallig.db"), known)
		if t.Failed() {
			t.Fatalf("cut %d at record %d of %d, keeping %v of what was not flushed", i, cut, len(writes), keep)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// written is one record: see testdata/record.c.
type written struct {
	kind byte
	name string
	at   int64
	data []byte
	end  int64 // where the record ends in the log
}

func parseRecord(t *testing.T, raw []byte) (ws []written) {
	t.Helper()
	var flushes, folded int
	r := bytes.NewReader(raw)
	for {
		var h struct {
			Kind, Name uint32
			At, Size   uint64
		}
		if err := binary.Read(r, binary.NativeEndian, &h); err != nil {
			break // the last record may be cut by the kill
		}
		name := make([]byte, h.Name)
		if _, err := io.ReadFull(r, name); err != nil {
			break
		}
		var data []byte
		if h.Kind == 'w' {
			data = make([]byte, h.Size)
			if _, err := io.ReadFull(r, data); err != nil {
				break
			}
		}
		if h.Kind == 's' {
			flushes++
		}
		if h.Kind == 'w' && string(name) == "hallig.db" {
			folded++
		}
		ws = append(ws, written{byte(h.Kind), string(name), int64(h.At), data, int64(len(raw)) - int64(r.Len())})
	}
	if flushes < 100 || folded < 100 {
		t.Fatalf("%d flushes and %d writes to the file itself in the record: it does not see what it should", flushes, folded)
	}
	return ws
}

// replay gives the files after a power cut: what was flushed is there, of the rest each write only if keep says so, and half of some.
func replay(ws []written, keep func() bool) map[string][]byte {
	files := make(map[string][]byte)
	pending := make(map[string][]written)
	apply := func(w written) {
		b := files[w.name]
		switch w.kind {
		case 't':
			for int64(len(b)) < w.at {
				b = append(b, 0)
			}
			b = b[:w.at]
		case 'w':
			if need := w.at + int64(len(w.data)); int64(len(b)) < need {
				b = append(b, make([]byte, need-int64(len(b)))...)
			}
			copy(b[w.at:], w.data)
		}
		files[w.name] = b
	}
	for _, w := range ws {
		switch w.kind {
		case 's':
			for _, p := range pending[w.name] {
				apply(p)
			}
			delete(pending, w.name)
			if files[w.name] == nil {
				files[w.name] = []byte{}
			}
		case 'u':
			delete(files, w.name)
			delete(pending, w.name)
		default:
			pending[w.name] = append(pending[w.name], w)
		}
	}
	for _, list := range pending {
		for _, w := range list {
			if !keep() {
				continue
			}
			if w.kind == 'w' && !keep() { // torn
				w.data = w.data[:len(w.data)/2]
			}
			apply(w)
		}
	}
	return files
}
