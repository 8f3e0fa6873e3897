// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"hallig/appliance/fleet"
	"hallig/appliance/provision"
)

// fleetVerb prepares many boxes at a desk; it speaks to none.
func fleetVerb(_ context.Context, args []string, out, errOut io.Writer) error {
	f := flag.NewFlagSet("hallig fleet", flag.ContinueOnError)
	f.SetOutput(errOut)
	lang := "en"
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			if strings.HasPrefix(v, "de") {
				lang = "de"
			}
			break
		}
	}
	table := f.String("csv", "", "table with one line for each box")
	dir := f.String("out", "", "folder to make")
	f.StringVar(&lang, "lang", lang, "language of the sheets: de or en")
	base := f.String("base", "", "a hallig.json with what all boxes have in common")
	domain := f.String("domain", "", "gives boxes without server_name one: LABEL.DOMAIN")
	org := f.String("org", "", "name of the organisation")
	ca := f.String("org-ca", "", "PEM file with the organisation's certificate authority")
	backup := f.String("backup-recipient", "", "age1... key for which all boxes encrypt their daily backup to a stick")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	switch {
	case len(words) == 4 && words[0] == "stick":
		if err := fleet.CopyToStick(words[1], words[2], words[3]); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s is ready for %s. Remove the stick safely before pulling it out.\n", words[3], words[2])
		return nil
	case len(words) == 0:
		fmt.Fprintf(out, "hallig fleet prepare --csv boxes.csv --out DIR [--lang de|en] [--org NAME] [--org-ca ca.pem] [--domain DOMAIN] [--base hallig.json]\n\n"+
			"Columns of the table, in any order; comma, semicolon or tab:\n\n%s", fleet.Help(lang))
		return nil
	case len(words) != 1 || words[0] != "prepare" || *table == "" || *dir == "":
		return fmt.Errorf("%w: hallig fleet prepare --csv boxes.csv --out DIR; hallig fleet lists the columns", errUsage)
	case lang != "de" && lang != "en":
		return fmt.Errorf("%w: --lang is de or en", errUsage)
	}
	o := fleet.Options{Lang: lang, Domain: *domain}
	if *base != "" {
		raw, err := os.ReadFile(*base)
		if err != nil {
			return fmt.Errorf("read --base: %w", err)
		}
		if o.Base, err = provision.Parse(raw); err != nil {
			return fmt.Errorf("%s: %s", *base, say(err, lang))
		}
	}
	if *org != "" {
		o.Base.Organisation.Name = *org
	}
	if *ca != "" {
		raw, err := os.ReadFile(*ca)
		if err != nil {
			return fmt.Errorf("read --org-ca: %w", err)
		}
		o.Base.Organisation.CA = string(raw)
	}
	if *backup != "" {
		o.Base.Backup = provision.Backup{Recipients: []string{*backup}, To: "stick", Every: "24h"}
	}
	raw, err := os.ReadFile(*table)
	if err != nil {
		return fmt.Errorf("read table: %w", err)
	}
	boxes, err := fleet.Prepare(raw, o)
	if err != nil {
		return fmt.Errorf("%s: %s", *table, say(err, lang))
	}
	if err := fleet.Write(*dir, boxes, o); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d boxes. Print %s, lock %s away, and put each box's hallig.json on its stick:\n\n  hallig fleet stick %s %s /media/STICK\n",
		len(boxes), filepath.Join(*dir, "sheets.html"), filepath.Join(*dir, "secrets.csv"), *dir, boxes[0].Folder)
	return nil
}

// say gives the sentence of an error in one language.
func say(err error, lang string) string {
	var e provision.Error
	if errors.As(err, &e) && lang == "de" {
		return e.De
	}
	return err.Error()
}
