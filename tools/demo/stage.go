// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"hallig/tools/matrixclient"
	"hallig/tools/testbox"
	"hallig/tools/testpeer"
)

// stage is everything that runs: two boxes, the central server, the line, and the ways between them.
type stage struct {
	central *testpeer.Peer
	boxes   [2]*testbox.Box
	cable   *cable
}

// build starts everything: the boxes pair over a network first, as they would at home, and then know each other by the
// line alone.
func build(ctx context.Context, hallig, dir string, rate int, names []string) (s *stage, err error) {
	s = &stage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	ca, err := testpeer.NewCA(dir)
	if err != nil {
		return s, err
	}
	say("starting the central server (Dendrite, a program nobody here wrote)")
	if s.central, err = testpeer.Start(ctx, testpeer.Options{Dir: filepath.Join(dir), CA: ca}); err != nil {
		return s, err
	}
	if s.cable, err = layCable(ctx, rate); err != nil {
		return s, err
	}
	for i, name := range names {
		if s.boxes[i], err = testbox.New("Box "+name, hallig, filepath.Join(dir, fmt.Sprintf("box%d", i)), ca, testbox.Central{Name: s.central.Name, At: s.central.Link.Addr()}); err != nil {
			return s, err
		}
		if err := s.boxes[i].Start(ctx); err != nil {
			return s, err
		}
	}
	id, err := testbox.Pair(ctx, s.boxes[0], s.boxes[1])
	if err != nil {
		return s, err
	}
	say("%s and %s are paired (box %.16s…)", s.boxes[0].Name, s.boxes[1].Name, id)
	for i, b := range s.boxes {
		if err := b.Stop(); err != nil {
			return s, err
		}
		b.Config["p2p"] = map[string]any{"off": true}
		b.Config["serial"] = []map[string]any{{"device": s.cable.ends[i].Device, "modem": "null", "bits_per_second": rate}}
		if err := b.Start(ctx); err != nil {
			return s, err
		}
		say("%s is up again without libp2p; its way to the other box is the line of %d bit/s", b.Name, rate)
	}
	return s, nil
}

// cut breaks, or joins again, both boxes' ways to the central server.
func (s *stage) cut(cut bool) {
	for _, b := range s.boxes {
		b.CutCentre(cut)
	}
}

// httpsBytes is what went over each box's way to the central server, both directions.
func (s *stage) httpsBytes() (n [2]int64) {
	for i, b := range s.boxes {
		n[i] = b.Out.Bytes() + b.In.Bytes()
	}
	return n
}

func (s *stage) close() error {
	var errs []error
	for _, b := range s.boxes {
		if b != nil {
			errs = append(errs, b.Close())
		}
	}
	if s.central != nil {
		errs = append(errs, s.central.Close())
	}
	if s.cable != nil {
		s.cable.close()
	}
	return errors.Join(errs...)
}

// person is somebody who writes.
type person struct {
	*matrixclient.Client
	name  string
	place string // "Box Hooge", "Zentrale"
}

func (s *stage) enrol(ctx context.Context, names []string) ([3]*person, error) {
	var out [3]*person
	bases := []string{s.boxes[0].Client, s.boxes[1].Client, s.central.Client}
	places := []string{s.boxes[0].Name, s.boxes[1].Name, "Zentrale"}
	for i := range out {
		c := matrixclient.New(bases[i])
		var err error
		if i == 2 {
			err = c.RegisterShared(ctx, s.central.Secret, names[i], "Rungholt lebt 1362", false)
		} else {
			err = c.Register(ctx, names[i], "Rungholt lebt 1362", "")
		}
		if err != nil {
			return out, fmt.Errorf("register %s at %s: %w", names[i], places[i], err)
		}
		out[i] = &person{Client: c, name: names[i], place: places[i]}
		say("%s has an account at %s: %s", names[i], places[i], c.UserID)
	}
	return out, nil
}
