// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"hallig/sync/hub"
)

// names is a flag that may be given several times.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(s string) error {
	*n = append(*n, s)
	return nil
}

// update lists the update files of the hub, adds one, rolls one out, stops it, removes it.
func update(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("update", errOut)
	asJSON := f.Bool("json", false, "for scripts: the list as JSON")
	board := f.String("board", "", "of this board alone; without: of all")
	share := f.Int("share", 0, "roll: percent of the boxes")
	reason := f.String("reason", "", "stop: why")
	var boxes names
	f.Var(&boxes, "box", "roll: this box anyway; may be given several times")
	words, err := parse(f, args, 2)
	if err != nil {
		return err
	}
	act := ""
	if len(words) > 0 {
		act = words[0]
	}
	if want := map[string]int{"": 0, "add": 2, "roll": 2, "stop": 2, "remove": 2}[act]; want != len(words) {
		return fmt.Errorf("%w: want hallig-hub update [add FILE | roll VERSION --share PERCENT --box BOX | stop VERSION --reason TEXT | remove VERSION]", errUsage)
	}
	if act != "" && (*share != 0 || len(boxes) > 0 || isSet(f, "share")) != (act == "roll") || (*reason != "") != (act == "stop") {
		return fmt.Errorf("%w: roll wants --share PERCENT or --box BOX, stop wants --reason TEXT, the others neither", errUsage)
	}
	change := func(o hub.Roll) error {
		o.Board = *board
		if err := hub.Ask(ctx, *dir, "POST", "/update/"+url.PathEscape(words[1]), o, nil); err != nil {
			return err
		}
		return listUpdates(ctx, *dir, false, out)
	}
	switch act {
	case "add":
		return addUpdate(ctx, *dir, words[1], out)
	case "roll":
		return change(hub.Roll{Share: share, Boxes: boxes})
	case "stop":
		return change(hub.Roll{Stop: *reason})
	case "remove":
		return change(hub.Roll{Remove: true})
	}
	return listUpdates(ctx, *dir, *asJSON, out)
}

// policyVerb shows the policy that boxes are told of, or sets another one.
func policyVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("policy", errOut)
	asJSON := f.Bool("json", false, "for scripts: as JSON")
	words, err := parse(f, args, 2)
	if err != nil {
		return err
	}
	switch {
	case len(words) == 2 && words[0] == "set":
		raw, err := os.ReadFile(words[1])
		if err != nil {
			return err
		}
		if err := hub.Ask(ctx, *dir, "POST", "/policy", bytes.NewReader(raw), nil); err != nil {
			return err
		}
	case len(words) != 0:
		return fmt.Errorf("%w: want hallig-hub policy, or hallig-hub policy set FILE", errUsage)
	}
	var s hub.Status
	if err := hub.Ask(ctx, *dir, "GET", "/status", nil, &s); err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if *asJSON {
		return enc.Encode(s.Policy)
	}
	if s.Policy == nil {
		fmt.Fprintln(out, "no policy is here; sign one with hallig policy sign, then: hallig-hub policy set FILE")
		return nil
	}
	fmt.Fprintf(out, "policy %d %s\nsigned by %s\n", s.Policy.Serial, s.Policy.Name, s.Policy.SignedBy)
	if err := enc.Encode(s.Policy.Settings); err != nil {
		return err
	}
	for _, b := range s.Boxes {
		if p := b.Said.Policy; b.Revoked == "" && p != nil && *p < s.Policy.Serial {
			fmt.Fprintf(out, "%s has number %d so far %s\n", b.Server, *p, b.Said.PolicyRefused)
		}
	}
	return nil
}

func isSet(f *flag.FlagSet, name string) (set bool) {
	f.Visit(func(g *flag.Flag) { set = set || g.Name == name })
	return set
}

func addUpdate(ctx context.Context, dir, name string, out io.Writer) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	var added hub.UpdateFile
	if err := hub.Ask(ctx, dir, "POST", "/update", file, &added); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s for %s is on the shelf. No box is told of it yet; begin with a few:\n\n    hallig-hub update roll %s --share 10\n", added.Version, added.Board, added.Version)
	if !added.Trusted {
		fmt.Fprintf(out, "\nSigned by %s. Whether the boxes trust that the hub does not know: \"updates\": {\"keys\": FILE} in hub.json tells it.\n", strings.Join(added.SignedBy, ", "))
	}
	return nil
}

func listUpdates(ctx context.Context, dir string, asJSON bool, out io.Writer) error {
	var s hub.Status
	if err := hub.Ask(ctx, dir, "GET", "/status", nil, &s); err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(s.Updates)
	}
	printUpdates(out, s)
	return nil
}

// printUpdates says how far each update is, and on which boxes it did not work.
func printUpdates(out io.Writer, s hub.Status) {
	for _, u := range s.Updates {
		fmt.Fprintf(out, "%s  %s, release %d, %d kB, since %s\n", u.Version, u.Board, u.Release, (u.Bytes+1023)>>10, u.Added.Local().Format("2006-01-02 15:04"))
		fmt.Fprintf(out, "    rolled out to %d %% of the boxes", u.Share)
		if len(u.Boxes) > 0 {
			fmt.Fprintf(out, " and %s", strings.Join(u.Boxes, ", "))
		}
		on, of := s.Arrived(u)
		fmt.Fprintf(out, "; on %d of %d of its board\n", on, of)
		if u.Stopped != "" {
			fmt.Fprintf(out, "    stopped: %s\n", u.Stopped)
		}
		for _, box := range slices.Sorted(maps.Keys(u.Failed)) {
			fmt.Fprintf(out, "    did not work on %s: %s\n", box, u.Failed[box])
		}
	}
	if len(s.Updates) == 0 {
		fmt.Fprintln(out, "no update file is here; add one with: hallig-hub update add FILE")
	}
}
