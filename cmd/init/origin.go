// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/google/renameio/v2"

	"hallig/appliance/provision"
	"hallig/appliance/steward"
)

// This file says of provisioning files where they lie and where the one in force came from, and knows which refusals still matter. A refusal of a
// file on a stick ends when the stick is pulled out; one of the file on the box's own first partition ends for good when a stick brought a good file
// after it; and any file that is accepted ends all others.

// bootLabel is the first partition's, as every computer shows it.
const bootLabel = "HALLIG"

// fileOn names a file and where it lies; stick "" is the box's own first partition.
func fileOn(stick string) steward.Text {
	if stick == "" {
		return steward.Text{De: provision.FileName + " auf der Partition " + bootLabel + " der Box", En: provision.FileName + " on the box's own partition " + bootLabel}
	}
	return steward.Text{De: provision.FileName + " auf dem Stick " + stick, En: provision.FileName + " on stick " + stick}
}

// about puts in front of a sentence which file it speaks of.
func about(stick string, t steward.Text) steward.Text {
	where := fileOn(stick)
	return steward.Text{De: where.De + ": " + t.De, En: where.En + ": " + t.En}
}

// where is the same in one short word for both languages.
func where(stick string) string {
	if stick == "" {
		return bootLabel
	}
	return "Stick " + stick
}

// refusal is a file that was refused and, as far as is known, still lies there.
type refusal struct {
	stick, key string
	text       steward.Text
}

// refuse notes a refusal in place of an older one of the same place.
func (b *box) refuse(r refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusals = append(slices.DeleteFunc(b.refusals, func(old refusal) bool { return old.stick == r.stick }), r)
	b.tellLocked()
}

// pulled forgets what was wrong with the file of a stick that is gone.
func (b *box) pulled(stick string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusals = slices.DeleteFunc(b.refusals, func(r refusal) bool { return r.stick == stick })
	b.tellLocked()
}

// supersede forgets all refusals, as a file was accepted, and gives the keys of those that shall stay forgotten: a stick that is plugged in again asks
// anew, the first partition does not.
func (b *box) supersede() (keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.refusals {
		if r.stick == "" {
			keys = append(keys, r.key)
		}
	}
	b.refusals = nil
	b.tellLocked()
	return keys
}

// tellLocked puts into the state what there is to say of the last refusal, or else of the file in force; the caller holds the lock.
func (b *box) tellLocked() {
	p := &b.provision
	p.Error, p.File = steward.Text{}, ""
	switch n := len(b.refusals); {
	case n > 0:
		p.Error, p.File = b.refusals[n-1].text, where(b.refusals[n-1].stick)
	case p.Accepted && b.from.Copy == "":
		p.File = provision.FileName
	case p.Accepted:
		p.File = where(b.from.Stick)
	}
}

// origin is where the file in force came from. It is kept beside the copy.
type origin struct {
	Copy  string `json:"sha256"`          // of the copy that it belongs to; "": not known where that came from
	Stick string `json:"stick,omitempty"` // "": the box's own first partition
}

func originNow(f found) origin { return origin{Copy: sum(f.raw), Stick: f.stick} }

func sum(raw []byte) string {
	s := sha256.Sum256(raw)
	return hex.EncodeToString(s[:])
}

// text goes behind the name of the file.
func (o origin) text() steward.Text {
	switch {
	case o.Copy == "":
		return steward.Text{}
	case o.Stick == "":
		return steward.Text{De: "von der Partition " + bootLabel + " der Box", En: "from the box's own partition " + bootLabel}
	}
	return steward.Text{De: "vom Stick " + o.Stick, En: "from stick " + o.Stick}
}

// keepCopy keeps the file in force, and then where it came from: a power cut in between leaves an origin that does not fit, which is as good as none.
func (b *box) keepCopy(raw []byte, from origin) error {
	if err := renameio.WriteFile(b.at.system("provision.json"), raw, 0o600); err != nil {
		return err
	}
	if from.Copy == "" {
		return nil
	}
	from.Copy = sum(raw)
	text, err := json.Marshal(from)
	if err == nil {
		err = renameio.WriteFile(b.at.system("provision-origin.json"), text, 0o600)
	}
	if err != nil { // the file itself is kept, and that is what matters
		b.log.Printf("keep where the provisioning file came from: %v", err)
	}
	return nil
}

// originOf reads where the copy in force came from.
func (b *box) originOf(raw []byte) origin {
	text, err := os.ReadFile(b.at.system("provision-origin.json"))
	var o origin
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err == nil && o.Copy != sum(raw) {
		err = errors.New("it belongs to another file")
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			b.log.Printf("read where the provisioning file came from: %v", err)
		}
		return origin{}
	}
	return o
}
