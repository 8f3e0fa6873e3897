// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"crypto"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/appliance/provision"
	"hallig/appliance/signet"
	"hallig/sync/peer"
)

// This file signs the roster of a fleet, at a desk and without a network, with the organisation's key, which lies in the safe otherwise.

var rosterVerbs = map[string]func(context.Context, []string, io.Writer, io.Writer) error{
	"line": fleetLine, "roster": fleetRoster,
}

// both is a sentence in the language of the terminal.
func both(de, en string) string { return say(provision.Error{De: de, En: en}, language(os.Getenv)) }

func usage(de, en string) error { return fmt.Errorf("%w: %s", errUsage, both(de, en)) }

// root signs with the organisation's key.
type root struct{ signet.Secret }

func (r root) Public() crypto.PublicKey { return r.Secret.Public().Key }
func (r root) Sign(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	return r.Secret.Sign(message), nil
}

// readRoot reads the organisation's key.
func readRoot(name string) (root, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return root{}, err
	}
	k, err := signet.Organisation.ParseFile(raw)
	if err != nil {
		return root{}, fmt.Errorf(both("%s: %w; hallig policy key macht einen Schlüssel", "%s: %w; hallig policy key makes a key"), name, err)
	}
	return root{k}, nil
}

// fleetLine prints the line of a running box.
func fleetLine(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("fleet line", errOut)
	if err := noWords(f, args); err != nil {
		return err
	}
	var in struct{ Line string }
	if err := appliance.Ask(ctx, *dir, "GET", "/fleet/line", nil, &in); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, in.Line)
	return err
}

func fleetRoster(ctx context.Context, args []string, out, errOut io.Writer) error {
	verbs := map[string]func(context.Context, []string, io.Writer, io.Writer) error{"sign": signRoster, "show": showRoster, "take": takeRoster}
	if len(args) > 0 && verbs[args[0]] != nil {
		return verbs[args[0]](ctx, args[1:], out, errOut)
	}
	return usage("hallig fleet roster sign, show oder take; hallig fleet nennt alles", "hallig fleet roster sign, show or take; hallig fleet lists all")
}

// change is what a new roster has and the one before has not.
type change struct {
	lines           []byte
	revoke, reason  string
	remove, readmit string
}

// signRoster signs a roster that follows the one that is in the file, and puts it in its place.
func signRoster(_ context.Context, args []string, out, errOut io.Writer) error {
	f := flag.NewFlagSet("hallig fleet roster sign", flag.ContinueOnError)
	f.SetOutput(errOut)
	var c change
	keyFile := f.String("key", "", "file with the organisation's key")
	boxes := f.String("boxes", "", "file with the lines of boxes that join, or have a new key (- for standard input)")
	f.StringVar(&c.revoke, "revoke", "", "server name or id of a box that was lost")
	f.StringVar(&c.reason, "reason", "", "why")
	f.StringVar(&c.remove, "remove", "", "a box that leaves the fleet, without being lost")
	f.StringVar(&c.readmit, "readmit", "", "a revoked box that was found again")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	switch {
	case c.revoke != "" && c.reason == "":
		return usage("zu --revoke fehlt --reason: warum die Box gesperrt wird, zum Beispiel --reason gestohlen", "--revoke lacks --reason: why the box is revoked, for example --reason stolen")
	case c.reason != "" && c.revoke == "":
		return usage("zu --reason fehlt --revoke: welche Box gesperrt wird", "--reason lacks --revoke: which box is revoked")
	}
	if len(words) != 1 || *keyFile == "" || *boxes == "" && c.revoke == "" && c.remove == "" && c.readmit == "" {
		return usage("hallig fleet roster sign LISTE --key DATEI, und --boxes ZEILEN, --revoke BOX --reason TEXT, --remove BOX oder --readmit BOX",
			"hallig fleet roster sign ROSTER --key FILE, with --boxes LINES, --revoke BOX --reason TEXT, --remove BOX or --readmit BOX")
	}
	by, err := readRoot(*keyFile)
	if err != nil {
		return err
	}
	switch *boxes {
	case "":
	case "-":
		c.lines, err = io.ReadAll(io.LimitReader(os.Stdin, 16<<20))
	default:
		c.lines, err = os.ReadFile(*boxes)
	}
	if err != nil {
		return err
	}
	var before peer.Fleet
	raw, err := os.ReadFile(words[0])
	switch {
	case err == nil:
		if before, err = peer.ReadFleet(raw, by.Secret.Public().Key); err != nil {
			return fmt.Errorf("%s: %w", words[0], err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case len(c.lines) == 0:
		return fmt.Errorf(both("%s gibt es noch nicht; die erste Flottenliste braucht Boxen: --boxes ZEILEN", "%s does not exist yet; the first roster needs boxes: --boxes LINES"), words[0])
	}
	after, err := c.over(before, time.Now())
	if err != nil {
		return err
	}
	signed, err := peer.SignFleet(by, after)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(words[0], signed, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, both("Flottenliste %d: Boxen: %d, gesperrt: %d. Jetzt dem Hub geben (hallig-hub roster import %s), oder einer Box (hallig fleet roster take, oder als Datei fleet.roster auf einem Stick).\n",
		"Roster %d: boxes: %d, revoked: %d. Give it to the hub now (hallig-hub roster import %s), or to a box (hallig fleet roster take, or on a stick as the file fleet.roster).\n"),
		after.Serial, len(after.Boxes), len(after.Revoked), words[0])
	return nil
}

// over makes the next roster. Its serial is greater than the one before also when that was lost, as it is the time of the signing machine.
func (c change) over(f peer.Fleet, now time.Time) (peer.Fleet, error) {
	f.Serial, f.Issued = max(f.Serial+1, uint64(max(now.Unix(), 1))), now.Unix()
	f.Boxes, f.Revoked = slices.Clone(f.Boxes), slices.Clone(f.Revoked)
	none := func(name string) error {
		return fmt.Errorf(both("%s steht nicht in der Flottenliste; hallig fleet roster show zeigt sie", "%s is not in the roster; hallig fleet roster show shows it"), name)
	}
	if c.readmit != "" {
		i := slices.IndexFunc(f.Revoked, func(r peer.Revocation) bool { return r.Server == c.readmit || string(r.ID) == c.readmit })
		if i < 0 {
			return f, none(c.readmit)
		}
		f.Revoked = slices.Delete(f.Revoked, i, i+1)
	}
	for _, name := range []string{c.revoke, c.remove} {
		if name == "" {
			continue
		}
		i := slices.IndexFunc(f.Boxes, func(m peer.Member) bool { return m.Server == name || string(m.ID) == name })
		if i < 0 {
			return f, none(name)
		}
		m := f.Boxes[i]
		f.Boxes = slices.Delete(f.Boxes, i, i+1)
		if name == c.revoke {
			f.Revoked = append(f.Revoked, peer.Revocation{ID: m.ID, Server: m.Server, Reason: c.reason})
		}
	}
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(c.lines), "\ufeff")) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		m, err := peer.ParseMember(line)
		if err != nil {
			return f, fmt.Errorf(both("Zeile %d: %w", "line %d: %w"), n, err)
		}
		if f, err = joined(f, m); err != nil {
			return f, fmt.Errorf(both("Zeile %d: %w", "line %d: %w"), n, err)
		}
	}
	return f, nil
}

// joined adds a box, or takes its newer statement.
func joined(f peer.Fleet, m peer.Member) (peer.Fleet, error) {
	if _, lost := f.Revocation(m.ID); lost {
		return f, fmt.Errorf(both("%s ist gesperrt; wurde sie wiedergefunden: --readmit %[1]s", "%s is revoked; if it was found again: --readmit %[1]s"), m.Server)
	}
	for i, old := range f.Boxes {
		switch {
		case old.ID == m.ID && old.Serial > m.Serial:
			return f, nil // the roster knows it better
		case old.ID == m.ID:
			f.Boxes[i] = m
			return f, nil
		case old.Server == m.Server:
			return f, fmt.Errorf(both("%s heißt schon eine andere Box; die alte zuerst mit --remove oder --revoke herausnehmen", "another box is called %s; take the old one out first, with --remove or --revoke"), m.Server)
		}
	}
	f.Boxes = append(f.Boxes, m)
	return f, nil
}

// showRoster prints a roster.
func showRoster(_ context.Context, args []string, out, errOut io.Writer) error {
	f := flag.NewFlagSet("hallig fleet roster show", flag.ContinueOnError)
	f.SetOutput(errOut)
	asJSON := f.Bool("json", false, "for scripts")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return usage("hallig fleet roster show LISTE", "hallig fleet roster show ROSTER")
	}
	raw, err := os.ReadFile(words[0])
	if err != nil {
		return err
	}
	fleet, err := peer.ReadFleet(raw, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", words[0], err)
	}
	if *asJSON {
		return printJSON(out, rosterJSON(fleet))
	}
	fmt.Fprintf(out, both("Flottenliste %d vom %s, unterschrieben mit %s\n", "roster %d of %s, signed with %s\n"), fleet.Serial, time.Unix(fleet.Issued, 0).Local().Format("2006-01-02 15:04"), signet.Organisation.Text(signet.Key{Key: fleet.Root}))
	for _, m := range fleet.Boxes {
		fmt.Fprintf(out, "  %s  %s  (%s)\n", m.Server, m.Label, m.ID)
	}
	for _, r := range fleet.Revoked {
		fmt.Fprintf(out, both("  gesperrt: %s  %s  (%s)\n", "  revoked: %s  %s  (%s)\n"), r.Server, r.Reason, r.ID)
	}
	return nil
}

func rosterJSON(f peer.Fleet) any {
	type box struct {
		Server string `json:"server_name"`
		ID     string `json:"id"`
		Label  string `json:"label,omitempty"`
		Reason string `json:"reason,omitempty"`
	}
	out := struct {
		Serial  uint64    `json:"serial"`
		Issued  time.Time `json:"issued"`
		Root    string    `json:"root"`
		Boxes   []box     `json:"boxes"`
		Revoked []box     `json:"revoked"`
	}{f.Serial, time.Unix(f.Issued, 0).UTC(), signet.Organisation.Text(signet.Key{Key: f.Root}), []box{}, []box{}}
	for _, m := range f.Boxes {
		out.Boxes = append(out.Boxes, box{Server: m.Server, ID: string(m.ID), Label: m.Label})
	}
	for _, r := range f.Revoked {
		out.Revoked = append(out.Revoked, box{Server: r.Server, ID: string(r.ID), Reason: r.Reason})
	}
	return out
}

// takeRoster gives a roster to the running box.
func takeRoster(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("fleet roster take", errOut)
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return usage("hallig fleet roster take LISTE --data DIR", "hallig fleet roster take ROSTER --data DIR")
	}
	raw, err := os.ReadFile(words[0])
	if err != nil {
		return err
	}
	var s admin.Fleet
	if err := appliance.Ask(ctx, *dir, "POST", "/fleet/roster", struct{ Roster []byte }{raw}, &s); err != nil {
		return err
	}
	printFleet(out, &s)
	return nil
}
