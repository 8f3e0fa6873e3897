// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/appliance/backup"
	"hallig/appliance/fleet"
	"hallig/appliance/provision"
)

// backupVerb makes a backup, lists them, or makes the key for them.
func backupVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("backup", errOut)
	to := f.String("to", "", "folder, for example a mounted stick")
	var recipients []string
	f.Func("recipient", "age1... key that opens the backup; more than one is possible (default: as configured)", func(s string) error {
		recipients = append(recipients, s)
		return nil
	})
	key := f.String("out", "", "file for the secret key, with hallig backup key")
	lang := f.String("lang", "de", "language of the sheet with the key: de or en")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	switch {
	case len(words) == 1 && words[0] == "key" && *key != "":
		return backupKey(*key, *lang, out)
	case len(words) == 2 && words[0] == "list":
		return backupList(words[1], out)
	case len(words) == 2 && words[0] == "export" && *to != "":
	case len(words) > 0 || *to == "":
		return fmt.Errorf("%w: hallig backup --to FOLDER, hallig backup list FOLDER, hallig backup export SERVER --to FOLDER, or hallig backup key --out FILE", errUsage)
	}
	place, err := filepath.Abs(*to)
	if err != nil {
		return fmt.Errorf("find the folder: %w", err)
	}
	defer working(errOut, "writing and reading back ...")()
	var b admin.Backup
	if len(words) == 2 { // of a box whose backups are kept here
		if err := appliance.Ask(ctx, *dir, "POST", "/backup/export", map[string]string{"Server": words[1], "To": place}, &b); err != nil {
			return err
		}
		fmt.Fprintf(out, "Backup %d of %s, %s, copied and complete: %s\n", b.Number, words[1], size(b.Bytes), b.Path)
		return nil
	}
	err = appliance.Ask(ctx, *dir, "POST", "/backup", map[string]any{"To": place, "Recipients": recipients}, &b)
	if errors.Is(err, appliance.ErrNoBox) {
		cfg, cerr := appliance.LoadConfig(*dir)
		if cerr != nil {
			return cerr
		}
		cfg.Version, cfg.Released = version, released()
		found, berr := appliance.BackUp(ctx, cfg, place, recipients, slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelWarn})))
		if berr != nil {
			return berr
		}
		b = admin.Backup{Path: found.Path, Number: found.Number, Made: found.Made, Bytes: found.Bytes()}
	} else if err != nil {
		return err
	}
	fmt.Fprintf(out, "Backup %d, %s, read back and complete: %s\n", b.Number, size(b.Bytes), b.Path)
	return nil
}

// backupKey makes a key pair: the secret one into a file and onto a sheet of paper, the public one to the terminal.
func backupKey(name, lang string, out io.Writer) error {
	public, secret, err := backup.NewKey()
	if err != nil {
		return err
	}
	base := strings.TrimSuffix(name, filepath.Ext(name))
	sheet, file := base+".html", base+".json"
	takeOver, err := provision.File{Backup: provision.Backup{Recipients: []string{public}, To: "stick", Every: "24h"}, Restore: provision.Restore{Identity: secret}}.Marshal()
	if err != nil {
		return err
	}
	page, err := fleet.KeySheet(public, secret, lang)
	if err != nil {
		return err
	}
	for file, text := range map[string]string{name: "# Hallig backup; public key: " + public + "\n" + secret + "\n", sheet: string(page), file: string(takeOver)} {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists already and is not overwritten; a lost key opens nothing any more", file)
		}
		if err != nil {
			return fmt.Errorf("write key: %w", err)
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("write key: %w", err)
		}
	}
	fmt.Fprintf(out, "%s\n\nThis public key goes to the boxes, into hallig.json or config.json:\n\n  \"backup\": {\"recipients\": [%q], \"to\": \"stick\", \"every\": \"24h\"}\n\n"+
		"Print %s and lock it away with %s and %s. Without the key no backup can be opened.\n"+
		"%s is the hallig.json by which a spare box takes over and goes on making backups: copied beside the backups as hallig.json,\n"+
		"when it is needed, and deleted from that stick afterwards, as it holds the key.\n", public, public, sheet, name, file, file)
	return nil
}

func backupList(place string, out io.Writer) error {
	found, err := backup.List(place)
	if err != nil {
		return err
	}
	for _, f := range found {
		state := "complete"
		if f.Err != nil {
			state = "NOT USABLE: " + f.Err.Error()
		}
		made := f.Made.Local().Format("2006-01-02 15:04")
		if !f.Trusted {
			made += " (by a clock that nobody vouched for)"
		}
		fmt.Fprintf(out, "%s  %6d  %s  %9s  %s\n    %s\n", f.ServerName, f.Number, made, size(f.Bytes()), state, f.Path)
	}
	return nil
}

func size(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%d kB", n>>10)
	}
	return fmt.Sprintf("%d MB", n>>20)
}

// restore has a spare box take over.
func restore(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("restore", errOut)
	identity := f.String("identity", "", "file with the secret key; -: it is typed or piped in")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) != 1 || *identity == "" {
		return fmt.Errorf("%w: hallig restore FOLDER --data DIR --identity KEYFILE", errUsage)
	}
	var text []byte
	if *identity == "-" {
		fmt.Fprintln(errOut, "The secret key of the backup (AGE-SECRET-KEY-1...), then Ctrl-D:")
		text, err = io.ReadAll(io.LimitReader(os.Stdin, 64<<10))
	} else {
		text, err = os.ReadFile(*identity)
	}
	if err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	done := working(errOut, "restoring ...")
	r, err := appliance.Restore(ctx, words[0], *dir, string(text), nil)
	done()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "This is %s again (box %s), as of %s: %d files of media.\n", r.ServerName, r.BoxID, r.Made.Local().Format("2006-01-02 15:04"), r.MediaFiles)
	for _, m := range r.Missing {
		fmt.Fprintf(out, "  media that did not come back: %s\n", m)
	}
	fmt.Fprintf(out, "Start it with: hallig serve --data %s\nNever switch the old box on again: two boxes with one name confuse everybody.\n", *dir)
	return nil
}

// working tells that something takes long, and for how long already, until it is called off. far, where it is given, says how far it is.
func working(w io.Writer, what string, far ...func() string) func() {
	done := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		t := time.NewTicker(2 * time.Second)
		defer t.Stop()
		for n := 2; ; n += 2 {
			select {
			case <-t.C:
				if len(far) > 0 {
					fmt.Fprintf(w, "%s %d s\n", far[0](), n)
				} else if n == 2 || n%10 == 0 {
					fmt.Fprintf(w, "%s %d s\n", what, n)
				}
			case <-done:
				return
			}
		}
	})
	return func() { close(done); wait.Wait() }
}
