// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

const lineRate = 1200 // bit/s

// stage is everything that runs: two boxes, the central server, the line, and the ways between them.
type stage struct {
	central *testpeer.Peer
	boxes   [2]*box
	out     [2]*testpeer.Link // from box i to the central server
	in      [2]*testpeer.Link // from the central server to box i
	cable   *cable
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// build starts everything: the boxes pair over a network first, as they would at home, and then know each other by the
// line alone.
func build(ctx context.Context, hallig, dir string, names []string) (s *stage, err error) {
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
	if s.cable, err = layCable(ctx, lineRate); err != nil {
		return s, err
	}
	for i, name := range names {
		if s.boxes[i], err = s.newBox(i, name, hallig, dir, ca); err != nil {
			return s, err
		}
		s.boxes[i].config["p2p"] = map[string]any{"no_mdns": true, "listen": []string{"/ip4/127.0.0.1/tcp/0"}}
		if err := s.boxes[i].start(ctx); err != nil {
			return s, err
		}
	}
	if err := pair(ctx, s.boxes[0], s.boxes[1]); err != nil {
		return s, err
	}
	for i, b := range s.boxes {
		if err := b.stop(); err != nil {
			return s, err
		}
		b.config["p2p"] = map[string]any{"off": true}
		b.config["serial"] = []map[string]any{{"device": s.cable.ends[i].Device, "baud": 9600, "bits_per_second": lineRate}}
		if err := b.start(ctx); err != nil {
			return s, err
		}
		say("%s is up again without libp2p; its way to the other box is the line of %d bit/s", b.name, lineRate)
	}
	return s, nil
}

func (s *stage) newBox(i int, name, hallig, dir string, ca *testpeer.CA) (b *box, err error) {
	if s.out[i], err = testpeer.NewLink(s.central.Link.Addr()); err != nil {
		return nil, err
	}
	if s.in[i], err = testpeer.NewLink(""); err != nil {
		return nil, err
	}
	b = &box{name: "Box " + name, server: s.in[i].Addr(), dir: filepath.Join(dir, fmt.Sprintf("box%d", i)), hallig: hallig}
	if b.listen, err = freeAddr(); err != nil {
		return nil, err
	}
	if b.fed, err = freeAddr(); err != nil {
		return nil, err
	}
	b.client = "http://" + b.listen
	s.in[i].Lead(b.fed)
	b.config = map[string]any{
		"federation_tls":    map[string]any{"ca_certificate": ca.File, "ca_key": ca.KeyFile},
		"ca_file":           ca.File,
		"server_addresses":  map[string]string{s.central.Name: s.out[i].Addr()},
		"private_addresses": true,
	}
	return b, nil
}

// cut breaks, or joins again, both boxes' ways to the central server.
func (s *stage) cut(cut bool) {
	for i := range s.boxes {
		for _, l := range []*testpeer.Link{s.out[i], s.in[i]} {
			if cut {
				l.Cut()
			} else {
				l.Join()
			}
		}
	}
}

// httpsBytes is what went over each box's way to the central server, both directions.
func (s *stage) httpsBytes() (n [2]int64) {
	for i := range s.boxes {
		n[i] = s.out[i].Bytes() + s.in[i].Bytes()
	}
	return n
}

func (s *stage) close() error {
	var errs []error
	for _, b := range s.boxes {
		if b != nil {
			errs = append(errs, b.stop())
		}
	}
	if s.central != nil {
		errs = append(errs, s.central.Close())
	}
	if s.cable != nil {
		s.cable.close()
	}
	for _, links := range [][2]*testpeer.Link{s.in, s.out} {
		for _, l := range links {
			if l != nil {
				l.Close()
			}
		}
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
	bases := []string{s.boxes[0].client, s.boxes[1].client, s.central.Client}
	places := []string{s.boxes[0].name, s.boxes[1].name, "Zentrale"}
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
