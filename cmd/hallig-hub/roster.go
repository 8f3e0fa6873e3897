// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"hallig/sync/hub"
	"hallig/sync/hub/fleet"
)

// rosterVerb shows the roster of the fleet, takes one, or lists whom the next one may have.
func rosterVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("roster", errOut)
	words, err := parse(f, args, 2)
	if err != nil {
		return err
	}
	switch {
	case len(words) == 0:
		var s hub.Status
		if err := hub.Ask(ctx, *dir, "GET", "/status", nil, &s); err != nil {
			return err
		}
		if s.Hub.Roster == nil {
			fmt.Fprintln(out, `the hub knows no key of an organisation; make one with hallig policy key, and name its line in hub.json as "organisation_key"`)
		}
		printRoster(out, s.Hub.Roster)
	case len(words) == 1 && words[0] == "draft":
		var d struct{ Lines string }
		if err := hub.Ask(ctx, *dir, "GET", "/roster/draft", nil, &d); err != nil {
			return err
		}
		fmt.Fprint(out, d.Lines)
	case len(words) == 2 && words[0] == "import":
		raw, err := os.ReadFile(words[1])
		if err != nil {
			return err
		}
		var r fleet.Roster
		if err := hub.Ask(ctx, *dir, "POST", "/roster", struct{ Roster []byte }{raw}, &r); err != nil {
			return err
		}
		printRoster(out, &r)
	default:
		return fmt.Errorf("%w: want hallig-hub roster [draft | import ROSTER]", errUsage)
	}
	return nil
}

// printRoster tells of the roster; nil: there is no fleet.
func printRoster(out io.Writer, r *fleet.Roster) {
	switch {
	case r == nil:
		return
	case r.Serial == 0:
		fmt.Fprintln(out, "  there is no roster of the fleet yet: hallig-hub roster draft, then hallig fleet roster sign, then hallig-hub roster import")
	default:
		fmt.Fprintf(out, "  roster %d of the fleet, signed %s: %d boxes, %d revoked", r.Serial, r.Issued.Local().Format("2006-01-02 15:04"), r.Boxes, r.Revoked)
		if r.Missing > 0 {
			fmt.Fprintf(out, "; %d boxes of this hub are missing in it", r.Missing)
		}
		fmt.Fprintln(out)
	}
	if r.NotTaken > 0 {
		fmt.Fprintf(out, "  %d times somebody brought a roster that the root has not signed\n", r.NotTaken)
	}
}
