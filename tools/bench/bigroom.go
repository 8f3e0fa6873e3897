// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"hallig/appliance/event"
	"hallig/tools/bigroom"
	"hallig/tools/matrixclient"
)

// joinBig joins a room of 50,000 members and 100,000 state events: when can the user talk, when is everybody known, and what does it take?
func joinBig(ctx context.Context, b *bench) error {
	spec := bigroom.Large()
	room, err := bigroom.Make(spec)
	if err != nil {
		return err
	}
	keys, err := os.MkdirTemp(b.dir, "hallig-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(keys)
	server, err := bigroom.Serve(room, keys)
	if err != nil {
		return err
	}
	defer server.Stop()
	config := alone()
	server.Configure(config)
	return b.inDir(func(dir string) error {
		box, _, err := start(ctx, b.hallig, dir, config)
		if err != nil {
			return err
		}
		defer box.stop()
		anna := matrixclient.New(box.base)
		if err := anna.Register(ctx, "anna", "feste Deiche, ruhige See", ""); err != nil {
			return err
		}
		id := string(server.Room())
		begin := time.Now()
		if err := joinPatiently(ctx, anna, id); err != nil {
			return err
		}
		said, err := anna.SendText(ctx, id, "moin")
		if err != nil {
			return err
		}
		if err := server.Await(ctx, event.ID(said)); err != nil {
			return err
		}
		talk := time.Since(begin)
		if err := knowsMember(ctx, anna, id, string(server.LastMember())); err != nil {
			return err
		}
		whole := time.Since(begin)
		peak, err := box.number("status", "VmHWM")
		if err != nil {
			return err
		}
		how := fmt.Sprintf("room of version %s, %d members of %d servers, %d other state events, over TLS on loopback from a server in the bench's own process; asked %v; ", spec.Version,
			spec.Joined, spec.Servers, spec.Left+spec.Banned+spec.Other+6, server.Counts())
		b.say("join_big_talk_s", talk.Seconds(), "s", how+"from POST join until the first message is acknowledged and has arrived at the server")
		b.say("join_big_resync_s", whole.Seconds(), "s", how+"from POST join until the whole state is known")
		b.say("join_big_rss_mb", float64(peak)/(1<<20), "MiB", how+"VmHWM of the box when the whole state is known")
		return everybody(ctx, anna, id, server.Members())
	})
}

// joinPatiently asks again while the box says that the join still goes on.
func joinPatiently(ctx context.Context, c *matrixclient.Client, room string) error {
	for {
		_, err := c.Join(ctx, room, bigroom.Resident)
		var e *matrixclient.Error
		if !errors.As(err, &e) || e.Status != http.StatusGatewayTimeout {
			return err
		}
	}
}

// knowsMember waits until the box knows a member of a room.
func knowsMember(ctx context.Context, c *matrixclient.Client, room, user string) error {
	for ctx.Err() == nil {
		if c.StateEvent(ctx, room, "m.room.member", user, nil) == nil {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// everybody wants the box to have so many joined members.
func everybody(ctx context.Context, c *matrixclient.Client, room string, want int) error {
	var out struct {
		Joined map[string]any `json:"joined"`
	}
	if err := c.Do(ctx, "GET", matrixclient.Path("rooms", room, "joined_members"), nil, &out); err != nil {
		return err
	}
	if len(out.Joined) != want {
		return fmt.Errorf("the box knows %d members, there are %d", len(out.Joined), want)
	}
	return nil
}
