// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/tools/matrixclient"
)

// alone is the configuration of a box without links.
func alone() map[string]any { return map[string]any{"p2p": map[string]any{"off": true}} }

// party registers n users, the first of whom makes a room that all join.
func party(ctx context.Context, base string, n int) ([]*matrixclient.Client, string, error) {
	pool := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var users []*matrixclient.Client
	for i := range n {
		c := matrixclient.New(base)
		c.HTTP = pool
		if err := c.Register(ctx, fmt.Sprintf("helfer%d", i), "feste Deiche, ruhige See", ""); err != nil {
			return nil, "", err
		}
		users = append(users, c)
	}
	room, err := users[0].CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Name: "Lage"})
	if err != nil {
		return nil, "", err
	}
	for _, c := range users[1:] {
		if _, err := c.Join(ctx, room); err != nil {
			return nil, "", err
		}
	}
	return users, room, nil
}

// load sends n texts of 100 characters with the given number of concurrent senders; each waits for its answer.
func load(ctx context.Context, users []*matrixclient.Client, room string, senders, n int) error {
	const text = "Pegel am Siel steigt um zwei Zentimeter je Stunde, Trupp 3 sichert die Pumpe am Nordtor bis 18 Uhr."
	var wg sync.WaitGroup
	errs := make([]error, senders)
	for s := range senders {
		wg.Go(func() {
			c := users[s%len(users)]
			for range n / senders {
				if _, err := c.SendText(ctx, room, text); err != nil {
					errs[s] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func flushes(ctx context.Context, box *box) (int64, error) {
	var s admin.Status
	err := appliance.Ask(ctx, box.dir, "GET", "/status", nil, &s)
	return s.Flushes, err
}
