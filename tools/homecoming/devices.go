// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"hallig/tools/matrixclient"
)

// This file is what encryption needs of a homecoming: messages between devices, fresh lists of devices, one-time keys. Signatures and identity keys are not real; no server looks.

const oneTimeKeys = 10

func signedBy(c *matrixclient.Client) map[string]any {
	return map[string]any{c.UserID: map[string]string{"ed25519:" + c.DeviceID: noKey(64)}}
}

// uploadKeys gives a device keys.
func uploadKeys(ctx context.Context, c *matrixclient.Client) error {
	return c.Do(ctx, http.MethodPost, matrixclient.Path("keys", "upload"), map[string]any{
		"device_keys": map[string]any{"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
			"keys": map[string]string{"curve25519:" + c.DeviceID: noKey(32), "ed25519:" + c.DeviceID: noKey(32)}, "signatures": signedBy(c)},
	}, nil)
}

// uploadOneTime gives a device more one-time keys.
func (w *world) uploadOneTime(ctx context.Context, c *matrixclient.Client, count int) error {
	keys := map[string]any{}
	for range count {
		id, public, err := w.rings.make(c)
		if err != nil {
			return err
		}
		keys[id] = map[string]any{"key": public, "signatures": signedBy(c)}
	}
	return c.Do(ctx, http.MethodPost, matrixclient.Path("keys", "upload"), map[string]any{"one_time_keys": keys}, nil)
}

// noKey looks like a key, or a signature, of n bytes.
func noKey(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	return base64.RawStdEncoding.EncodeToString(raw)
}

// keys has the first person of each side upload keys, and each ask for the other's, as clients do before they encrypt.
func (w *world) keys(ctx context.Context) error {
	for s := range w.people {
		if err := errors.Join(uploadKeys(ctx, w.people[s][0]), w.uploadOneTime(ctx, w.people[s][0], oneTimeKeys)); err != nil {
			return fmt.Errorf("upload keys at the %s: %w", sides[s], err)
		}
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for s := range w.people {
		for {
			devices, err := w.devicesOf(ctx, s)
			if err == nil && len(devices) > 0 {
				break
			}
			if !pause(ctx, 500*time.Millisecond) {
				return fmt.Errorf("the %s does not tell the devices of the other side's first person: %v", sides[s], err)
			}
		}
	}
	return nil
}

// devicesOf asks one side for the devices of the other side's first person.
func (w *world) devicesOf(ctx context.Context, side int) (map[string]json.RawMessage, error) {
	user := w.people[1-side][0].UserID
	var out struct {
		Devices map[string]map[string]json.RawMessage `json:"device_keys"`
	}
	err := w.people[side][0].Do(ctx, http.MethodPost, matrixclient.Path("keys", "query"), map[string]any{"device_keys": map[string][]string{user: {}}}, &out)
	return out.Devices[user], err
}

// claim takes one of the one-time keys of the other side's first person; id is "" when none is given.
func (w *world) claim(ctx context.Context, side int) (id, public string, err error) {
	other := w.people[1-side][0]
	var out struct {
		Keys map[string]map[string]map[string]struct {
			Key string `json:"key"`
		} `json:"one_time_keys"`
	}
	err = w.people[side][0].Do(ctx, http.MethodPost, matrixclient.Path("keys", "claim"),
		map[string]any{"one_time_keys": map[string]any{other.UserID: map[string]string{other.DeviceID: "signed_curve25519"}}}, &out)
	for id, key := range out.Keys[other.UserID][other.DeviceID] {
		return id, key.Key, w.rings.give(other, id, key.Key)
	}
	return "", "", err
}

// sendToDevice sends numbered messages to the device of the other side's first person.
func (w *world) sendToDevice(ctx context.Context, side, count int) (numbers []int, err error) {
	other := w.people[1-side][0]
	for range count {
		w.wrote++
		body := map[string]any{"messages": map[string]any{other.UserID: map[string]any{other.DeviceID: map[string]any{"n": w.wrote}}}}
		path := matrixclient.Path("sendToDevice", "org.hallig.homecoming", "d"+strconv.Itoa(w.wrote))
		if err := w.people[side][0].Do(ctx, http.MethodPut, path, body, nil); err != nil {
			return numbers, fmt.Errorf("send to a device at the %s: %w", sides[side], err)
		}
		numbers = append(numbers, w.wrote)
	}
	return numbers, nil
}

// beforeGivingUp does in the first moments of the night what a central server that has given up would not keep for the box (Dendrite does not), waits until it
// has given the box up, and has both first persons log in with another device.
func (w *world) beforeGivingUp(ctx context.Context, n *night, round int) (err error) {
	for s := range n.toDevice {
		if n.toDevice[s], err = w.sendToDevice(ctx, s, toDeviceEach); err != nil {
			return err
		}
	}
	until := time.Now().Add(90 * time.Second)
	for off := false; !off && time.Now().Before(until) && w.o.kills == 0 && w.hub == nil; {
		if off, _, err = w.central.backedOff(ctx, w.box.Server); err != nil {
			return err
		}
		pause(ctx, 500*time.Millisecond)
	}
	if round > 0 {
		return nil
	}
	for s := range n.devices {
		c := matrixclient.New(w.people[s][0].Base)
		if err := c.Login(ctx, w.people[s][0].UserID, password, ""); err != nil {
			return fmt.Errorf("log in at the %s: %w", sides[s], err)
		}
		if err := uploadKeys(ctx, c); err != nil {
			return err
		}
		n.devices[s] = c.DeviceID
	}
	return nil
}
