// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"sync"
	"testing"

	"hallig/appliance/store"
)

// A box that was forgotten stays so when a newer statement of it arrives at the same moment.
func TestForgottenWhileItSaysSomething(t *testing.T) {
	a, b := startBox(t, "a.test"), startBox(t, "b.test")
	p := statementOf(t, b)
	for range 50 {
		if err := a.addPeer(p); err != nil {
			t.Fatal(err)
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				<-start
				a.learnPeer(t.Context(), p)
			})
		}
		wg.Go(func() {
			<-start
			if err := a.forgetPeer(t.Context(), p.ID); err != nil {
				t.Error(err)
			}
		})
		close(start)
		wg.Wait()
		var stored int
		if err := a.db.View(t.Context(), func(r *store.Read) error {
			rows, err := r.Peers()
			stored = len(rows)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if stored != 0 || a.exchange.isBox("b.test") {
			t.Fatalf("it is paired again: %d in the store, %v here", stored, a.exchange.isBox("b.test"))
		}
	}
}
