// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// chatter gives texts of about 100 characters, no two alike: words of German sentences in an order that nobody wrote, with figures. It is harder to compress than what
// people write, which repeats itself.
func chatter(t testing.TB, rng *rand.Rand) func() string {
	t.Helper()
	f, err := os.Open("../../tools/bench/testdata/sentences_de.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var words []string
	for s := bufio.NewScanner(f); s.Scan(); {
		words = append(words, strings.Fields(s.Text())...)
	}
	return func() string {
		var b strings.Builder
		for b.Len() < 96 {
			if rng.IntN(12) == 0 {
				fmt.Fprint(&b, rng.IntN(1000), " ")
				continue
			}
			b.WriteString(words[rng.IntN(len(words))])
			b.WriteByte(' ')
		}
		return strings.TrimSpace(b.String())
	}
}

// TestCarryMany carries many events out and in, in 20 rooms. `make bench` sets HALLIG_COURIER_EVENTS to 100000 and reads the lines that begin with "measured".
func TestCarryMany(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("HALLIG_COURIER_EVENTS"))
	if err != nil {
		n = 500
	}
	w := newWorld(t)
	a, b := w.box("a.test"), w.box("b.test")
	say := chatter(t, rand.New(rand.NewPCG(1, 1)))
	rooms := make([]event.RoomID, 20)
	for i := range rooms {
		rooms[i] = a.create()
		b.join(a, rooms[i])
	}
	done := make(chan error, len(rooms))
	for i := range rooms {
		var texts []string
		for range n / len(rooms) {
			texts = append(texts, say())
		}
		go func() { // awaited below
			var err error
			for _, text := range texts {
				body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
				if _, err = a.rooms.Send(t.Context(), room.Draft{Room: rooms[i], Sender: a.user(), Type: "m.room.message", Content: body}); err != nil {
					break
				}
			}
			done <- err
		}()
	}
	for range rooms {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	d := openStick(t, t.TempDir())
	began := time.Now()
	out := a.export(d)
	exported := time.Since(began)
	in := b.imports(d)
	took := time.Since(began)
	if got := of(in, a).Events; got < n || of(in, a).Refused > 0 || of(in, a).Waiting > 0 {
		t.Errorf("%d of %d events came: %+v", got, n, of(in, a))
	}
	fmt.Printf("measured courier_100k_s %.2f s %d text events in %d rooms from one box to another by a folder: export %.2f s, import %.2f s; stores, flushes, seals and signatures are real\n",
		took.Seconds(), n, len(rooms), exported.Seconds(), (took - exported).Seconds())
	fmt.Printf("measured courier_bytes_per_event %.1f B all files on the stick, per clear text event of about 100 letters, signature included; words in random order\n",
		float64(out.Bytes)/float64(n))
}
