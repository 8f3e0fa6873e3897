// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/appliance/steward"
	"hallig/appliance/update"
)

const updateUsage = `on a box:      hallig update FILE | start | status [--json] | from [BOX] | back [--yes]
for releases:  hallig update key --out FILE [--name WHO] | sign --key FILE UPDATEFILE | check UPDATEFILE [--keys FILE]`

// updateVerb is everything about updates: of this box, and for those who release.
func updateVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("update", errOut)
	u := updater{dir: dir, out: out, errOut: errOut}
	socket := f.String("steward", "", "socket of the image's first process (default "+steward.Socket+")")
	f.BoolVar(&u.json, "json", false, "for scripts")
	f.BoolVar(&u.yes, "yes", false, "with back: do it, knowing what is lost")
	f.StringVar(&u.key, "key", "", "file with the key that signs")
	f.StringVar(&u.keys, "keys", "", "with check: the keys that a box trusts (its "+update.KeysFile+")")
	f.StringVar(&u.to, "out", "", "with key: the file for it")
	f.StringVar(&u.name, "name", "", "with key: whose it is")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	u.steward = steward.Dial(*socket)
	acts := map[string]struct {
		words []int
		do    func(context.Context, []string) error
	}{
		"start": {[]int{1}, u.start}, "status": {[]int{1}, u.status}, "from": {[]int{1, 2}, u.from}, "back": {[]int{1}, u.back},
		"key": {[]int{1}, u.makeKey}, "sign": {[]int{2}, u.sign}, "check": {[]int{2}, u.check},
	}
	if len(words) > 0 {
		if act, ok := acts[words[0]]; ok && slices.Contains(act.words, len(words)) {
			return act.do(ctx, words[1:])
		}
	}
	if len(words) != 1 || strings.HasPrefix(words[0], "-") {
		return fmt.Errorf("%w\n%s", errUsage, updateUsage)
	}
	return u.install(ctx, words[0])
}

type updater struct {
	dir                 *string
	out, errOut         io.Writer
	steward             *steward.Client
	json, yes           bool
	key, keys, to, name string
}

// spoken turns a sentence of the box into the language of the person.
func spoken(err error) error {
	text, refusal := steward.Text{}, (*update.Refusal)(nil)
	if errors.As(err, &refusal) {
		text = steward.Text{De: refusal.De, En: refusal.En}
	} else if !errors.As(err, &text) {
		return err
	}
	return errors.New(inLanguage(text))
}

func inLanguage(t steward.Text) string {
	if language(os.Getenv) == "de" {
		return t.De
	}
	return t.En
}

func (u updater) install(ctx context.Context, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open update file: %w", err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return fmt.Errorf("open update file: %w", err)
	}
	if err := u.steward.Update(ctx, &meter{r: file, size: st.Size(), out: u.errOut}); err != nil {
		return spoken(err)
	}
	fmt.Fprintln(u.out, "The update is written and whole. Start it with: hallig update start")
	return nil
}

// meter shows how far reading is.
type meter struct {
	r     io.Reader
	size  int64
	done  int64
	out   io.Writer
	shown time.Time
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	m.done += int64(n)
	if m.size > 0 && time.Since(m.shown) > time.Second {
		m.shown = time.Now()
		fmt.Fprintf(m.out, "\r%3d %%", m.done*100/m.size)
	}
	if err == io.EOF {
		fmt.Fprint(m.out, "\r100 %\n")
	}
	return n, err
}

func (u updater) start(ctx context.Context, _ []string) error {
	if err := u.steward.StartUpdate(ctx); err != nil {
		return spoken(err)
	}
	fmt.Fprintln(u.out, "The box tries the update now. If it is not well within some minutes, the system before comes back by itself. See: hallig update status")
	return nil
}

func (u updater) status(ctx context.Context, _ []string) error {
	s, err := u.steward.State(ctx)
	if err != nil {
		return spoken(err)
	}
	if u.json {
		enc := json.NewEncoder(u.out)
		enc.SetIndent("", "  ")
		return enc.Encode(s.Update)
	}
	fmt.Fprintf(u.out, "runs %s (release %d, slot %s, board %s)\n", s.Version, s.Release, s.Slot, s.Machine.Board)
	switch up := s.Update; up.State {
	case steward.UpdateWriting:
		fmt.Fprintf(u.out, "update %s is being written, %.0f %%\n", up.Version, up.Progress*100)
	case steward.UpdateWritten:
		fmt.Fprintf(u.out, "update %s is written; start it with: hallig update start\n", up.Version)
	case steward.UpdateTrial:
		fmt.Fprintf(u.out, "this start tries %s; it has until %s\n", up.Version, up.Deadline.Local().Format(time.TimeOnly))
	case steward.UpdateDone:
		fmt.Fprintf(u.out, "the last update, %s, was kept\n", up.Version)
	case steward.UpdateFailed:
		fmt.Fprintf(u.out, "the last update failed: %s\n", inLanguage(up.Error))
	default:
		fmt.Fprintln(u.out, "no update is under way")
	}
	if !s.Update.BackSays.Empty() {
		fmt.Fprintf(u.out, "hallig update back: %s\n", inLanguage(s.Update.BackSays))
	}
	var offers []admin.UpdateOffer
	if err := appliance.Ask(ctx, *u.dir, "GET", "/update/offers", nil, &offers); err == nil {
		for _, o := range offers {
			fmt.Fprintf(u.out, "%s has %s; take it with: hallig update from %s\n", o.Box, o.Version, o.Box)
		}
	}
	return nil
}

func (u updater) from(ctx context.Context, box []string) error {
	defer working(u.errOut, "taking the newer system ...")()
	var got admin.UpdateOffer
	if err := appliance.Ask(ctx, *u.dir, "POST", "/update/from", map[string]string{"Box": strings.Join(box, "")}, &got); err != nil {
		return err
	}
	fmt.Fprintf(u.out, "%s from %s is written and whole. Start it with: hallig update start\n", got.Version, got.Box)
	return nil
}

// back goes to the system before. On a machine without the image the programs are changed by whoever looks after it, and only the database is put back.
func (u updater) back(ctx context.Context, _ []string) error {
	s, err := u.steward.State(ctx)
	if errors.Is(err, steward.ErrAbsent) {
		return u.databaseBack()
	}
	if err != nil {
		return spoken(err)
	}
	if !u.yes {
		fmt.Fprintf(u.out, "%s\nTo do it: hallig update back --yes\n", inLanguage(s.Update.BackSays))
		return nil
	}
	if err := u.steward.UpdateBack(ctx); err != nil {
		return spoken(err)
	}
	fmt.Fprintf(u.out, "The box goes back to %s now.\n", s.Update.Back)
	return nil
}

func (u updater) databaseBack() error {
	made, err := appliance.GoBack(*u.dir, u.yes)
	if err != nil {
		return err
	}
	when := made.Local().Format("2006-01-02 15:04")
	if !u.yes {
		fmt.Fprintf(u.out, "The database goes back to the copy that was made before the update, of %s. What was written since then will be missing; it stays beside it as hallig.db.after-1.\nTo do it: hallig update back --yes --data %s\n", when, *u.dir)
		return nil
	}
	fmt.Fprintf(u.out, "At its next start this version puts the database of %s back. Start it with: hallig serve --data %s\n", when, *u.dir)
	return nil
}

func (u updater) makeKey(context.Context, []string) error {
	if u.to == "" {
		return fmt.Errorf("%w: hallig update key --out FILE", errUsage)
	}
	k := update.GenerateKey(u.name)
	if err := newFile(u.to, k.File()); err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	trusts, err := json.MarshalIndent(update.Keys{Threshold: 1, Keys: []update.PublicKey{k.Public()}}, "", "\t")
	if err != nil {
		return fmt.Errorf("show the key: %w", err)
	}
	fmt.Fprintf(u.out, "The key is in %s: keep it where only those who may release can read it, and a copy in a safe.\nBoxes trust it when image/update.json says so at the time their image is built:\n\n%s\n", u.to, trusts)
	return nil
}

func (u updater) signKey() (update.PrivateKey, error) {
	if u.key == "" {
		return update.PrivateKey{}, fmt.Errorf("%w: hallig update sign --key FILE UPDATEFILE", errUsage)
	}
	raw, err := os.ReadFile(u.key)
	if err != nil {
		return update.PrivateKey{}, fmt.Errorf("read the key: %w", err)
	}
	return update.ParsePrivateKey(raw)
}

// sign adds a signature to a file, in place.
func (u updater) sign(_ context.Context, files []string) error {
	key, err := u.signKey()
	if err != nil {
		return err
	}
	in, err := os.Open(files[0])
	if err != nil {
		return fmt.Errorf("open update file: %w", err)
	}
	defer in.Close()
	to, err := renameio.NewPendingFile(files[0], renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	defer to.Cleanup() //nolint:errcheck // nothing is left when all went well
	if err := update.Sign(to, in, key); err != nil {
		return spoken(err)
	}
	if err := to.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	fmt.Fprintf(u.out, "%s is signed by %s as well.\n", filepath.Base(files[0]), key.Public())
	return nil
}

// check reads a whole file and says what is in it; with keys, whether a box with these would take it.
func (u updater) check(_ context.Context, files []string) error {
	in, err := os.Open(files[0])
	if err != nil {
		return fmt.Errorf("open update file: %w", err)
	}
	defer in.Close()
	m, by, err := update.Inspect(in)
	if err != nil {
		return spoken(err)
	}
	fmt.Fprintf(u.out, "%s %s for %s, release %d, database schema %d, %d MB unpacked, commit %s\n", m.Product, m.Version, m.Board, m.Release, m.Schema, m.Size()>>20, m.Commit)
	for _, k := range by {
		fmt.Fprintf(u.out, "signed by %s\n", k)
	}
	if len(by) == 0 {
		fmt.Fprintln(u.out, "signed by nobody")
	}
	if u.keys == "" {
		return nil
	}
	raw, err := os.ReadFile(u.keys)
	if err != nil {
		return fmt.Errorf("read the keys: %w", err)
	}
	keys, err := update.ParseKeys(raw)
	if err != nil {
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read update file again: %w", err)
	}
	if _, err := update.Verify(in, update.Running{Board: m.Board, Keys: keys}); err != nil {
		return spoken(err)
	}
	fmt.Fprintln(u.out, "a box with these keys takes it")
	return nil
}
