// SPDX-License-Identifier: EUPL-1.2

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// monitor is QEMU's control socket (QMP): one question at a time, events are kept by name.
type monitor struct {
	mu      sync.Mutex // one question at a time
	conn    net.Conn
	answers chan reply

	evmu   sync.Mutex
	events map[string]int // guarded by evmu
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

func dial(ctx context.Context, path string, gone <-chan struct{}) (*monitor, error) {
	ctx, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			m := &monitor{conn: conn, answers: make(chan reply, 1), events: map[string]int{}}
			go m.read() // ends when the socket does; close waits for nothing more
			return m, m.ask("qmp_capabilities", nil, nil)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("reach QEMU's control socket: %w", err)
		case <-gone:
			return nil, ErrGone
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *monitor) read() {
	defer close(m.answers)
	sc := bufio.NewScanner(m.conn)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var r reply
		if json.Unmarshal(sc.Bytes(), &r) != nil {
			continue
		}
		switch {
		case r.Event != "":
			m.evmu.Lock()
			m.events[r.Event]++
			m.evmu.Unlock()
		case r.Return != nil || r.Error != nil:
			m.answers <- r
		}
	}
}

func (m *monitor) close() { m.conn.Close() }

func (m *monitor) ask(command string, args, out any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := map[string]any{"execute": command}
	if args != nil {
		q["arguments"] = args
	}
	b, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("qemu %s: %w", command, err)
	}
	if err := m.conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		return fmt.Errorf("qemu %s: %w", command, err)
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("qemu %s: %w", command, err)
	}
	r, ok := <-m.answers
	if err := m.conn.SetDeadline(time.Time{}); err != nil && ok {
		return fmt.Errorf("qemu %s: %w", command, err)
	}
	switch {
	case !ok:
		return fmt.Errorf("qemu %s: %w", command, ErrGone)
	case r.Error != nil:
		return fmt.Errorf("qemu %s: %s", command, r.Error.Desc)
	case out != nil:
		return json.Unmarshal(r.Return, out)
	}
	return nil
}

// Do sends one command to QEMU.
func (m *VM) Do(command string, args, out any) error { return m.qmp.ask(command, args, out) }

// HMP sends one line to QEMU's monitor for people.
func (m *VM) HMP(line string) (string, error) {
	var out string
	err := m.Do("human-monitor-command", map[string]any{"command-line": line}, &out)
	return out, err
}

// Resets says how often the board was reset since power on; kexec does not reset it.
func (m *VM) Resets() int {
	m.qmp.evmu.Lock()
	defer m.qmp.evmu.Unlock()
	return m.qmp.events["RESET"]
}

// Plug puts a USB device with a character device behind it (an FTDI adapter) into a socket: the line leads to a unix socket held by the caller.
func (m *VM) Plug(id, socket string) error {
	backend := map[string]any{"type": "socket", "data": map[string]any{"server": false, "reconnect": 1,
		"addr": map[string]any{"type": "unix", "data": map[string]any{"path": socket}}}}
	if err := m.Do("chardev-add", map[string]any{"id": "line-" + id, "backend": backend}, nil); err != nil {
		return err
	}
	return m.Do("device_add", map[string]any{"driver": "usb-serial", "id": id, "bus": "usb.0", "chardev": "line-" + id, "always-plugged": true}, nil)
}

// PlugStick puts a FAT image into a USB socket.
func (m *VM) PlugStick(id, image string) error {
	if err := m.Do("blockdev-add", map[string]any{"driver": "raw", "node-name": "img-" + id,
		"file": map[string]any{"driver": "file", "filename": image}}, nil); err != nil {
		return err
	}
	return m.Do("device_add", map[string]any{"driver": "usb-storage", "id": id, "bus": "usb.0", "removable": true, "drive": "img-" + id}, nil)
}

// Unplug pulls a USB device out and waits until QEMU has let go of it.
func (m *VM) Unplug(ctx context.Context, id string) error {
	if err := m.Do("device_del", map[string]any{"id": id}, nil); err != nil {
		return err
	}
	for range 200 {
		// the character or block device behind it can be removed when nobody holds it any more
		e1 := m.Do("chardev-remove", map[string]any{"id": "line-" + id}, nil)
		e2 := m.Do("blockdev-del", map[string]any{"node-name": "img-" + id}, nil)
		if e1 == nil || e2 == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), e1, e2)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("qemu keeps %s", id)
}
