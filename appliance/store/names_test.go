// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"
)

// A request that outlasts the end of the box asks for names on a connection that is gone.
func TestNamesAfterClose(t *testing.T) {
	db, err := Open(t.Context(), filepath.Join(t.TempDir(), "names.db"), Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, err := db.FindStateKey("m.room.member", "@nobody:example.org")
		if err == nil {
			_, err = (&Read{db: db}).findUser("@nobody:example.org")
		}
		return err
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if err := ask(); err != nil && !errors.Is(err, ErrClosed) {
					t.Error(err)
					return
				}
			}
		})
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := ask(); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
