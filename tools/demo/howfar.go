// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"hallig/appliance/delivery"
)

// ladder asks the first person's box how far their last message has got.
func (p *performance) ladder(ctx context.Context) (l delivery.Ladder, err error) {
	path := "/_hallig/v1/rooms/" + url.PathEscape(p.room) + "/delivery/" + url.PathEscape(p.last)
	if err = p.people[0].Do(ctx, http.MethodGet, path, nil, &l); err != nil {
		err = fmt.Errorf("ask how far a message has got: %w", err)
	}
	return l, err
}

// keptByAll waits until the first person's box knows that all others keep their last message: the receipts come after the events.
func (p *performance) keptByAll(ctx context.Context) error {
	var failed error
	return errors.Join(p.tally.wait(ctx, time.Minute, func() bool {
		l, err := p.ladder(ctx)
		failed = err
		return err != nil || l.Summary.Kept == l.Summary.Servers
	}), failed)
}

// howFar tells how far the first person's last message has got, as a client would show it.
func (p *performance) howFar(ctx context.Context) error {
	who := p.people[0]
	l, err := p.ladder(ctx)
	if err != nil {
		return err
	}
	line := ""
	for _, s := range l.Servers {
		line += fmt.Sprintf("  %s: %s", s.Name, s.State)
		if s.Via != "" {
			line += " by " + s.Via
		}
		if s.ExpectedIn > 0 {
			line += fmt.Sprintf(", expected in %.0f s", float64(s.ExpectedIn)/1000)
		}
	}
	say("how far has %s's last message got?%s; devices of %d of %d people have been shown it, %d have read it", who.name, line, l.Summary.Seen, l.Summary.Members, l.Summary.Read)
	return nil
}
