// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"hallig/appliance/store"
)

// TestEDUThatFailsOnce: a box cannot take an EDU in for a while, its disk being full; those behind it must not make the far end believe that it is kept.
func TestEDUThatFailsOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, _ := two(w, newWire("p2p", 50e3, 20*time.Millisecond))
		pass(10 * time.Second)
		fails := 3
		b.mu.Lock()
		b.fail = func(string) error {
			if fails--; fails >= 0 {
				return errors.New("no room")
			}
			return nil
		}
		b.mu.Unlock()
		var wanted []string
		for i := range 20 {
			body := fmt.Sprintf(`{"n":%d}`, i)
			wanted = append(wanted, a.name+" m.direct_to_device "+body)
			if err := a.db.Do(t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(b.name, "m.direct_to_device", "", []byte(body)) }); err != nil {
				t.Fatal(err)
			}
			pass(100 * time.Millisecond)
		}
		pass(10 * time.Minute)
		if got := b.took(); fmt.Sprint(got) != fmt.Sprint(wanted) {
			t.Errorf("got %d EDUs %v, want %d", len(got), got, len(wanted))
		}
	})
}
