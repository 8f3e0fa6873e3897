// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"os"
	"syscall"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// remote measures what it costs the box to take events of another server in, against what no server can save: one signature and two hashes each.
func remote(ctx context.Context, b *bench) error {
	const rooms, users, perTransaction, transactions, rounds = 5, 4, 50, 40, 5
	keys, err := os.MkdirTemp(b.dir, "hallig-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(keys)
	c, config, err := newCentral(keys)
	if err != nil {
		return err
	}
	defer c.close()
	return b.inDir(func(dir string) error {
		box, _, err := start(ctx, b.hallig, dir, config)
		if err != nil {
			return err
		}
		defer box.stop()
		owner := matrixclient.New(box.base)
		if err := owner.Register(ctx, "anna", "feste Deiche, ruhige See", ""); err != nil {
			return err
		}
		c.base, c.box = box.base, event.UserID(owner.UserID).Server()
		for i := range rooms {
			id, err := owner.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Name: fmt.Sprint("Lage ", i)})
			if err != nil {
				return err
			}
			if err := c.join(ctx, id, users); err != nil {
				return err
			}
		}
		s := newSpeaker(1)
		var perCPU, ratio []float64
		for round := range rounds + 1 {
			var all []*event.PDU
			var bodies [][]byte
			for range transactions {
				var pdus []*event.PDU
				for i := range perTransaction {
					p, err := c.next(c.rooms[(i/5)%rooms], s, i%10 == 9)
					if err != nil {
						return err
					}
					pdus = append(pdus, p)
				}
				body, err := transaction(pdus)
				if err != nil {
					return err
				}
				all, bodies = append(all, pdus...), append(bodies, body)
			}
			// By turns, so that whoever else uses the machine slows both down alike.
			var floor time.Duration
			pub := c.local.Key.Private.Public().(ed25519.PublicKey)
			cpu0, err := box.cpu()
			if err != nil {
				return err
			}
			for i, body := range bodies {
				if err := c.send(ctx, body, perTransaction); err != nil {
					return err
				}
				f, err := signatureFloor(all[i*perTransaction:(i+1)*perTransaction], pub)
				if err != nil {
					return err
				}
				floor += f
			}
			cpu1, err := box.cpu()
			if err != nil {
				return err
			}
			if round > 0 { // the first warms up
				perCPU = append(perCPU, float64(len(all))/(cpu1-cpu0).Seconds())
				ratio = append(ratio, (cpu1-cpu0).Seconds()/floor.Seconds())
			}
		}
		how := "PUT /send over loopback HTTP, transactions of 50 events in 5 rooms, one in ten a new name, the others texts of 300 bytes; durable; median of 5 rounds of 2000; "
		b.say("accept_remote_per_cpu_s", median(perCPU), "1/s", how+"per second of utime + stime of the server process")
		b.say("accept_remote_x_floor", median(ratio), "1", how+"CPU time over that of one ed25519.Verify and two SHA-256 of each event, measured between the transactions")
		return nil
	})
}

// signatureFloor is the CPU time for verifying and hashing the events, and nothing else.
func signatureFloor(pdus []*event.PDU, key ed25519.PublicKey) (time.Duration, error) {
	type item struct{ whole, signed, sig []byte }
	items := make([]item, len(pdus))
	for i, p := range pdus {
		red, err := p.Redacted() // about what a signature covers
		if err != nil {
			return 0, err
		}
		items[i] = item{p.JSON(), red.JSON(), p.Signatures()[0].Sig}
	}
	begin, err := ownCPU()
	if err != nil {
		return 0, err
	}
	var sum byte
	for _, it := range items {
		if ed25519.Verify(key, it.signed, it.sig) { // never: the text still holds the signatures. Verify takes as long either way.
			sum++
		}
		a, b := sha256.Sum256(it.whole), sha256.Sum256(it.signed)
		sum += a[0] ^ b[0]
	}
	end, err := ownCPU()
	_ = sum
	return end - begin, err
}

// ownCPU is user and system time of this process.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
