// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/health"
	"hallig/appliance/steward"
	"hallig/sync/courier"
	"hallig/tools/matrixclient"
)

// order asks a box by its local door, as hallig courier does.
func (r *running) order(o admin.CourierOrder) admin.CourierReport {
	r.t.Helper()
	got, err := Courier(r.t.Context(), r.cfg.Data, o, func(admin.CourierStep) {})
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

// hands is the part of the steward that a stick needs: what is ejected is moved out of the way, to run/out.
type hands struct {
	mu             sync.Mutex
	wrote, ejected int
}

func (h *hands) said() (wrote, ejected int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wrote, h.ejected
}

func newHands(t *testing.T, run string) *hands {
	t.Helper()
	h := &hands{}
	l, err := net.Listen("unix", filepath.Join(run, "steward.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(steward.State{Sticks: []steward.Stick{{Name: "EINSATZ"}}}); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("PUT /stick/{name}/write", func(http.ResponseWriter, *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.wrote++
	})
	mux.HandleFunc("POST /stick/{name}/eject", func(_ http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.ejected++
		if err := os.Rename(filepath.Join(run, "sticks", r.PathValue("name")), filepath.Join(run, "out")); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("PUT /led", func(http.ResponseWriter, *http.Request) {})
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return h
}

// TestStickBetweenBoxes: two boxes that have met once are apart for good; a stick goes to and fro, by command and by itself.
func TestStickBetweenBoxes(t *testing.T) {
	if !inside(t) {
		return
	}
	ctx := t.Context()
	run, stick := t.TempDir(), t.TempDir()
	hands := newHands(t, run)
	a := startBox(t, "a.test")
	b := startWith(t, Config{Data: t.TempDir(), Run: run, ServerName: "b.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}}})
	anna, bert := a.phone("anna"), b.phone("bert")
	code, err := a.adminOptions().ShowCode(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(ctx, code.Code, ""); err != nil {
		t.Fatal(err)
	}
	near(t, a, b, "after the pairing")
	room, err := anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", Name: "Lage", Invite: []string{bert.UserID}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bert.Join(ctx, room); err != nil {
		t.Fatal(err)
	}
	first := anna.say(room, "Land unter")
	bert.until("a message of anna", bert.has(first))
	setLoopback(t, false)
	var ids []string
	for i := range 5 {
		ids = append(ids, anna.say(room, fmt.Sprint("Pegel ", i)))
	}
	anna.call("PUT", matrixclient.Path("sendToDevice", "m.room_key", "t1"), fmt.Sprintf(`{"messages":{%q:{%q:{"secret":"geheim"}}}}`, bert.UserID, bert.DeviceID))

	var upload struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(anna.call("POST", "/_matrix/media/v3/upload?filename=deich.txt", strings.Repeat("Deichbruch! ", 1000)), &upload); err != nil {
		t.Fatal(err)
	}
	anna.call("PUT", matrixclient.Path("rooms", room, "send", "m.room.message", "p1"), fmt.Sprintf(`{"msgtype":"m.file","body":"deich.txt","url":%q}`, upload.URI))

	out := a.order(admin.CourierOrder{Do: "export", Place: stick, Media: 1 << 20})
	if len(out.Boxes) != 1 || out.Boxes[0].Files != 1 || out.Boxes[0].Events < 5 || out.Boxes[0].EDUs == 0 || out.Sentence.Empty() {
		t.Errorf("export: %+v", out)
	}
	if s := b.order(admin.CourierOrder{Do: "status", Place: stick}); len(s.Boxes) != 1 || s.Boxes[0].Segments < 2 {
		t.Errorf("status: %+v", s)
	}
	// b runs as an appliance does: the stick is plugged in, and that is all.
	answer := bert.say(room, "verstanden")
	plugged, mounted := filepath.Join(run, "sticks", "EINSATZ"), filepath.Join(run, "x")
	if err := errors.Join(os.MkdirAll(filepath.Dir(plugged), 0o755), os.CopyFS(mounted, os.DirFS(stick)), os.Rename(mounted, plugged)); err != nil {
		t.Fatal(err)
	}
	bert.until("what the stick brought", bert.has(ids...))
	bert.until("the message between devices", bert.heard("geheim"))
	bert.until("the word that the stick can be pulled", func() bool {
		n, _ := b.health(ctx).Node(string(health.Courier))
		return strings.Contains(n.Sentence.DE, "kann abgezogen werden") && strings.Contains(n.Sentence.DE, "Neue Nachrichten übernommen: 6. Bilder und Dateien: 1.")
	})
	if wrote, ejected := hands.said(); wrote == 0 || ejected != 1 {
		t.Errorf("made writable %d times, ejected %d times", wrote, ejected)
	}
	if f, err := b.media.Get(ctx, "a.test", strings.TrimPrefix(upload.URI, "mxc://a.test/")); err != nil {
		t.Errorf("the file did not come: %v", err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	plugged = filepath.Join(run, "out")
	in := a.order(admin.CourierOrder{Do: "import", Place: plugged})
	if len(in.Boxes) != 1 || !in.Boxes[0].Receipt {
		t.Errorf("import of the answer: %+v", in)
	}
	anna.until("the answer", anna.has(answer))
	s, err := a.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Peers) != 1 || s.Peers[0].Queued != 0 {
		t.Errorf("after the receipt: %+v", s.Peers)
	}
	late := anna.say(room, "auf Papier")
	sheet := a.order(admin.CourierOrder{Do: "sheet", Box: "b.test", Room: room, Codes: 4})
	if rooms := a.order(admin.CourierOrder{Do: "rooms"}).Rooms; len(rooms) != 1 || rooms[0] != (admin.CourierRoom{ID: room, Name: "Lage"}) {
		t.Errorf("rooms: %v", rooms)
	}
	b.order(admin.CourierOrder{Do: "read", Text: strings.Join(sheet.Codes, "\n")})
	bert.until("what came on paper", bert.has(late))
	if _, err := Courier(ctx, b.cfg.Data, admin.CourierOrder{Do: "read", Text: "Moin"}, nil); err == nil || !strings.Contains(err.Error(), "HALLIG:") {
		t.Errorf("a text that is no sheet: %v", err)
	}
	if _, err := Courier(ctx, a.cfg.Data, admin.CourierOrder{Do: "import", Place: t.TempDir()}, nil); err == nil || !strings.Contains(err.Error(), courier.Folder) {
		t.Errorf("a stick without a courier: %v", err)
	}
	if _, err := Courier(ctx, t.TempDir(), admin.CourierOrder{Do: "import", Place: stick}, nil); !errors.Is(err, ErrNoBox) {
		t.Errorf("without a box: %v", err)
	}
}

// TestJoinByStick: somebody is invited and joins although nothing but a stick ever passes between the two boxes after their pairing.
func TestJoinByStick(t *testing.T) {
	if !inside(t) {
		return
	}
	ctx := t.Context()
	stick := t.TempDir()
	a, b := startBox(t, "a.test"), startBox(t, "b.test")
	anna, bert := a.phone("anna"), b.phone("bert")
	code, err := a.adminOptions().ShowCode(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(ctx, code.Code, ""); err != nil {
		t.Fatal(err)
	}
	near(t, a, b, "after the pairing")
	setLoopback(t, false)
	apart := func(x *running, server string) {
		t.Helper()
		for end := time.Now().Add(inTime); x.exchange.host.InReach(server) || x.exchange.link.Reaches(server); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the boxes do not notice that they are apart")
			}
		}
	}
	apart(a, "b.test")
	apart(b, "a.test")
	room, err := anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", Name: "Deich"})
	if err != nil {
		t.Fatal(err)
	}
	first := anna.say(room, "Wer ist da?")
	if err := anna.Invite(ctx, room, bert.UserID); err == nil {
		t.Error("an invite reached a box that is out of reach")
	}
	// visit is what a plugged stick has a box do; it gives the import's part of the other box.
	visit := func(x *running) (in admin.CourierBox) {
		t.Helper()
		for _, do := range []string{"import", "export"} {
			r := x.order(admin.CourierOrder{Do: do, Place: stick})
			if len(r.Bad) > 0 {
				t.Errorf("%s: %v", do, r.Bad)
			}
			if do == "import" && len(r.Boxes) == 1 {
				in = r.Boxes[0]
			}
		}
		return in
	}
	var in admin.CourierBox
	for n := 0; in.Asked == 0; n++ { // an invite is not tried again within five seconds
		if n == 12 {
			t.Fatalf("the invite did not travel: %+v", in)
		}
		a.order(admin.CourierOrder{Do: "export", Place: stick})
		in = visit(b)
	}
	invited := false
	for end := time.Now().Add(inTime); !invited && time.Now().Before(end); {
		r, err := bert.Sync(ctx, matrixclient.SyncOptions{Since: bert.since, Timeout: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		_, invited = r.Rooms.Invite[room]
	}
	if !invited {
		t.Fatal("bert sees no invite")
	}
	joined := make(chan error, 1)
	go func() { // its client gives up after 20 s and the join goes on
		_, err := bert.Join(context.WithoutCancel(ctx), room)
		joined <- err
	}()
	asked := 0
	for trip := 0; trip < 6; trip++ {
		visit(b)
		in := visit(a)
		asked += in.Asked
		b.order(admin.CourierOrder{Do: "import", Place: stick})
		s, err := b.status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Rooms == 1 {
			t.Logf("joined with trip %d", trip+1)
			break
		}
	}
	t.Logf("the join's answer: %v", <-joined) // when the room is here it has ended, or its client was sent away
	late := anna.say(room, "Schön, dass du da bist")
	visit(a)
	visit(b)
	// A busy box may learn of the join only after its part of the stick is written: then the stick goes once more.
	carry := func(from, to *running, there func() bool) func() bool {
		tries := 0
		return func() bool {
			if tries++; !there() && tries%8 == 0 {
				visit(from)
				visit(to)
			}
			return there()
		}
	}
	bert.until("what was written after the join", carry(a, b, bert.has(late)))
	if _, err := bert.Event(ctx, room, first); err == nil {
		t.Log("what was written before is here as well")
	}
	answer := bert.say(room, "Bin da")
	visit(b)
	visit(a)
	anna.until("bert's word", carry(b, a, anna.has(answer)))
	sameState(t, room, anna, bert)
	if asked < 2 {
		t.Errorf("b asked %d times, want make_join and send_join", asked)
	}
}

// TestStickPutBack: a stick that was pulled out and is put back has not been served again yet, so nobody is told to pull it.
func TestStickPutBack(t *testing.T) {
	b := &Box{exchange: &exchangeParts{}}
	in := []steward.Stick{{Name: "EINSATZ"}}
	b.noteStick(health.CourierFacts{Stick: "EINSATZ", Done: health.Sentence{DE: "Da.", EN: "Done."}, Pull: true})
	for i, c := range []struct {
		sticks []steward.Stick
		pull   bool
	}{{in, true}, {in, true}, {nil, false}, {in, false}} {
		if f := b.courierFacts(c.sticks); f == nil || f.Pull != c.pull || f.Done.EN != "Done." {
			t.Errorf("look %d: %+v, want that it can be pulled: %v", i, f, c.pull)
		}
	}
}
