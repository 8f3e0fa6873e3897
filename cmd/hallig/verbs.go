// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
)

func pair(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("pair", errOut)
	at := f.String("at", "", "address of the other box, when it is not found by itself (multiaddress)")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		var c admin.PairCode
		if err := appliance.Ask(ctx, *dir, "POST", "/pair/show", struct{}{}, &c); err != nil {
			return err
		}
		fmt.Fprintf(out, "On the other box:\n\n    hallig pair %s\n\nThe code works once, until %s.\n", c.Code, c.Expires.Local().Format(time.TimeOnly))
		return nil
	}
	var p admin.Peer
	in := map[string]string{"Code": strings.Join(words, " "), "Address": *at}
	if err := appliance.Ask(ctx, *dir, "POST", "/pair/take", in, &p); err != nil {
		return err
	}
	fmt.Fprintf(out, "Paired with %s (box %s).\n", p.ServerName, p.ID)
	if s := p.OtherName(); !s.Empty() {
		fmt.Fprintln(out, s.EN)
	}
	return nil
}

func forget(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("forget", errOut)
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return fmt.Errorf("%w: name the box: hallig forget BOX (hallig status lists them)", errUsage)
	}
	if err := appliance.Ask(ctx, *dir, "POST", "/pair/forget", map[string]string{"ID": words[0]}, nil); err != nil {
		return err
	}
	fmt.Fprintf(out, "Box %s is no longer paired. Pair again with: hallig pair\n", words[0])
	return nil
}

func token(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("token", errOut)
	uses := f.Int("uses", 1, "how many accounts it makes; 0: no limit")
	asAdmin := f.Bool("admin", false, "the accounts administer the box")
	if err := noWords(f, args); err != nil {
		return err
	}
	if *uses < 0 {
		return fmt.Errorf("%w: --uses counts accounts; 0 means no limit", errUsage)
	}
	var answer struct{ Token string }
	if err := appliance.Ask(ctx, *dir, "POST", "/token", map[string]any{"Uses": *uses, "Admin": *asAdmin}, &answer); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, answer.Token)
	return err
}

// key rotates the signing key, of the box that runs or of one that does not.
func key(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("key", errOut)
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) != 1 || words[0] != "rotate" {
		return fmt.Errorf("%w: hallig key rotate gives the box a new signing key", errUsage)
	}
	err = appliance.Ask(ctx, *dir, "POST", "/key/rotate", struct{}{}, nil)
	switch {
	case err == nil:
		fmt.Fprintln(out, "The box starts again with a new signing key; hallig status shows it.")
	case !errors.Is(err, appliance.ErrNoBox):
		return err
	default:
		cfg, err := appliance.LoadConfig(*dir)
		if err != nil {
			return err
		}
		id, err := appliance.RotateKey(ctx, cfg, slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelWarn})))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "The new signing key is %s.\n", id)
	}
	fmt.Fprintln(out, "Make a new backup now: one with the old key cannot speak for the box any more.")
	return nil
}

// clock shows how the box knows the time, or says what time it is.
func clock(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("clock", errOut)
	yes := f.Bool("yes", false, "a time far ahead of what the box knows is right")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	var c admin.Clock
	switch len(words) {
	case 0:
		var s admin.Status
		if err := appliance.Ask(ctx, *dir, "GET", "/status", nil, &s); err != nil {
			return err
		}
		c = s.Clock
	case 1:
		t, err := readTime(words[0])
		if err != nil {
			return err
		}
		if err := appliance.Ask(ctx, *dir, "POST", "/clock", map[string]any{"Time": t, "Sure": *yes}, &c); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: one time at most: hallig clock 2026-11-26T14:05+01:00", errUsage)
	}
	for _, n := range c.Notes {
		fmt.Fprintln(out, n.EN)
	}
	_, err = fmt.Fprintln(out, clockLine(c))
	return err
}

// readTime reads what people write: now (zero), or date and time with an offset, or in the time zone of this machine.
func readTime(word string) (time.Time, error) {
	if word == "now" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(form, word); err == nil {
			return t, nil
		}
	}
	for _, form := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(form, word, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %q is no time; write now, or for example 2026-11-26T14:05+01:00", errUsage, word)
}

func clockLine(c admin.Clock) string {
	line := c.Time.Local().Format("2006-01-02 15:04:05") + ", " + c.Quality
	if !c.Trusted {
		return line + " (it may lag, and nothing expires; set it with: hallig clock TIME)"
	}
	return line + ": " + c.Source + ", " + c.HeardAgo + " ago"
}

func watch(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("watch", errOut)
	asJSON := f.Bool("json", false, "one JSON value a line")
	if err := noWords(f, args); err != nil {
		return err
	}
	err := appliance.Watch(ctx, *dir, func(t admin.Travel) error {
		if *asJSON {
			return json.NewEncoder(out).Encode(t)
		}
		line := fmt.Sprintf("%s  %-10s", t.At.Local().Format("15:04:05.000"), t.What)
		for _, part := range []struct{ label, value string }{{"", t.Event}, {"to/from ", t.Peer}, {"by ", t.Via}, {"in ", t.Room}} {
			if part.value != "" {
				line += " " + part.label + part.value
			}
		}
		if t.Bytes > 0 {
			line += fmt.Sprintf(" %d B", t.Bytes)
		}
		if t.Count > 1 {
			line += fmt.Sprintf(" (%d events)", t.Count)
		}
		_, err := fmt.Fprintln(out, line)
		return err
	})
	if ctx.Err() != nil {
		return nil // Ctrl-C is how one stops watching
	}
	return err
}
