// SPDX-License-Identifier: EUPL-1.2

// Package backup keeps a second copy of a box where a fire, a flood or a thief does not find both: encrypted, on a stick or in a folder. From it a
// spare box takes over, with the same name and keys.
//
// It promises that a backup is there whole or not at all: it is written under another name, flushed, read back from the medium, decrypted and
// compared, and then renamed by one step. Making one never takes more than it needs of the older ones, and the newest good one is never
// removed. Restoring is the same in the other direction: all is unpacked beside the data and put in its place at the end, and Finish goes on
// after a power cut. A living box is never overwritten.
//
// Where things lie; DEST is the stick or folder:
//
//	DEST/hallig-backup/NAME-BOXID8/             one folder for each box
//	  READ-ME.txt                               for whoever finds it
//	  000007-20261126T1542Z/backup.json         Manifest, readable without a key: for lists, never believed
//	  000007-20261126T1542Z/data.age            age(zstd(tar)): "hallig-backup.json" (Manifest) first, then every file of the data but media
//	  000007-20261126T1542Z/data.age.2 ...      its continuation, parts of 2 GiB, as sticks with FAT hold no larger files
//	  media/m000007-5f3a0c11.age                age(tar): files of media that were new with backup 7; at most 1 GiB and one file
//
// Media never change, so each lies in one archive only, and a backup names the archives that it needs. Which files lie in which archive the
// box notes in DATA/backup/ARCHIVE.idx (SHA-256 of the archive, its size, then 32 bytes for each file); without the note all are written again.
//
// Encryption is age (https://age-encryption.org/v1) for public keys; the secret key is on paper or on a stick in the safe, never on the box. Age
// proves that a backup is complete and unchanged, not who made it: anybody who knows the public key can make one. So restore says which box it is.
//
// A Shelf is such a place on another box, which keeps what it cannot read within a quota; Mirror brings backups there, by HTTP over whatever way it is
// handed. What was brought takes no room at home.
//
// The database comes as a consistent copy from a function that is handed over; schedules, sticks and words for people are left to others.
package backup

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
)

// Names on a medium and in a data directory.
const (
	Folder       = "hallig-backup"
	manifestFile = "backup.json"
	innerFile    = "hallig-backup.json"
	dataFile     = "data.age"
	mediaFolder  = "media"
	indexFolder  = "backup"       // in the data directory
	snapshotFile = "snapshot.db"  // in indexFolder
	database     = "hallig.db"    // in the data directory and in the archive
	fresh        = ".new"         // suffix of what is being written
	restoring    = ".restore"     // in the data directory
	marker       = "restored"     // in the data directory: a new epoch is due
	KeptFolder   = "kept"         // in the data directory: a place, of the backups that are kept for other boxes
	OutFolder    = "out"          // in indexFolder: a place, of the backups that go to another box
	complete     = "complete"     // in restoring: all is unpacked
	partBytes    = int64(2 << 30) // FAT ends at 4 GiB
	archiveBytes = int64(1 << 30)
)

// Piece is a file of a backup.
type Piece struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Manifest says what a backup is.
type Manifest struct {
	Form       int       `json:"hallig_backup"` // 1
	Number     int       `json:"number"`        // grows with each backup of the box at a place
	ServerName string    `json:"server_name"`
	BoxID      string    `json:"box_id"`
	Version    string    `json:"version"`        // of the program
	Made       time.Time `json:"made"`           // by the box's clock
	Trusted    bool      `json:"clock_trusted"`  // which somebody vouched for
	Database   int64     `json:"database_bytes"` // of the copy
	Files      int       `json:"files"`          // in the data archive, this one not counted
	Parts      []Piece   `json:"parts,omitempty"`
	Media      []Piece   `json:"media,omitempty"`
}

// Bytes is what the backup takes on the medium, shared archives included.
func (m Manifest) Bytes() (n int64) {
	for _, p := range slices.Concat(m.Parts, m.Media) {
		n += p.Size
	}
	return n
}

// Found is a backup on a medium.
type Found struct {
	Manifest
	Path string // its folder
	Home string // the folder of its box
	Err  error  // why it cannot be used: a part is missing or has the wrong size; nil: it can be tried
}

// ErrNothing says that there is no backup.
var ErrNothing = errors.New("there is no backup")

var numbered = regexp.MustCompile(`^(\d{6})-\d{8}T\d{4}Z$`)

// List finds the backups at a place, those of each box together and the newest last: place is a backup, the folder of a box, the folder hallig-backup, or what holds that.
func List(place string) ([]Found, error) {
	place = filepath.Clean(place)
	if info, err := os.Stat(place); err != nil {
		return nil, fmt.Errorf("look for backups: %w", err)
	} else if !info.IsDir() {
		place = filepath.Dir(place) // a part of one
	}
	if _, err := os.Stat(filepath.Join(place, manifestFile)); err == nil {
		return []Found{read(place)}, nil
	}
	homes := []string{place}
	if inside := filepath.Join(place, Folder); isDir(inside) {
		place = inside
	}
	if filepath.Base(place) == Folder {
		entries, err := os.ReadDir(place)
		if err != nil {
			return nil, fmt.Errorf("look for backups: %w", err)
		}
		homes = nil
		for _, e := range entries {
			if e.IsDir() {
				homes = append(homes, filepath.Join(place, e.Name()))
			}
		}
	}
	var found []Found
	for _, home := range homes {
		entries, err := os.ReadDir(home)
		if err != nil {
			return nil, fmt.Errorf("look for backups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && numbered.MatchString(e.Name()) {
				found = append(found, read(filepath.Join(home, e.Name())))
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w in %s", ErrNothing, place)
	}
	slices.SortStableFunc(found, func(a, b Found) int {
		return cmp.Or(strings.Compare(a.Home, b.Home), a.Number-b.Number)
	})
	return found, nil
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// read looks at one backup from outside.
func read(dir string) Found {
	f := Found{Path: dir, Home: filepath.Dir(dir)}
	if m := numbered.FindStringSubmatch(filepath.Base(dir)); m != nil {
		f.Number, _ = strconv.Atoi(m[1]) // six digits
	}
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err == nil {
		f.Manifest, err = parseManifest(raw)
	}
	if err != nil {
		f.Err = fmt.Errorf("read %s: %w", manifestFile, err)
		return f
	}
	if len(f.Parts) == 0 {
		f.Err = errors.New("it has no parts")
	}
	for i, p := range f.Parts {
		if p.Name != partName(i) {
			f.Err = fmt.Errorf("%q is no name of a part", p.Name)
		} else if err := p.there(dir); err != nil {
			f.Err = err
		}
	}
	return f
}

// there says whether the file is there in its size.
func (p Piece) there(dir string) error {
	info, err := os.Stat(filepath.Join(dir, p.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is missing", p.Name)
	case err != nil:
		return err
	case info.Size() != p.Size:
		return fmt.Errorf("%s has %d bytes, not %d", p.Name, info.Size(), p.Size)
	}
	return nil
}

var archiveName = regexp.MustCompile(`^m\d{6}-[0-9a-f]{8}\.age$`)

const maxManifest = 1 << 20

// parseManifest reads a manifest and refuses what cannot be one; it looks at no files.
func parseManifest(raw []byte) (m Manifest, err error) {
	if len(raw) > maxManifest {
		return m, errors.New("it is too large")
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, err
	}
	if m.Form != 1 {
		return Manifest{}, fmt.Errorf("it has form %d, this program knows form 1; a newer program can restore it", m.Form)
	}
	if m.Number < 1 || m.Number > 999_999 || m.ServerName == "" || m.BoxID == "" {
		return Manifest{}, errors.New("it does not say whose backup it is")
	}
	for _, p := range m.Media {
		if !archiveName.MatchString(p.Name) {
			return Manifest{}, fmt.Errorf("%q is no name of a media archive", p.Name)
		}
	}
	return m, nil
}

func partName(i int) string {
	if i == 0 {
		return dataFile
	}
	return dataFile + "." + strconv.Itoa(i+1)
}

// homeName is the folder of a box: its name for people, and a piece of its id, so that a new box with an old name does not meddle.
func homeName(server, boxID string) string {
	plain := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, server)
	if len(plain) > 100 {
		plain = plain[:100]
	}
	return plain + "-" + boxID[max(0, len(boxID)-8):]
}

// ParseRecipients reads public keys of age.
func ParseRecipients(keys []string) ([]age.Recipient, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key to encrypt the backup for; make one with: hallig backup key --out recovery.key")
	}
	var out []age.Recipient
	for _, k := range keys {
		r, err := age.ParseX25519Recipient(strings.TrimSpace(k))
		if err != nil {
			return nil, fmt.Errorf("backup key %q: %w", k, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// ParseIdentities reads a file of secret keys as age-keygen and `hallig backup key` write it; blanks and line ends of hand-typed keys do not matter.
func ParseIdentities(text string) ([]age.Identity, error) {
	var out []age.Identity
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = strings.ToUpper(strings.Join(strings.Fields(line), ""))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, errors.New("this is no secret key of a backup: it begins with AGE-SECRET-KEY-1 and has 74 characters; a character may be mistyped")
		}
		out = append(out, id)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no secret key in it: a line that begins with AGE-SECRET-KEY-1")
	}
	return out, nil
}

// NewKey makes a key pair: the public one goes to the boxes, the secret one into the safe.
func NewKey() (public, secret string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("make backup key: %w", err)
	}
	return id.Recipient().String(), id.String(), nil
}
