// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
)

// nameRecord is /perm/system/name.json: the server name as the homeserver last reported it. It answers "is this the box you mean" when the
// homeserver does not run.
type nameRecord struct {
	Name  string `json:"name"`
	Fixed bool   `json:"fixed"`
}

// readNames reads what is known of earlier starts.
func (b *box) readNames() {
	raw, err := os.ReadFile(b.at.system("name.json"))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			b.log.Printf("read server name: %v", err)
		}
		return
	}
	var n nameRecord
	if err := json.Unmarshal(raw, &n); err != nil {
		b.log.Printf("read server name: %v", err)
		return
	}
	b.mu.Lock()
	b.name = n
	id := b.machineID
	b.mu.Unlock()
	b.hostname(n.Name, id)
}

// readOfOthers reads a file that a program with fewer rights has written: what is no plain file (a pipe would stop the main loop, and with it
// the machine) or is too long is an error.
func readOfOthers(name string, most int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > most {
		return nil, fmt.Errorf("read %s: no plain file of at most %d bytes", name, most)
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// screenOfServer is what the homeserver wants to be shown.
func (b *box) screenOfServer() (s steward.Screen, ok bool) {
	raw, err := readOfOthers(filepath.Join(b.at.Run, steward.ScreenFile), 64<<10)
	if err != nil || json.Unmarshal(raw, &s) != nil {
		return steward.Screen{}, false
	}
	return s, true
}

// keepName notes the server name when it has changed, or is fixed now.
func (b *box) keepName() {
	s, ok := b.screenOfServer()
	if !ok || s.ServerName == "" {
		return
	}
	now := nameRecord{s.ServerName, s.NameFixed}
	b.mu.Lock()
	old, id := b.name, b.machineID
	b.name = now
	b.mu.Unlock()
	b.forgetRestore()
	if now == old {
		return
	}
	b.hostname(now.Name, id)
	raw, err := json.Marshal(now)
	if err == nil {
		err = renameio.WriteFile(b.at.system("name.json"), raw, 0o600)
	}
	if err != nil {
		b.log.Printf("keep server name: %v", err)
	}
}

// meant says whether a name that somebody typed is this box's. A box that cannot reach its data has no name; there the word on its screen counts.
func (b *box) meant(name string) error {
	b.mu.Lock()
	perm, own, prov := b.perm, b.name.Name, b.provision.ServerName
	b.mu.Unlock()
	if own == "" {
		own = prov
	}
	if !perm || own == "" {
		own = unreadable
	}
	if name == own {
		return nil
	}
	return steward.Text{
		De: fmt.Sprintf("„%.80s“ ist nicht der Name dieser Box; sie heißt %s.", name, own),
		En: fmt.Sprintf("%.80q is not this box's name; it is called %s.", name, own),
	}
}

// unreadable stands for the name of a box whose data cannot be reached.
const unreadable = "unreadable"
