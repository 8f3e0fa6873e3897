// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"hallig/tools/imagetest/vm"
	"hallig/tools/matrixclient"
)

const (
	portHTTP = 80
	portTLS  = 443
	portP2P  = 4001

	versions = "/_matrix/client/versions"
	password = "Rungholt lebt 1362"
)

// usual are the ports that nearly every story needs.
var usual = []int{portHTTP, portTLS, portP2P}

// enrolment finds the first administrator's code on the screen.
const enrolment = `administrator,\s+once:\s+(\S{6,})\s`

// box is a machine with people at it.
type box struct {
	*vm.VM
	r    *run
	took time.Duration // from power on to the first answer

	people []*matrixclient.Client
}

// power switches a machine on and waits until the box answers clients.
func (r *run) power(c vm.Config, bound time.Duration) (*box, error) {
	b, err := r.switchOn(c)
	if err != nil {
		return nil, err
	}
	return b, b.up(bound)
}

// switchOn does not wait.
func (r *run) switchOn(c vm.Config) (*box, error) {
	if c.Ports == nil {
		c.Ports = usual
	}
	m, err := vm.Start(r, c)
	if err != nil {
		return nil, err
	}
	r.machines = append(r.machines, m)
	return &box{VM: m, r: r}, nil
}

// up waits for the Client-Server API.
func (b *box) up(bound time.Duration) error {
	ctx, stop := b.r.within(bound)
	defer stop()
	took, err := b.Answers(ctx, portHTTP, versions, http.StatusOK)
	if err != nil {
		return fmt.Errorf("%v does not answer clients within %v of power on: %w", b.Firmware, bound, err)
	}
	b.took = took
	b.r.add(&b.r.boots, 1)
	return nil
}

// code reads the first administrator's code from the screen.
func (b *box) code() (string, error) {
	ctx, stop := b.r.within(60 * time.Second)
	defer stop()
	g, err := b.Console.Wait(ctx, enrolment)
	if err != nil {
		return "", fmt.Errorf("no enrolment code on the screen: %w", err)
	}
	return g[1], nil
}

// register makes an account.
func (b *box) register(ctx context.Context, name, token string) (*matrixclient.Client, error) {
	c := matrixclient.New(b.URL(portHTTP))
	if err := c.Register(ctx, name, password, token); err != nil {
		return nil, fmt.Errorf("register %s: %w", name, err)
	}
	b.people = append(b.people, c)
	return c, nil
}

// enrol makes the first administrator with the code on the screen, and n-1 more people with a code that she makes for them.
func (b *box) enrol(names ...string) error {
	ctx, stop := b.r.within(3 * time.Minute)
	defer stop()
	code, err := b.code()
	if err != nil {
		return err
	}
	first, err := b.register(ctx, names[0], code)
	if err != nil {
		return err
	}
	if len(names) == 1 {
		return nil
	}
	token, err := b.inviteCode(ctx, first, len(names)-1)
	if err != nil {
		return err
	}
	for _, name := range names[1:] {
		if _, err := b.register(ctx, name, token); err != nil {
			return err
		}
	}
	return nil
}

// moveTo makes the people of a box talk to it at another address: after it was switched off and on, its ports lead elsewhere.
func (b *box) moveTo(next *box) {
	for _, p := range b.people {
		p.Base = next.URL(portHTTP)
		next.people = append(next.people, p)
	}
}

// converse makes a room with everybody and sends a message in it that the last one reads. It returns the room and the event.
func (b *box) converse(text string) (room, id string, err error) {
	ctx, stop := b.r.within(2 * time.Minute)
	defer stop()
	from, to := b.people[0], b.people[len(b.people)-1]
	room, err = from.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", Name: "Deichwache", Invite: []string{to.UserID}})
	if err != nil {
		return "", "", err
	}
	if _, err := to.Join(ctx, room); err != nil {
		return "", "", err
	}
	id, err = from.SendText(ctx, room, text)
	if err != nil {
		return "", "", err
	}
	e, _, err := to.WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id })
	if err != nil {
		return "", "", fmt.Errorf("%s does not see the message: %w", to.UserID, err)
	}
	if e.Body() != text {
		return "", "", fmt.Errorf("%s reads %q, %s wrote %q", to.UserID, e.Body(), from.UserID, text)
	}
	return room, id, nil
}

// holds checks that every event is there for somebody who may read it.
func (b *box) holds(c *matrixclient.Client, room string, ids ...string) error {
	ctx, stop := b.r.within(2 * time.Minute)
	defer stop()
	var lost []string
	for _, id := range ids {
		if _, err := c.Event(ctx, room, id); matrixclient.Status(err) == http.StatusNotFound {
			lost = append(lost, id)
		} else if err != nil {
			return err
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%d of %d acknowledged events are lost: %v", len(lost), len(ids), lost)
	}
	return nil
}

// openPorts says which of the forwarded ports are open: QEMU takes every connection itself, and closes it when the machine does not.
func (b *box) openPorts() (open []int) {
	for _, p := range b.Ports {
		conn, err := net.DialTimeout("tcp", b.Addr(p), 2*time.Second)
		if err != nil {
			continue
		}
		conn.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		_, err = conn.Read(make([]byte, 1))
		if ne, ok := errors.AsType[net.Error](err); err == nil || ok && ne.Timeout() {
			open = append(open, p)
		}
		conn.Close()
	}
	return open
}

// certificate fetches what the box shows at its TLS port.
func (b *box) certificate() (*tls.ConnectionState, error) {
	ctx, stop := b.r.within(30 * time.Second)
	defer stop()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // we look at it, we do not trust it
	conn, err := d.DialContext(ctx, "tcp", b.Addr(portTLS))
	if err != nil {
		return nil, fmt.Errorf("fetch the certificate: %w", err)
	}
	defer conn.Close()
	s := conn.(*tls.Conn).ConnectionState()
	return &s, nil
}
