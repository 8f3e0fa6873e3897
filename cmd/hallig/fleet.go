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

// fleetHelp is what hallig fleet says, before the columns.
var fleetHelp = provision.Error{
	De: `hallig fleet prepare --csv boxen.csv --out ORDNER   je Box eine hallig.json und ein Blatt, dazu secrets.csv für den Tresor
hallig fleet stick ORDNER BOX STICK                 legt die hallig.json einer Box auf einen eingehängten Stick
hallig fleet line --data DIR                        die Zeile einer Box für die Flottenliste (der Hub hat alle: hallig-hub roster draft)
hallig fleet roster sign LISTE --key DATEI [--boxes ZEILEN] [--revoke BOX --reason TEXT] [--remove BOX] [--readmit BOX]
hallig fleet roster show LISTE [--json]             was darin steht
hallig fleet roster take LISTE --data DIR           gibt sie einer Box; die anderen bekommen sie von ihr

  --lang de|en              Sprache der Blätter und dieser Ausgaben
  --org NAME                Name der Organisation
  --org-ca ca.pem           Zertifizierungsstelle der Organisation
  --org-key ZEILE           öffentlicher Schlüssel der Organisation, von hallig policy key
  --domain DOMAIN           gibt Boxen ohne server_name einen: BEZEICHNUNG.DOMAIN
  --base hallig.json        was alle Boxen gemeinsam haben
  --backup-recipient age1…  alle Boxen sichern täglich auf einen Stick, lesbar nur mit diesem Schlüssel (hallig backup key macht ihn)
  --lock                    verschlüsselt die Daten jeder Box und würfelt ihr einen Sperrcode; hallig.json muss dann beim allerersten
                            Start auf einem USB-Stick stecken, auf dem auch die Schlüsseldatei erscheint

Eigenes WLAN hat keine Box. Die Spalten wifi_ssid und wifi_passphrase nennen das WLAN des Zugangspunkts (Routers), der an der Box
steckt; sie kommen mit QR-Code auf das Blatt, nicht in hallig.json. Ohne sie nennt das Blatt das Netz, an dem die Box steckt.
Ohne die Spalte wifi_passphrase steht nur der Name auf dem Blatt.

Spalten der Tabelle, in beliebiger Reihenfolge; Komma, Semikolon oder Tabulator:

`,
	En: `hallig fleet prepare --csv boxes.csv --out DIR   a hallig.json and a sheet for each box, and secrets.csv for the safe
hallig fleet stick DIR BOX STICK                 puts the hallig.json of one box on a mounted stick
hallig fleet line --data DIR                     a box's line for their list, the roster (the hub has all: hallig-hub roster draft)
hallig fleet roster sign ROSTER --key FILE [--boxes LINES] [--revoke BOX --reason TEXT] [--remove BOX] [--readmit BOX]
hallig fleet roster show ROSTER [--json]         what is in it
hallig fleet roster take ROSTER --data DIR       gives it to a box; the others get it from there

  --lang de|en              language of the sheets and of these texts
  --org NAME                name of the organisation
  --org-ca ca.pem           the organisation's certificate authority
  --org-key LINE            the organisation's public key, of hallig policy key
  --domain DOMAIN           gives boxes without server_name one: LABEL.DOMAIN
  --base hallig.json        what all boxes have in common
  --backup-recipient age1…  all boxes back up daily to a stick, readable with this key only (hallig backup key makes it)
  --lock                    encrypts the data of each box and draws a lock code for it; hallig.json must then come on a USB stick
                            at the very first start, and the key file appears on that stick

No box has a Wi-Fi of its own. The columns wifi_ssid and wifi_passphrase name the Wi-Fi of the access point (router) that is plugged
into the box; they go onto the sheet with a code to scan, not into hallig.json. Without them the sheet speaks of the network that the
box is plugged into. Without the column wifi_passphrase the sheet has the name alone.

Columns of the table, in any order; comma, semicolon or tab:

`,
}

// fleetVerb prepares many boxes at a desk, and signs who belongs together; it speaks to none, but for take and line.
func fleetVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	if len(args) > 0 {
		if verb, ok := rosterVerbs[args[0]]; ok {
			return verb(ctx, args[1:], out, errOut)
		}
	}
	f := flag.NewFlagSet("hallig fleet", flag.ContinueOnError)
	f.SetOutput(errOut)
	f.Usage = func() {}
	lang := fleetLang(args)
	t := func(de, en string) string { return say(provision.Error{De: de, En: en}, lang) }
	table := f.String("csv", "", "table with one line for each box")
	dir := f.String("out", "", "folder to make")
	given := f.String("lang", lang, "language of the sheets and the terminal: de or en")
	base := f.String("base", "", "a hallig.json with what all boxes have in common")
	domain := f.String("domain", "", "gives boxes without server_name one: LABEL.DOMAIN")
	org := f.String("org", "", "name of the organisation")
	ca := f.String("org-ca", "", "PEM file with the organisation's certificate authority")
	key := f.String("org-key", "", "the organisation's public key")
	backup := f.String("backup-recipient", "", "age1... key for which all boxes encrypt their daily backup to a stick")
	lock := f.Bool("lock", false, "encrypts the data of each box and draws its lock code")
	words, err := parse(f, args)
	switch {
	case errors.Is(err, flag.ErrHelp) || err == nil && len(words) == 0 && *table == "" && *dir == "":
		fmt.Fprint(out, say(fleetHelp, lang)+fleet.Help(lang))
		return nil
	case err != nil:
		return fmt.Errorf("%w: %s", errUsage, flagTrouble(err, lang))
	case *given != "de" && *given != "en":
		return fmt.Errorf("%w: %s", errUsage, t("--lang ist de oder en", "--lang is de or en"))
	case len(words) == 4 && words[0] == "stick":
		if err := fleet.CopyToStick(words[1], words[2], words[3]); err != nil {
			return errors.New(say(err, lang))
		}
		fmt.Fprintf(out, t("%s ist bereit für %s. Den Stick sicher entfernen, bevor er abgezogen wird.\n", "%s is ready for %s. Remove the stick safely before pulling it out.\n"), words[3], words[2])
		return nil
	case len(words) != 1 || words[0] != "prepare" || *table == "" || *dir == "":
		return fmt.Errorf("%w: %s", errUsage, t("hallig fleet prepare --csv boxen.csv --out ORDNER; hallig fleet nennt Spalten und Schalter", "hallig fleet prepare --csv boxes.csv --out DIR; hallig fleet lists columns and options"))
	}
	o := fleet.Options{Lang: lang, Domain: *domain, Lock: *lock}
	if *base != "" {
		raw, err := os.ReadFile(*base)
		if err != nil {
			return fmt.Errorf(t("--base lesen: %w", "read --base: %w"), err)
		}
		if o.Base, err = provision.Parse(raw); err != nil {
			return fmt.Errorf("%s: %s", *base, say(err, lang))
		}
	}
	if *org != "" {
		o.Base.Organisation.Name = *org
	}
	if *key != "" {
		o.Base.Organisation.Key = *key
	}
	if *ca != "" {
		raw, err := os.ReadFile(*ca)
		if err != nil {
			return fmt.Errorf(t("--org-ca lesen: %w", "read --org-ca: %w"), err)
		}
		o.Base.Organisation.CA = string(raw)
	}
	if *backup != "" {
		o.Base.Backup = provision.Backup{Recipients: []string{*backup}, To: "stick", Every: "24h"}
	}
	raw, err := os.ReadFile(*table)
	if err != nil {
		return fmt.Errorf(t("Tabelle lesen: %w", "read table: %w"), err)
	}
	boxes, err := fleet.Prepare(raw, o)
	if err != nil {
		return fmt.Errorf("%s: %s", *table, say(err, lang))
	}
	if err := fleet.Write(*dir, boxes, o); err != nil {
		return errors.New(say(err, lang))
	}
	fmt.Fprintf(out, t("Boxen: %d. %s drucken, %s einschließen und die hallig.json jeder Box auf ihren Stick legen:\n\n  hallig fleet stick %s %s /media/STICK\n",
		"Boxes: %d. Print %s, lock %s away, and put each box's hallig.json on its stick:\n\n  hallig fleet stick %s %s /media/STICK\n"),
		len(boxes), filepath.Join(*dir, "sheets.html"), filepath.Join(*dir, "secrets.csv"), *dir, boxes[0].Folder)
	if o.Lock {
		fmt.Fprint(out, t("\nDie Daten der Boxen werden verschlüsselt: Beim allerersten Start muss der Stick stecken; die Schlüsseldatei erscheint auf ihm. Stick und Sperrcode getrennt von der Box aufbewahren.\n",
			"\nThe data of the boxes will be encrypted: the stick must be plugged in at the very first start, and the key file appears on it. Keep stick and lock code apart from the box.\n"))
	}
	return nil
}

// fleetLang is the language that --lang asks for, wherever it stands, and otherwise that of the terminal.
func fleetLang(args []string) string {
	lang := "en"
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			if strings.HasPrefix(v, "de") {
				lang = "de"
			}
			break
		}
	}
	for i, a := range args {
		name, v, ok := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") || name != "lang" {
			continue
		}
		if !ok && i+1 < len(args) {
			v = args[i+1]
		}
		if v == "de" || v == "en" {
			lang = v
		}
	}
	return lang
}

// flagTrouble says in one line what is wrong with the flags, and what to do.
func flagTrouble(err error, lang string) string {
	text := strings.TrimPrefix(err.Error(), errUsage.Error()+": ")
	text, _, _ = strings.Cut(text, ";")
	for from, to := range map[string]provision.Error{
		"flag provided but not defined: -": {De: "--%s gibt es nicht", En: "there is no --%s"},
		"flag needs an argument: -":        {De: "hinter --%s fehlt etwas", En: "something is missing behind --%s"},
	} {
		if name, ok := strings.CutPrefix(text, from); ok {
			text = fmt.Sprintf(say(to, lang), name)
		}
	}
	return text + say(provision.Error{De: "; hallig fleet nennt alle Schalter", En: "; hallig fleet lists all options"}, lang)
}

// say gives the sentence of an error in one language.
func say(err error, lang string) string {
	var e provision.Error
	if errors.As(err, &e) && lang == "de" {
		return e.De
	}
	return err.Error()
}
