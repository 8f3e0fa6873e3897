// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/radio/ether"
)

// flashes measures, for one seed, how long flash texts take during a transfer of 5 MB at 1200 bit/s, half duplex: until the text is shown, and until its event is in the room.
// The room's policy does without quiet and limits, so that every text meets the transfer.
func flashes(t *testing.T, opposite bool, loss float64, seed uint64, n int) (shown, verified []time.Duration) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, FrameLoss: loss, Seed: seed})
		a.state(id, "anna", priority.Type, "", map[string]any{"quiet_min": 0, "per_10_min": map[string]int{"flash": 0}})
		a.says(id, "anna", "macht die Namen bekannt", priority.Flash)
		pass(2 * time.Minute)
		rng, texts := dice(seed), sentences(t)
		const size = 5 << 20
		from, to := a, b
		if opposite {
			from, to = b, a
		}
		file := to.fetch(from, size)
		pass(time.Minute)
		for range n {
			pass(45*time.Second + time.Duration(rng.Int64N(int64(45*time.Second))))
			content, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": texts[rng.IntN(len(texts))], priority.Type: "flash"})
			before, began := len(b.timeline(id)), time.Now()
			if _, err := a.rooms.Send(t.Context(), room.Draft{Room: id, Sender: a.user("anna"), Type: "m.room.message", Content: content}); err != nil {
				t.Fatal(err)
			}
			there := func() bool { return len(b.timeline(id)) > before }
			for !there() && len(b.notices(id)) == 0 {
				pass(20 * time.Millisecond)
			}
			shown = append(shown, time.Since(began))
			for !there() {
				pass(20 * time.Millisecond)
			}
			verified = append(verified, time.Since(began))
		}
		if file() >= 0 {
			t.Errorf("seed %d: the transfer was over before the last flash", seed)
		}
	})
	return shown, verified
}

func quantile(d []time.Duration, q float64) float64 {
	slices.Sort(d)
	return d[min(int(q*float64(len(d))), len(d)-1)].Seconds()
}

// TestFlashLatency is the measurement behind `make bench` flash_...; without HALLIG_MEASURE it is too short to say anything, and only shows that it works.
func TestFlashLatency(t *testing.T) {
	seeds, each := uint64(1), 2
	if os.Getenv("HALLIG_MEASURE") != "" {
		seeds, each = 10, 20
	}
	for _, m := range []struct {
		name     string
		opposite bool
		loss     float64
		q        float64
	}{
		{"flash_p99_same", false, 0, 0.99}, {"flash_p99_opposite", true, 0, 0.99},
		{"flash_p95_same_loss20", false, 0.2, 0.95}, {"flash_p95_opposite_loss20", true, 0.2, 0.95},
	} {
		var shown, verified []time.Duration
		for seed := range seeds {
			s, v := flashes(t, m.opposite, m.loss, seed+1, each)
			shown, verified = append(shown, s...), append(verified, v...)
		}
		how := fmt.Sprintf("%d flash texts of 100 characters during a transfer of 5 MB at 1200 bit/s, half duplex, 300 ms TXDELAY, frame loss %.0f %%, quiet mode off, %d seeds", len(shown), 100*m.loss, seeds)
		fmt.Printf("measured %s_s %.3f until the text can be read, %s; median %.1f s\n", m.name, quantile(shown, m.q), how, quantile(shown, 0.5))
		fmt.Printf("measured %s_signed_s %.3f until the signed event is in the room, %s; median %.1f s\n", m.name, quantile(verified, m.q), how, quantile(verified, 0.5))
	}
}
