// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
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

// copied waits until the hub has its copies of the rooms: a box that goes dark has been with its hub for more than the moments since this world began, and does not bring them a second time when it is back.
func (w *world) copied(ctx context.Context) error {
	if w.hub == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	for {
		s, err := w.hub.Status(ctx)
		if err == nil && s.Hub.Copies.Rooms == len(w.rooms) && s.Hub.Copies.Behind == 0 {
			say("the hub has copies of all rooms")
			return nil
		}
		if !pause(ctx, 500*time.Millisecond) {
			return fmt.Errorf("the hub has copies of %d rooms, %d of them behind, and not of all: %w", s.Hub.Copies.Rooms, s.Hub.Copies.Behind, errors.Join(err, context.Cause(ctx)))
		}
	}
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
