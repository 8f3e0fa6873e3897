// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"hallig/tools/matrixclient"
)

// This file is what a homecoming is more than one without a hub: the central server is answered while the box is away.

// sealedEach is how many encrypted messages are written to the dark box, each under a one-time key of its own.
const sealedEach = 10

// stock uploads as many one-time keys of the box's first person as the night will take, and waits until the hub has them.
func (w *world) stock(ctx context.Context) error {
	if w.hub == nil {
		return nil
	}
	at := time.Now()
	if err := w.uploadOneTime(ctx, w.people[onBox][0], sealedEach); err != nil {
		return err
	}
	return w.box.AwaitHub(ctx, at)
}

// writeSealed has the central server's first person claim keys of the box's, and write under each.
func (w *world) writeSealed(ctx context.Context, n *night) error {
	if w.hub == nil {
		return nil
	}
	from, to := w.people[onLand][0], w.people[onBox][0]
	for range sealedEach {
		id, public, err := w.claim(ctx, onLand)
		if err != nil {
			return fmt.Errorf("claim a one-time key of a dark box: %w", err)
		}
		if id == "" {
			n.unclaimed++
			continue
		}
		w.wrote++
		m, err := seal(w.wrote, id, public)
		if err != nil {
			return fmt.Errorf("write under one-time key %s: %w", id, err)
		}
		body := map[string]any{"messages": map[string]any{to.UserID: map[string]any{to.DeviceID: m}}}
		if err := from.Do(ctx, http.MethodPut, matrixclient.Path("sendToDevice", typeSealed, "s"+strconv.Itoa(w.wrote)), body, nil); err != nil {
			return fmt.Errorf("send to a device of a dark box: %w", err)
		}
		n.sealed = append(n.sealed, w.wrote)
	}
	return nil
}

// lookAtBackOff notes when the central server has given the box up, however shortly.
func (w *world) lookAtBackOff(ctx context.Context, n *night) error {
	if w.hub == nil || time.Since(w.looked) < w.central.forgets() {
		return nil
	}
	w.looked = time.Now()
	off, how, err := w.central.backedOff(ctx, w.box.Server)
	if off {
		n.off, n.how = true, how
	}
	return err
}
