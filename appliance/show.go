// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"hallig/appliance/health"
	"hallig/appliance/lan"
	"hallig/appliance/steward"
)

// This file shows, on an appliance, how the box does to those who stand before it: the light on the case, and what init puts on the screen.

// show tells the steward and writes the screen's file, when something has changed.
func (b *Box) show(ctx context.Context, s Screen, tree health.Tree) {
	if err := b.showScreen(s, tree); err != nil {
		b.log.Warn("the screen of the box does not learn how it does", "err", err)
	}
	b.showLight(ctx, tree.State)
}

func (b *Box) showLight(ctx context.Context, state health.State) {
	b.care.mu.Lock()
	same := b.care.lamp == state
	b.care.mu.Unlock()
	if b.steward == nil || same {
		return
	}
	if err := b.steward.SetLED(ctx, string(state)); err != nil {
		b.log.Debug("light not set", "err", err)
		return // the next look tries again
	}
	b.care.mu.Lock()
	b.care.lamp = state
	b.care.mu.Unlock()
}

func (b *Box) showScreen(s Screen, tree health.Tree) error {
	raw, err := json.Marshal(screenOf(s, tree))
	if err != nil {
		return fmt.Errorf("write the screen: %w", err)
	}
	name := filepath.Join(b.cfg.Run, steward.ScreenFile)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, raw) {
		return nil
	}
	if err := renameio.WriteFile(name, raw, 0o600); err != nil { // it holds the first administrator's code
		return fmt.Errorf("write the screen: %w", err)
	}
	return nil
}

func screenOf(s Screen, tree health.Tree) steward.Screen {
	out := steward.Screen{
		ServerName: s.ServerName, NameFixed: s.NameFixed, Fingerprint: s.Fingerprint, State: string(tree.State), Sentence: steward.Text{De: tree.Sentence.DE, En: tree.Sentence.EN},
	}
	if !strings.Contains(s.URL, "//127.0.0.1") { // no address yet
		out.URL = s.URL
	}
	if n, ok := tree.Node(string(health.Setup)); ok && n.State != health.OK {
		out.Code = s.EnrolCode
	}
	if todo := tree.Shouting(); len(todo) > 1 {
		for _, n := range todo[1:] {
			out.More = append(out.More, steward.Text{De: n.Sentence.DE, En: n.Sentence.EN})
		}
	}
	return out
}

// lanState reads what hallig-lan says of the networks; false when it has not said anything.
func (b *Box) lanState() (lan.State, bool) {
	if b.cfg.Run == "" {
		return lan.State{}, false
	}
	raw, err := os.ReadFile(filepath.Join(b.cfg.Run, lan.StateFile))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			b.log.Debug("state of the networks not read", "err", err)
		}
		return lan.State{}, false
	}
	s, err := lan.ParseState(raw)
	if err != nil {
		b.log.Debug("state of the networks not read", "err", err)
		return lan.State{}, false
	}
	return s, true
}

// lanFacts translates what hallig-lan says.
func lanFacts(s lan.State) *health.NetworkFacts {
	var out health.NetworkFacts
	off := len(s.Interfaces) > 0
	for _, i := range s.Interfaces {
		off = off && i.Mode == lan.Off
		if i.Mode == lan.Off {
			continue
		}
		up := health.Interface{Name: i.Name, Up: i.Carrier, Address: len(i.Addresses) > 0}
		out.Interfaces = append(out.Interfaces, up)
		if !i.Carrier {
			continue
		}
		if out.Mode == "" || i.Mode == lan.Host {
			out.Mode = string(i.Mode)
		}
		if i.Gateway.IsValid() && (i.Lease == nil || !i.Lease.Hallig) {
			out.Uplink = true
		}
	}
	if off {
		out.Mode = string(lan.Off)
	}
	if s.Trouble != nil {
		out.Err = health.Sentence{DE: s.Trouble.De, EN: s.Trouble.En}
	}
	return &out
}
