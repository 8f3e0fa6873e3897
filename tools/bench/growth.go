// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"hallig/tools/matrixclient"
)

//go:embed testdata/sentences_de.txt
var sentences string

// speaker gives contents with 300 bytes of text each, no two alike.
type speaker struct {
	r     *rand.Rand
	lines []string
}

func newSpeaker(seed uint64) *speaker {
	return &speaker{r: rand.New(rand.NewPCG(seed, 300)), lines: strings.Split(strings.TrimSpace(sentences), "\n")}
}

func (s *speaker) clear() any {
	var b strings.Builder
	for b.Len() < 300 {
		b.WriteString(s.lines[s.r.IntN(len(s.lines))] + " ")
	}
	text := b.String()[:300]
	return map[string]any{"msgtype": "m.text", "body": strings.ToValidUTF8(text, "?")}
}

func (s *speaker) bytes(n int) string {
	raw := make([]byte, n)
	for i := range raw {
		raw[i] = byte(s.r.Uint32())
	}
	return base64.RawStdEncoding.EncodeToString(raw)
}

// sealed is what a client sends into an encrypted room: 300 bytes of ciphertext in base64.
func (s *speaker) sealed() any {
	return map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": s.bytes(225), "device_id": "ABCDEFGHIJ", "sender_key": s.bytes(32), "session_id": s.bytes(32)}
}

// growth measures how much the database file grows by messages of 300 bytes: the file after an orderly stop, when the log is folded in.
func growth(ctx context.Context, b *bench) error {
	const senders, n = 10, 10_000
	for _, kind := range []struct {
		name, typ, how string
		content        func(*speaker) any
	}{
		{"db_bytes_per_message_300", "m.room.message", "texts of 300 bytes", (*speaker).clear},
		{"db_bytes_per_message_300_e2ee", "m.room.encrypted", "Megolm messages with 300 bytes of ciphertext", (*speaker).sealed},
	} {
		if !b.wants(kind.name) {
			continue
		}
		err := b.inDir(func(dir string) error {
			box, _, err := start(ctx, b.hallig, dir, alone())
			if err != nil {
				return err
			}
			users, room, err := party(ctx, box.base, 8)
			if err == nil {
				err = load(ctx, users, room, senders, 500)
			}
			if err := errors.Join(err, box.stop()); err != nil {
				return err
			}
			before, err := os.Stat(filepath.Join(dir, "hallig.db"))
			if err != nil {
				return err
			}
			if box, _, err = start(ctx, b.hallig, dir, alone()); err != nil {
				return err
			}
			for _, u := range users {
				u.Base = box.base
			}
			err = speak(ctx, users, room, kind.typ, senders, n, kind.content)
			if err := errors.Join(err, box.stop()); err != nil {
				return err
			}
			after, err := os.Stat(filepath.Join(dir, "hallig.db"))
			if err != nil {
				return err
			}
			b.say(kind.name, float64(after.Size()-before.Size())/n, "B",
				"growth of the database file by 10,000 local "+kind.how+", all tables and indices, between two orderly stops; 1 room, 8 members, 10 senders at once")
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// speak is load with contents of which no two are alike.
func speak(ctx context.Context, users []*matrixclient.Client, room, typ string, senders, n int, content func(*speaker) any) error {
	var wg sync.WaitGroup
	errs := make([]error, senders)
	for s := range senders {
		wg.Go(func() {
			sp := newSpeaker(uint64(s + 1))
			for range n / senders {
				if _, err := users[s%len(users)].Send(ctx, room, typ, "", content(sp)); err != nil {
					errs[s] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
