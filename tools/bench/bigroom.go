// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"hallig/appliance/event"
	law "hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/tools/bigroom"
	"hallig/tools/matrixclient"
)

// joinBig joins a room of 50,000 members and 100,000 state events: when can the user talk, when is everybody known, and what does it take?
func joinBig(ctx context.Context, b *bench) error {
	spec := bigroom.Large()
	return b.inBigRoom(ctx, spec, func(box *box, anna *matrixclient.Client, server *bigroom.Server) error {
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
		if err := everybody(ctx, anna, id, server.Members()); err != nil {
			return err
		}
		return b.tellBig(ctx, box, anna, server, said, spec)
	})
}

// tellBig has another server ask a box that was just started for the whole state of the room.
func (b *bench) tellBig(ctx context.Context, joined *box, anna *matrixclient.Client, server *bigroom.Server, said string, spec bigroom.Spec) error {
	if err := joined.stop(); err != nil {
		return err
	}
	config := alone()
	server.Configure(config)
	box, _, err := start(ctx, b.hallig, joined.dir, config)
	if err != nil {
		return err
	}
	defer box.stop()
	begin := time.Now()
	uri := "/_matrix/federation/v1/state/" + url.PathEscape(string(server.Room())) + "?event_id=" + url.QueryEscape(said)
	resp, err := server.Ask(ctx, event.UserID(anna.UserID).Server(), box.base, "GET", uri, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var size counter
	var answer struct {
		PDUs  []struct{} `json:"pdus"`
		Chain []struct{} `json:"auth_chain"`
	}
	if err := json.NewDecoder(io.TeeReader(resp.Body, &size)).Decode(&answer); err != nil {
		return err
	}
	took := time.Since(begin)
	if want := spec.Joined + spec.Left + spec.Banned + spec.Other + 6; len(answer.PDUs) != want || len(answer.Chain) < spec.Left {
		return fmt.Errorf("a state of %d events and %d that authorise them; want %d", len(answer.PDUs), len(answer.Chain), want)
	}
	peak, err := box.number("status", "VmHWM")
	how := fmt.Sprintf("GET /state of that room, asked of a box that was just started: %d events, %.1f MB; ", len(answer.PDUs)+len(answer.Chain), float64(size)/1e6)
	b.say("tell_big_s", took.Seconds(), "s", how+"until the answer is read")
	b.say("tell_big_rss_mb", float64(peak)/(1<<20), "MiB", how+"VmHWM of the box after that")
	return err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// inBigRoom starts a server with a big room, and a box with one user that can find it.
func (b *bench) inBigRoom(ctx context.Context, spec bigroom.Spec, f func(*box, *matrixclient.Client, *bigroom.Server) error) error {
	room, err := bigroom.Make(spec)
	if err != nil {
		return err
	}
	return b.inDir(func(keys string) error {
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
			defer box.stop() // an error: it is stopped already
			anna := matrixclient.New(box.base)
			if err := anna.Register(ctx, "anna", "feste Deiche, ruhige See", ""); err != nil {
				return err
			}
			return f(box, anna, server)
		})
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

// stateCold reads the state of a room of 10,000 members from a database that was just opened.
func stateCold(ctx context.Context, b *bench) error {
	spec := bigroom.Large()
	spec.Joined, spec.Left, spec.Banned, spec.Other, spec.Servers = 10_000, 500, 500, 100, 300
	return b.inBigRoom(ctx, spec, func(box *box, anna *matrixclient.Client, server *bigroom.Server) error {
		if err := joinPatiently(ctx, anna, string(server.Room())); err != nil {
			return err
		}
		if err := knowsMember(ctx, anna, string(server.Room()), string(server.LastMember())); err != nil {
			return err
		}
		if err := box.stop(); err != nil {
			return err
		}
		var times []float64
		for range 7 {
			took, err := readState(ctx, filepath.Join(box.dir, "hallig.db"), server.Room(), spec.Joined+spec.Left+spec.Banned+spec.Other+5+1)
			if err != nil {
				return err
			}
			times = append(times, float64(took.Microseconds())/1000)
		}
		b.say("state_cold_10k_ms", median(times), "ms", fmt.Sprintf("room joined by a box, %d members and %d other state events; database opened anew each time, so that none of its pages are in SQLite's "+
			"memory (the system's may have them); Rooms.State: which event holds each type and key; median of 7", spec.Joined, spec.Left+spec.Banned+spec.Other+6))
		return nil
	})
}

// readState opens a database and says how long its room's state takes.
func readState(ctx context.Context, file string, id event.RoomID, want int) (time.Duration, error) {
	db, err := store.Open(ctx, file, store.Options{})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	rooms := law.New(db, law.Identity{Server: "bench.example"}, law.Options{})
	begin := time.Now()
	state, err := rooms.State(ctx, id)
	took := time.Since(begin)
	if err == nil && len(state) != want {
		err = fmt.Errorf("the state has %d events, want %d", len(state), want)
	}
	return took, err
}
