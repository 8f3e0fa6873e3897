// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hallig/radio/ether"
	"hallig/radio/serial"
	"hallig/sync/peer"
	"hallig/tools/matrixclient"
)

const inNamespace = "HALLIG_TEST_NAMESPACE"

// inside runs the named test in a network namespace of its own, with nothing in it but a loopback that can be taken away;
// the caller returns if it answers false.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		setLoopback(t, true)
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && !strings.Contains(string(out), noRights):
		t.Errorf("in its namespace: %v\n%s", err, out)
	case err != nil:
		t.Logf("this machine gives no network namespaces, so nothing was tested here: %v", err)
	default:
		t.Logf("%s", out)
	}
	return false
}

func setLoopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	flags := uint16(unix.IFF_LOOPBACK | unix.IFF_MULTICAST)
	if up {
		flags |= unix.IFF_UP | unix.IFF_RUNNING
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatalf("%s: %v", noRights, err)
	}
}

const noRights = "no rights in the namespace"

// running is a whole box; its phones reach it without a network.
type running struct {
	*Box
	t    *testing.T
	stop context.CancelFunc
	done chan error
}

func startBox(t *testing.T, name string) *running {
	return startWith(t, Config{Data: t.TempDir(), ServerName: name, P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}}})
}

func startWith(t *testing.T, cfg Config) *running {
	t.Helper()
	name := cfg.ServerName
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("HALLIG_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("box", name)
	}
	cfg.Listen, cfg.OpenRegistration = "127.0.0.1:0", true
	b, err := Open(t.Context(), cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &running{Box: b, t: t, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- b.Run(ctx) }() // the clean-up waits for it
	t.Cleanup(r.end)
	return r
}

// end stops the box; a second call does nothing.
func (r *running) end() {
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	if err := errors.Join(<-r.done, r.Close()); err != nil {
		r.t.Errorf("%s ended badly: %v", r.id.Server, err)
	}
}

// RoundTrip hands a phone's request to the box.
func (r *running) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if req.Body == nil {
		req.Body = http.NoBody
	}
	in := httptest.NewRequestWithContext(req.Context(), req.Method, req.URL.String(), req.Body)
	in.Header = req.Header
	r.clients.ServeHTTP(w, in)
	return w.Result(), nil
}

func (r *running) user(name string) *matrixclient.Client {
	r.t.Helper()
	c := matrixclient.New("http://phone")
	c.HTTP = &http.Client{Transport: r}
	if err := c.Register(r.t.Context(), name, "Rungholt lebt 1362", ""); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// phone follows /sync and remembers what came.
type phone struct {
	*matrixclient.Client
	t      *testing.T
	since  string
	events map[string]matrixclient.Event // timelines, by id
	order  []string
	other  []string // "type content" of to-device and ephemeral events
	lists  []string // users whose device lists changed
}

func (r *running) phone(name string) *phone {
	return &phone{Client: r.user(name), t: r.t, events: map[string]matrixclient.Event{}}
}

// inTime bounds a wait for something that has to come; a test that runs into it fails. It is for a machine that does much else.
const inTime = 2 * time.Minute

// until syncs until ok, and says how long that took.
func (p *phone) until(what string, ok func() bool) time.Duration {
	p.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > inTime {
			p.t.Fatalf("%s: %s: not within %s", p.UserID, what, inTime)
		}
		r, err := p.Sync(p.t.Context(), matrixclient.SyncOptions{Since: p.since, Timeout: 500 * time.Millisecond, Filter: `{"room":{"timeline":{"limit":100}}}`})
		if err != nil {
			p.t.Fatal(err)
		}
		p.since = r.NextBatch
		for _, room := range r.Rooms.Join {
			for _, e := range room.Timeline.Events {
				if _, twice := p.events[e.ID]; twice {
					p.t.Errorf("%s: %s came twice", p.UserID, e.ID)
				}
				p.events[e.ID] = e
				p.order = append(p.order, e.ID)
			}
			for _, e := range room.Ephemeral.Events {
				p.other = append(p.other, e.Type+" "+string(e.Content))
			}
		}
		for _, e := range r.ToDevice.Events {
			p.other = append(p.other, e.Type+" "+string(e.Content))
		}
		p.lists = append(p.lists, r.DeviceLists.Changed...)
	}
	return time.Since(began)
}

func (p *phone) has(ids ...string) func() bool {
	return func() bool {
		for _, id := range ids {
			if _, ok := p.events[id]; !ok {
				return false
			}
		}
		return true
	}
}

func (p *phone) heard(part string) func() bool {
	return func() bool {
		for _, o := range p.other {
			if strings.Contains(o, part) {
				return true
			}
		}
		return false
	}
}

func (p *phone) say(room, text string) string {
	p.t.Helper()
	id, err := p.SendText(p.t.Context(), room, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *phone) call(method, path, body string) json.RawMessage {
	p.t.Helper()
	resp, err := p.Raw(p.t.Context(), method, path, "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, raw, err)
	}
	return raw
}

// sameState compares the state that two phones are shown.
func sameState(t *testing.T, room string, a, b *phone) {
	t.Helper()
	states := [2]map[string]string{}
	for i, p := range []*phone{a, b} {
		events, err := p.State(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		states[i] = map[string]string{}
		for _, e := range events {
			states[i][e.Type+" "+*e.StateKey] = e.ID
		}
	}
	if got, want := fmt.Sprint(states[1]), fmt.Sprint(states[0]); got != want {
		t.Errorf("state differs:\n%s\n%s", got, want)
	}
}

// near waits until two paired boxes have found each other.
func near(t *testing.T, a, b *running, when string) {
	t.Helper()
	for end := time.Now().Add(inTime); !a.exchange.host.InReach(b.cfg.ServerName) || !b.exchange.host.InReach(a.cfg.ServerName); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s the boxes do not find each other", when)
		}
	}
}

// TestTwoBoxesOnANetwork is the story of two boxes on an IP network: they find each other by mDNS and pair by a code, a
// user is invited across, everything travels both ways; the network goes, both write on, it comes back.
func TestTwoBoxesOnANetwork(t *testing.T) {
	if !inside(t) {
		return
	}
	ctx := t.Context()
	a, b, stranger := startBox(t, "a.test"), startBox(t, "b.test"), startBox(t, "c.test")
	anna, bert, carl := a.phone("anna"), b.phone("bert"), stranger.phone("carl")
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
	if err := anna.Invite(ctx, room, carl.UserID); err == nil {
		t.Error("an invite reached a box that is not paired")
	}
	first := anna.say(room, "Land unter")
	bert.until("a message of anna", bert.has(first))
	answer := bert.say(room, "verstanden")
	anna.until("bert's answer", anna.has(answer))

	t.Run("receipts, redactions, to-device and keys travel", func(t *testing.T) {
		bert.call("POST", matrixclient.Path("rooms", room, "receipt", "m.read", first), "{}")
		anna.until("bert's receipt", anna.heard(bert.UserID))
		redaction, err := anna.Redact(ctx, room, first, "Irrtum")
		if err != nil {
			t.Fatal(err)
		}
		bert.until("the redaction", bert.has(redaction))
		if e, err := bert.Event(ctx, room, first); err != nil || e.Body() != "" {
			t.Errorf("bert still reads %q, %v", e.Body(), err)
		}
		keys := fmt.Sprintf(`{"device_keys":{"user_id":%q,"device_id":%q,"algorithms":["m.megolm.v1.aes-sha2"],"keys":{"ed25519:%s":"abc"},"signatures":{}},
			"one_time_keys":{"signed_curve25519:AAAA":{"key":"one","signatures":{}}}}`, bert.UserID, bert.DeviceID, bert.DeviceID)
		bert.call("POST", matrixclient.Path("keys", "upload"), keys)
		anna.until("news of bert's devices", func() bool { return strings.Contains(fmt.Sprint(anna.lists), bert.UserID) })
		if got := anna.call("POST", matrixclient.Path("keys", "query"), fmt.Sprintf(`{"device_keys":{%q:[]}}`, bert.UserID)); !strings.Contains(string(got), `"abc"`) {
			t.Errorf("keys/query gave %s", got)
		}
		if got := anna.call("POST", matrixclient.Path("keys", "claim"), fmt.Sprintf(`{"one_time_keys":{%q:{%q:"signed_curve25519"}}}`, bert.UserID, bert.DeviceID)); !strings.Contains(string(got), `"one"`) {
			t.Errorf("keys/claim gave %s", got)
		}
		anna.call("PUT", matrixclient.Path("sendToDevice", "m.room_key", "t1"), fmt.Sprintf(`{"messages":{%q:{%q:{"secret":"geheim"}}}}`, bert.UserID, bert.DeviceID))
		bert.until("a to-device message", bert.heard("geheim"))
	})

	setLoopback(t, false)
	var ids []string
	for i := range 30 {
		ids = append(ids, anna.say(room, fmt.Sprint("Insel A ", i)), bert.say(room, fmt.Sprint("Insel B ", i)))
	}
	topic, err := anna.SetState(ctx, room, "m.room.topic", "", map[string]string{"topic": "Sicht von A"})
	if err != nil {
		t.Fatal(err)
	}
	ids = append(ids, topic)
	anna.until("some time without a network", waited(8*time.Second))
	setLoopback(t, true)
	back := time.Now()
	anna.until("everything of the other island", anna.has(ids...))
	bert.until("everything of the other island", bert.has(ids...))
	t.Logf("both had everything %s after the network came back", time.Since(back)) // some 2 s on a machine that does nothing else
	last := bert.say(room, "wieder da")
	anna.until("bert's last word", anna.has(last))
	sameState(t, room, anna, bert)
}

func waited(d time.Duration) func() bool {
	from := time.Now()
	return func() bool { return time.Since(from) > d }
}

// paired makes two boxes know each other without a network between them, as after a pairing at home.
func paired(t *testing.T, boxes ...*running) {
	t.Helper()
	for _, b := range boxes {
		statement, err := peer.State(b.id.Box, peer.Peer{
			Server: b.id.Server, SigningKeys: map[string]ed25519.PublicKey{b.id.Key.ID: publicKey(b.id.Key.Private)}, Serial: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		p, err := peer.ReadStatement(statement)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range boxes {
			if other != b {
				if err := other.addPeer(p); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestTwoBoxesOnALine: two boxes that have nothing but a serial line between them. A user is invited across, joins, and
// they talk; the line is cut and comes back.
func TestTwoBoxesOnALine(t *testing.T) {
	ctx := t.Context()
	const rate = 9600
	ptys := [2]*serial.PTY{}
	for i := range ptys {
		var err error
		if ptys[i], err = serial.NewPTY(); err != nil {
			t.Fatal(err)
		}
	}
	line := ether.NewLine(ptys[0], ptys[1], ether.Config{BitsPerSecond: rate, FrameLoss: 0.05, Seed: 1})
	lineCtx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- line.Run(lineCtx) }() // the clean-up waits for it
	t.Cleanup(func() { stop(); <-ended })
	boxes := [2]*running{}
	for i, name := range []string{"a.test", "b.test"} {
		boxes[i] = startWith(t, Config{Data: t.TempDir(), ServerName: name, P2P: P2PConfig{Off: true},
			Serial: []SerialConfig{{Device: ptys[i].Device, Baud: rate, HalfDuplex: true}}})
	}
	paired(t, boxes[:]...)
	anna, bert := boxes[0].phone("anna"), boxes[1].phone("bert")
	room, err := anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", Name: "Funk", Topic: "nur über die Leitung"})
	if err != nil {
		t.Fatal(err)
	}
	anna.until("contact over the line", func() bool {
		s := boxes[0].exchange.link.Status()
		return len(s) == 1 && s[0].Carries != "" && s[0].Greeted
	})
	if err := anna.Invite(ctx, room, bert.UserID); err != nil {
		t.Fatalf("invite over the line: %v", err)
	}
	began := time.Now()
	if _, err := bert.Join(ctx, room); err != nil {
		t.Fatalf("join over the line: %v", err)
	}
	a, b := line.Counters(0).Bytes, line.Counters(1).Bytes
	t.Logf("joined over the line in %s; invite and join took %d + %d bytes", time.Since(began).Round(time.Millisecond), a, b)
	var ids []string
	for i := range 5 {
		ids = append(ids, anna.say(room, fmt.Sprint("Funkspruch A ", i)), bert.say(room, fmt.Sprint("Funkspruch B ", i)))
	}
	anna.until("the talk", anna.has(ids...))
	bert.until("the talk", bert.has(ids...))
	line.Cut(true)
	for i := range 5 {
		ids = append(ids, anna.say(room, fmt.Sprint("allein A ", i)), bert.say(room, fmt.Sprint("allein B ", i)))
	}
	anna.until("the line to be missed", waited(4*time.Second))
	line.Cut(false)
	took := anna.until("everything after the cut", anna.has(ids...))
	bert.until("everything after the cut", bert.has(ids...))
	t.Logf("everything was there %s after the line came back", took.Round(time.Millisecond))
	sameState(t, room, anna, bert)
}

// TestRestoredBox: a box goes on from an older copy of its data. What it writes then reaches the other box, and with the
// next word from there it gets back what the copy lacks.
func TestRestoredBox(t *testing.T) {
	ctx := t.Context()
	quiet := P2PConfig{NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}
	data := t.TempDir()
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "b.test", P2P: quiet})
	again := func(restored bool) *running {
		near := quiet
		near.Peers = b.exchange.host.Addrs()
		return startWith(t, Config{Data: data, ServerName: "a.test", P2P: near, Restored: restored})
	}
	a := again(false)
	paired(t, a, b)
	a.end()
	a = again(false) // the roster is read at the start
	anna, bert := a.phone("anna"), b.phone("bert")
	room, err := anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	bert.until("the other box", func() bool { return b.exchange.host.InReach("a.test") })
	if _, err := bert.Join(ctx, room, "a.test"); err != nil {
		t.Fatal(err)
	}
	before := anna.say(room, "vor der Sicherung")
	bert.until("the first message", bert.has(before))
	a.end()
	backup := t.TempDir()
	if err := os.CopyFS(filepath.Join(backup, "copy"), os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	a = again(false)
	anna.HTTP.Transport = a
	forgotten := anna.say(room, "nach der Sicherung")
	bert.until("the second message", bert.has(forgotten))
	a.end()
	data = filepath.Join(backup, "copy")
	a = again(true)
	anna.HTTP.Transport = a
	anna.since = ""
	clear(anna.events)
	after := anna.say(room, "nach dem Zurückspielen")
	bert.until("the message after the restore", bert.has(after))
	answer := bert.say(room, "verstanden") // builds on what the copy lacks, so the box asks for it
	anna.until("what the copy lacked", anna.has(before, forgotten, after, answer))
	sameState(t, room, anna, bert)
}

// TestBothWereOff: two boxes on a network that carries no announcements were both off. One of them has reached the other before, and finds it again.
func TestBothWereOff(t *testing.T) {
	var cfg [2]Config
	for i, name := range []string{"a.test", "b.test"} {
		_, port, _ := net.SplitHostPort(freePort(t))
		cfg[i] = Config{Data: t.TempDir(), ServerName: name, P2P: P2PConfig{NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/tcp/" + port}}}
	}
	a, b := startWith(t, cfg[0]), startWith(t, cfg[1])
	code, err := a.adminOptions().ShowCode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, a.exchange.host.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	near(t, a, b, "after the pairing")
	a.end()
	b.end()
	a, b = startWith(t, cfg[0]), startWith(t, cfg[1])
	near(t, a, b, "after both were off")
}
