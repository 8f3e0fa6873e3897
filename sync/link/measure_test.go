// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/radio/ether"
)

// sentences are German texts of 100 characters that the text model has never seen.
func sentences(t *testing.T) []string {
	t.Helper()
	f, err := os.Open("../../tools/bench/testdata/sentences_de.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if s.Text() != "" {
			out = append(out, s.Text())
		}
	}
	if len(out) < 200 {
		t.Fatalf("%d sentences, want at least 200", len(out))
	}
	return out
}

// megolm is the content of an encrypted event as clients make it of a text: real sizes and framing, random bytes.
func megolm(rng *rand.Rand, id event.RoomID, index int, text string) json.RawMessage {
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	plain, _ := json.Marshal(map[string]any{"type": "m.room.message", "room_id": id, "content": map[string]string{"msgtype": "m.text", "body": text}})
	padded := (len(plain)/16 + 1) * 16
	msg := []byte{3, 8, byte(index & 0x7f), 0x12}
	for n := padded; ; n >>= 7 {
		if n < 0x80 {
			msg = append(msg, byte(n))
			break
		}
		msg = append(msg, byte(n)|0x80)
	}
	msg = append(msg, random(padded)...)
	msg = append(msg, random(8+64)...) // MAC and signature
	session := rand.New(rand.NewPCG(7, 7))
	key := func() string {
		b := make([]byte, 32)
		for i := range b {
			b[i] = byte(session.Uint32())
		}
		return base64.RawStdEncoding.EncodeToString(b)
	}
	content, _ := json.Marshal(map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": base64.RawStdEncoding.EncodeToString(msg),
		"device_id": "QBUAZIFURK", "sender_key": key(), "session_id": key()})
	return content
}

// TestWireBytes measures what one text of 100 characters costs on an established serial link, all told: both directions,
// frames, acknowledgements, the receipt. `make bench` reads the lines that begin with "measured".
func TestWireBytes(t *testing.T) {
	for _, kind := range []struct{ name, typ string }{{"wire_bytes_clear_100", "m.room.message"}, {"wire_bytes_e2ee_100", "m.room.encrypted"}} {
		run(t, func(t *testing.T, w *world) {
			cfg := ether.Config{BitsPerSecond: 1200, Seed: 1}
			air := ether.New(cfg)
			a, b := w.box("anna"), w.box("bert")
			pair(a, b)
			radioed(air, cfg, a, b)
			w.start()
			pass(time.Minute)
			id := a.create("anna")
			b.join(a, id, "bert")
			pass(5 * time.Minute)
			rng := rand.New(rand.NewPCG(1, 2))
			say := func(i int, text string) {
				content := json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, text))
				if kind.typ == "m.room.encrypted" {
					content = megolm(rng, id, i, text)
				}
				if _, err := a.rooms.Send(t.Context(), room.Draft{Room: id, Sender: a.user("anna"), Type: kind.typ, Content: content}); err != nil {
					t.Fatal(err)
				}
			}
			say(0, "Das erste Wort macht die Namen bekannt.")
			pass(time.Minute)
			texts := sentences(t)
			before := spoken(air)
			for i, text := range texts {
				say(i+1, text)
				pass(20 * time.Second)
			}
			pass(2 * time.Minute) // the last receipt
			mean := float64(spoken(air)-before) / float64(len(texts))
			if n := len(b.all(id, kind.typ)); n != len(texts)+1 {
				t.Errorf("%d of %d events arrived", n, len(texts)+1)
			}
			if kind.typ == "m.room.message" && mean > 200 {
				t.Errorf("a text of 100 characters costs %.1f bytes on the line, want at most 200", mean)
			}
			fmt.Printf("measured %s %.1f mean of %d held-out German texts of 100 characters, one each 20 s, 1200 bit/s, no loss, both directions, frames, acks, receipts and beacons\n", kind.name, mean, len(texts))
		})
	}
}
