// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"

	"hallig/appliance"
	"hallig/appliance/admin"
)

// commentator tells what a box says of its line: every event that was sent, with its bytes, and when the other side
// had it for good. It tells the first of a kind one by one, and then every twentieth with the sums.
type commentator struct {
	box         string
	sent, bytes int
	kept        int
}

func (c *commentator) follow(ctx context.Context, dir string) error {
	err := appliance.Watch(ctx, dir, func(t admin.Travel) error {
		c.tell(t)
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *commentator) tell(t admin.Travel) {
	if t.Via == "https" {
		c.tellServer(t)
		return
	}
	switch t.What {
	case "sent":
		if t.Event == "" {
			return
		}
		c.sent++
		c.bytes += t.Bytes
		if c.sent <= 3 || c.sent%20 == 0 {
			say("    %s: event %.10s… goes by %s, %d B (%d events, %d B so far)", c.box, t.Event, t.Via, t.Bytes, c.sent, c.bytes)
		}
	case "kept":
		c.kept++
		if c.kept <= 3 || c.kept%20 == 0 {
			say("    %s: event %.10s… is kept by the other box (%d so far)", c.box, t.Event, c.kept)
		}
	case "noticed":
		say("    %s: a flash is here ahead of its signature, and shown as not yet verified", c.box)
	case "up", "down", "carries":
		say("    %s: %s %s", c.box, t.Via, fmt.Sprint(t.What))
	}
}

// tellServer tells of a transaction to the central server, or of its confirmation.
func (c *commentator) tellServer(t admin.Travel) {
	switch {
	case t.What == "sent" && t.Count > 1:
		say("    %s: %d events go to the centre by https, %d B, up to %.10s…", c.box, t.Count, t.Bytes, t.Event)
	case t.What == "sent":
		say("    %s: event %.10s… goes to the centre by https, %d B", c.box, t.Event, t.Bytes)
	case t.What == "kept" && t.Count > 1:
		say("    %s: %d events are kept by the centre, up to %.10s…", c.box, t.Count, t.Event)
	}
}
