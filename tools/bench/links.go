// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/radio/ether"
	"hallig/radio/serial"
	"hallig/tools/matrixclient"
)

// linksMemory compares a box that has served 400 messages alone with one that has exchanged them with another box over libp2p, a serial line standing by.
func linksMemory(ctx context.Context, b *bench) error {
	const messages = 400
	var alones, linked int64
	err := b.inDir(func(dir string) error {
		box, _, err := start(ctx, b.hallig, dir, alone())
		if err != nil {
			return err
		}
		defer box.stop()
		users, room, err := party(ctx, box.base, 2)
		if err != nil {
			return err
		}
		if err := load(ctx, users, room, 1, messages); err != nil {
			return err
		}
		alones, err = box.rss()
		return err
	})
	if err != nil {
		return err
	}
	err = b.inDir(func(dirA string) error {
		return b.inDir(func(dirB string) error {
			rss, err := b.linkedRSS(ctx, dirA, dirB, messages)
			linked = rss
			return err
		})
	})
	if err != nil {
		return err
	}
	b.say("links_rss_bytes", float64(linked-alones), "B", fmt.Sprintf("VmRSS after 400 messages with another box over libp2p and a serial line of 9600 bit/s (%d), less that of a box alone (%d)", linked, alones))
	return nil
}

func (b *bench) linkedRSS(ctx context.Context, dirA, dirB string, messages int) (rss int64, err error) {
	var ends [2]*serial.PTY
	for i := range ends {
		if ends[i], err = serial.NewPTY(); err != nil {
			return 0, err
		}
		defer ends[i].Close()
	}
	line := ether.NewLine(ends[0], ends[1], ether.Config{BitsPerSecond: 9600, FullDuplex: true, Seed: 1})
	lineCtx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); line.Run(lineCtx) }() // waited for below
	defer func() { stop(); <-ended }()
	var boxes [2]*box
	for i, dir := range []string{dirA, dirB} {
		config := map[string]any{
			"p2p":    map[string]any{"listen": []string{"/ip4/127.0.0.1/tcp/0"}, "announce": []string{}},
			"serial": []map[string]any{{"device": ends[i].Device, "baud": 9600}},
		}
		if boxes[i], _, err = start(ctx, b.hallig, dir, config); err != nil {
			return 0, err
		}
		defer boxes[i].stop()
	}
	if err := pairBoxes(ctx, dirA, dirB); err != nil {
		return 0, err
	}
	anna, bert := matrixclient.New(boxes[0].base), matrixclient.New(boxes[1].base)
	room, since, err := meet(ctx, anna, bert)
	if err != nil {
		return 0, err
	}
	if err := load(ctx, []*matrixclient.Client{anna}, room, 1, messages-1); err != nil {
		return 0, err
	}
	last, err := anna.SendText(ctx, room, "Ende")
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, _, err := bert.WaitEvent(ctx, since, room, func(e matrixclient.Event) bool { return e.ID == last }); err != nil {
		return 0, fmt.Errorf("wait for the last message at the other box: %w", err)
	}
	return boxes[0].rss()
}

// pairBoxes makes two boxes know each other, as two operators with a code would.
func pairBoxes(ctx context.Context, shows, takes string) error {
	var code admin.PairCode
	var s admin.Status
	if err := appliance.Ask(ctx, shows, "POST", "/pair/show", struct{}{}, &code); err != nil {
		return fmt.Errorf("show a pairing code: %w", err)
	}
	if err := appliance.Ask(ctx, shows, "GET", "/status", nil, &s); err != nil {
		return err
	}
	if len(s.Addresses) == 0 {
		return errors.New("the box tells no address for pairing")
	}
	return appliance.Ask(ctx, takes, "POST", "/pair/take", map[string]string{"Code": code.Code, "Address": s.Addresses[0]}, nil)
}

// meet registers a user at each of two boxes and joins them in a room of the first one's. since is the second one's token.
func meet(ctx context.Context, anna, bert *matrixclient.Client) (room, since string, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for name, c := range map[string]*matrixclient.Client{"anna": anna, "bert": bert} {
		if err := c.Register(ctx, name, "feste Deiche, ruhige See", ""); err != nil {
			return "", "", err
		}
	}
	if room, err = anna.CreateRoom(ctx, matrixclient.CreateRoom{Name: "Deich", Preset: "private_chat"}); err != nil {
		return "", "", err
	}
	if err := anna.Invite(ctx, room, bert.UserID); err != nil {
		return "", "", err
	}
	since, err = bert.Follow(ctx, "", func(r *matrixclient.SyncResponse) bool {
		_, invited := r.Rooms.Invite[room]
		return invited
	})
	if err != nil {
		return "", "", fmt.Errorf("wait for the invite: %w", err)
	}
	_, err = bert.Join(ctx, room)
	return room, since, err
}
