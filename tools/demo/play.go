// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/tools/matrixclient"
)

// How many events the acts hold, for each of box, box and centre.
var (
	together = [3]int{12, 12, 16}  // while all ways are open
	apart    = [3]int{70, 70, 420} // while both boxes are cut off from the centre
	after    = [3]int{4, 4, 8}     // when all are together again
)

// play tells the story from beginning to end.
func play(ctx context.Context, hallig, dir string, rate int, tale *story) (*outcome, error) {
	s, err := build(ctx, hallig, dir, rate, tale.distinct(islands, 2))
	if err != nil {
		return nil, err
	}
	p := &performance{stage: s, tale: tale, tally: newTally(), rate: rate}
	result, err := p.acts(ctx)
	return result, errors.Join(err, s.close())
}

// performance is a stage with people on it.
type performance struct {
	*stage
	tale   *story
	tally  *tally
	people [3]*person
	room   string
	wrote  int
	rate   int // bit/s of the line

	redacted string // the message that was taken back
	last     string // the first person's last message
}

func (p *performance) acts(ctx context.Context) (*outcome, error) {
	var err error
	if p.people, err = p.enrol(ctx, p.tale.distinct(names, 3)); err != nil {
		return nil, err
	}
	if err := p.meet(ctx); err != nil {
		return nil, err
	}
	watchCtx, stopWatching := context.WithCancel(ctx)
	g, watchCtx := errgroup.WithContext(watchCtx)
	for i, who := range p.people {
		g.Go(func() error { return p.tally.follow(watchCtx, who.place, who.Client, p.room) })
		if i < 2 {
			c := &commentator{box: p.boxes[i].Name}
			g.Go(func() error { return c.follow(watchCtx, p.boxes[i].Dir) })
		}
	}
	result, err := p.story(ctx)
	stopWatching()
	return result, errors.Join(err, g.Wait())
}

// meet makes the room on the central server; both boxes' users join over HTTPS. Version 10, because the central server ignores
// redactions of later versions.
func (p *performance) meet(ctx context.Context) error {
	a, b, c := p.people[0], p.people[1], p.people[2]
	room, err := c.CreateRoom(ctx, matrixclient.CreateRoom{
		Version: "10", Preset: "private_chat", Name: "Lage " + p.tale.pick(islands), Invite: []string{a.UserID, b.UserID},
		PowerOverride: map[string]any{"users": map[string]int{a.UserID: 100, b.UserID: 100, c.UserID: 100}},
	})
	if err != nil {
		return fmt.Errorf("make the room: %w", err)
	}
	p.room = room
	say("%s makes the room at the central server and invites %s and %s", c.name, a.name, b.name)
	for _, who := range []*person{a, b} {
		if _, err := who.Join(ctx, room); err != nil {
			return fmt.Errorf("%s joins: %w", who.name, err)
		}
		say("%s joins through the box's own HTTPS way", who.name)
	}
	return nil
}

func (p *performance) story(ctx context.Context) (*outcome, error) {
	say("— all ways are open —")
	if err := p.write(ctx, together); err != nil {
		return nil, err
	}
	if err := p.settle(ctx, slower(90*time.Second, p.rate), p.people[:]); err != nil {
		return nil, err
	}
	p.cut(true)
	say("— both ways to the centre are CUT; everybody writes on —")
	begin := time.Now()
	a0, b0 := p.cable.bytes()
	if err := p.write(ctx, apart); err != nil {
		return nil, err
	}
	if err := p.rule(ctx); err != nil {
		return nil, err
	}
	if err := p.howFar(ctx); err != nil {
		return nil, err
	}
	say("written: %d on the boxes, %d at the centre; the boxes exchange theirs over the line", apart[0]+apart[1], apart[2])
	if err := p.settleBoxes(ctx, slower(240*time.Second, p.rate)); err != nil {
		return nil, err
	}
	a1, b1 := p.cable.bytes()
	took := time.Since(begin)
	say("both boxes have everything of each other: %d + %d bytes on the line in %.0f s", a1-a0, b1-b0, took.Seconds())
	say("the line was busy for %.0f %% of that time one way and %.0f %% the other; a byte is 10 bits at %d bit/s", busy(a1-a0, p.rate, took), busy(b1-b0, p.rate, took), p.rate)
	if err := p.howFar(ctx); err != nil {
		return nil, err
	}
	before := p.httpsBytes()
	p.cut(false)
	say("— the ways to the centre are back —")
	back := time.Now()
	if err := p.write(ctx, after); err != nil {
		return nil, err
	}
	err := p.settle(ctx, slower(120*time.Second, p.rate), p.people[:])
	now := p.httpsBytes()
	say("after %.1f s everybody has everything; HTTPS carried %d and %d bytes", time.Since(back).Seconds(), now[0]-before[0], now[1]-before[1])
	if err == nil {
		err = errors.Join(p.keptByAll(ctx), p.howFar(ctx))
	}
	return p.judge(ctx, err)
}

// slower is how patient one must be on a slow line: what is right for 1200 bit/s, and more in proportion below.
func slower(d time.Duration, rate int) time.Duration { return max(d, d*1200/time.Duration(rate)) }

// busy is the share of the time for which n bytes kept one direction of the line busy, in percent.
func busy(n int64, rate int, d time.Duration) float64 {
	return float64(n) * 10 / float64(rate) / d.Seconds() * 100
}

// write lets everybody write at the same time, each in order.
func (p *performance) write(ctx context.Context, counts [3]int) error {
	var texts [3][]string
	for i, n := range counts {
		for range n {
			p.wrote++
			texts[i] = append(texts[i], p.tale.text(p.wrote))
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, who := range p.people {
		g.Go(func() error {
			for n, text := range texts[i] {
				id, err := who.SendText(ctx, p.room, text)
				if err != nil {
					return fmt.Errorf("%s writes: %w", who.name, err)
				}
				p.tally.acknowledged(id, who.place, who.name+": "+text)
				if i == 0 {
					p.last = id
				}
				if n == 0 || (n+1)%100 == 0 || n+1 == len(texts[i]) {
					say("%-10s at %-14s (%d/%d) %s", who.name, who.place, n+1, len(texts[i]), text)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// rule changes state on both sides of the cut, so that it must be resolved, and redacts a message.
func (p *performance) rule(ctx context.Context) error {
	for i, who := range p.people {
		topic := fmt.Sprintf("Lage aus Sicht von %s (%d)", who.place, i)
		id, err := who.SetState(ctx, p.room, "m.room.topic", "", map[string]string{"topic": topic})
		if err != nil {
			return fmt.Errorf("%s changes the topic: %w", who.name, err)
		}
		p.tally.acknowledged(id, who.place, "topic")
		say("%s sets the topic: %s", who.name, topic)
	}
	id, err := p.people[0].SendText(ctx, p.room, "Falschmeldung, bitte ignorieren")
	if err != nil {
		return err
	}
	p.tally.acknowledged(id, p.people[0].place, "redacted message")
	redaction, err := p.people[0].Redact(ctx, p.room, id, "Irrtum")
	if err != nil {
		return err
	}
	p.tally.acknowledged(redaction, p.people[0].place, "redaction")
	p.redacted = id
	say("%s takes a false report back", p.people[0].name)
	return nil
}

// settle waits until the users named have seen every acknowledged event.
func (p *performance) settle(ctx context.Context, patience time.Duration, who []*person) error {
	last, progress, least := time.Now(), time.Now(), -1
	return p.tally.wait(ctx, patience, func() bool {
		all := true
		line := ""
		sum, centre := 0, 0
		for i, w := range who {
			n := len(p.tally.missing(w.place))
			all = all && n == 0
			sum += n
			if i == 2 {
				centre = n
			}
			line += fmt.Sprintf("  %s lacks %d", w.place, n)
		}
		if sum != least {
			least, progress = sum, time.Now()
		}
		if centre > 0 && centre == sum && time.Since(progress) > 5*time.Second {
			progress = time.Now()
			if found, err := p.tally.audit(ctx, p.people[2].place, p.people[2].Client, p.room); err == nil && found > 0 {
				say("%d events stand in the timeline of %s that its running /sync had passed over", found, p.people[2].place)
			}
		}
		if !all && time.Since(last) > 10*time.Second {
			last = time.Now()
			say("…%s", line)
		}
		return all
	})
}

// settleBoxes waits until each box has what was written on the other one.
func (p *performance) settleBoxes(ctx context.Context, patience time.Duration) error {
	last := time.Now()
	return p.tally.wait(ctx, patience, func() bool {
		x := p.tally.missingOf(p.people[0].place, p.people[1].place)
		y := p.tally.missingOf(p.people[1].place, p.people[0].place)
		if x+y > 0 && time.Since(last) > 15*time.Second {
			last = time.Now()
			a, b := p.cable.bytes()
			say("…on the line: %s lacks %d, %s lacks %d; %d + %d bytes so far", p.people[0].place, x, p.people[1].place, y, a, b)
		}
		return x+y == 0
	})
}

// judge counts.
func (p *performance) judge(ctx context.Context, waited error) (*outcome, error) {
	if waited != nil && ctx.Err() != nil {
		return nil, waited
	}
	o := &outcome{events: p.tally.count(), duplicated: p.tally.duplicated()}
	observers := map[string]*matrixclient.Client{}
	for _, who := range p.people {
		missing := p.tally.missing(who.place)
		o.lost += len(missing)
		for _, id := range missing[:min(len(missing), 5)] {
			say("LOST at %s: %s", who.place, p.tally.what(id))
		}
		observers[who.place] = who.Client
		content, err := contentOf(ctx, who.Client, p.room, p.redacted)
		if err != nil {
			return o, fmt.Errorf("read the redacted message at %s: %w", who.place, err)
		}
		if len(content) != 0 {
			o.difference = "the redacted message can still be read at " + who.place
		}
	}
	equal, difference, err := stateEqual(ctx, observers, p.room)
	if err != nil {
		return o, err
	}
	o.equal = equal && o.difference == ""
	if difference != "" {
		o.difference = difference
	}
	return o, nil
}
