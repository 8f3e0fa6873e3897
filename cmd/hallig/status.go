// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/appliance/health"
)

// Exit statuses of hallig status --check, beside 0 (green), 1 (no answer) and 2 (wrong usage).
const (
	exitLook    = 3
	exitTrouble = 4
)

// exitError is an exit status that says all.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func status(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("status", errOut)
	asJSON := f.Bool("json", false, "for scripts: everything, with the health tree under \"health\"")
	check := f.Bool("check", false, "print one sentence; exit status 0 all is well, 3 somebody should look, 4 something does not work, 1 no answer")
	if err := noWords(f, args); err != nil {
		return err
	}
	lang := language(os.Getenv)
	if *check {
		var t health.Tree
		if err := appliance.Ask(ctx, *dir, "GET", "/health", nil, &t); err != nil {
			return err
		}
		return checked(t, lang, *asJSON, out)
	}
	var s admin.Status
	if err := appliance.Ask(ctx, *dir, "GET", "/status", nil, &s); err != nil {
		return err
	}
	if *asJSON {
		return printJSON(out, s)
	}
	printHealth(out, s.Health, lang)
	fmt.Fprintln(out)
	printStatus(out, s)
	return nil
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// checked prints the one sentence, or the tree, and makes the state an exit status.
func checked(t health.Tree, lang string, asJSON bool, out io.Writer) error {
	if asJSON {
		if err := printJSON(out, t); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(out, t.Sentence.In(lang)); err != nil {
		return err
	}
	switch t.State {
	case health.OK:
		return nil
	case health.Look:
		return exitError(exitLook)
	}
	return exitError(exitTrouble)
}

// language is "de" when the environment asks for German, as setlocale(3) reads it.
func language(getenv func(string) string) string {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := getenv(name); v != "" {
			if strings.HasPrefix(strings.ToLower(v), "de") {
				return "de"
			}
			return "en"
		}
	}
	return "en"
}

// printHealth says what to do, the worst first, and under each what it explains; then what is on its way, and what is well.
func printHealth(out io.Writer, t health.Tree, lang string) {
	well := "is well"
	if lang == "de" {
		well = "in Ordnung"
	}
	if t.OK {
		fmt.Fprintf(out, "%s %s\n", lamp(health.OK), t.Sentence.In(lang))
	}
	for _, n := range t.Shouting() {
		printNode(out, t, n, lang, 0)
	}
	var fine []string
	for _, n := range t.Nodes {
		switch {
		case n.State == health.OK && n.Waits:
			fmt.Fprintf(out, "[ .. ] %s\n", n.Sentence.In(lang))
		case n.State == health.OK:
			fine = append(fine, n.ID)
		}
	}
	if len(fine) > 0 {
		fmt.Fprintf(out, "%s %s: %s\n", lamp(health.OK), well, strings.Join(fine, ", "))
	}
}

func printNode(out io.Writer, t health.Tree, n health.Node, lang string, depth int) {
	fmt.Fprintf(out, "%s%s %s\n", strings.Repeat("    ", depth), lamp(n.State), n.Sentence.In(lang))
	if n.Detail != "" {
		fmt.Fprintf(out, "%s      (%s)\n", strings.Repeat("    ", depth), n.Detail)
	}
	for _, below := range t.Under(n.ID) {
		printNode(out, t, below, lang, depth+1)
	}
}

// lamp is a state that can be told apart without colours.
func lamp(s health.State) string {
	switch s {
	case health.OK:
		return "[ ok ]"
	case health.Look:
		return "[ ?  ]"
	}
	return "[ !! ]"
}

// printLine tells of a serial line or radio.
func printLine(out io.Writer, l admin.Line) {
	state := l.Stand().EN
	if !l.Open {
		state = "not open"
	}
	fmt.Fprintf(out, "  line %s (%s): %s\n      %d bit/s, sent %d B, received %d B, %d of %d frames repeated, %d not taken", strings.TrimPrefix(l.Name, "serial:"), l.Modem, state, l.BitsPerSecond, l.SentBytes, l.ReceivedBytes, l.Repeated, l.Frames, l.Refused)
	if l.ModemRefused > 0 {
		fmt.Fprintf(out, ", %d refused by the modem", l.ModemRefused)
	}
	for _, more := range []string{l.Signal(), l.AirTime(), l.Note} {
		if more != "" {
			fmt.Fprintf(out, ", %s", more)
		}
	}
	fmt.Fprintln(out)
	if !l.Trouble.Empty() {
		fmt.Fprintf(out, "      %s\n", l.Trouble.EN)
	}
}

// printStatus is the rest, for whoever looks after the box.
func printStatus(out io.Writer, s admin.Status) {
	fmt.Fprintf(out, "%s  (box %s, version %s)\n", s.ServerName, s.BoxID, s.Version)
	fmt.Fprintf(out, "  since %s, at %s\n", s.Started.Local().Format("2006-01-02 15:04"), s.URL)
	fmt.Fprintf(out, "  %s, %s, log position %d, %d MB free\n", count(s.Accounts, "account", "accounts"), count(s.Rooms, "room", "rooms"), s.Position, s.FreeBytes>>20)
	fmt.Fprintf(out, "  signs with %s", s.SigningKey)
	if s.OldKeys > 0 {
		fmt.Fprintf(out, ", %s retired", count(s.OldKeys, "older key", "older keys"))
	}
	fmt.Fprintln(out)
	fmt.Fprintf(out, "  clock %s\n", clockLine(s.Clock))
	if c := s.Certificate; c != nil {
		source := "of the box's own authority"
		if c.Source == "outside" {
			source = "from " + c.Issuer
		}
		fmt.Fprintf(out, "  certificate %s, until %s (hallig cert tells more)\n", source, c.Expires.Local().Format(time.DateOnly))
	}
	if len(s.Peers) == 0 {
		fmt.Fprintln(out, "  no paired boxes; pair with: hallig pair")
	}
	if s.QuietUntil != nil {
		fmt.Fprintf(out, "  quiet after a flash: routine and bulk wait for narrow links until %s\n", s.QuietUntil.Local().Format("15:04:05"))
	}
	for _, p := range s.Peers {
		carrier := "out of reach"
		if p.Carrier != "" {
			carrier = "by " + p.Carrier
		}
		fmt.Fprintf(out, "  box %s (%s): %s, %d not yet kept there\n", p.ServerName, p.ID, carrier, p.Queued)
		for _, l := range p.Links {
			state := "down"
			if l.Up {
				state = "up"
			}
			fmt.Fprintf(out, "      %-16s %-4s", l.Transport, state)
			if l.BitsPerSecond > 0 {
				fmt.Fprintf(out, " %d bit/s, sent %d B, received %d B", l.BitsPerSecond, l.SentBytes, l.ReceivedBytes)
			}
			fmt.Fprintln(out)
		}
	}
	printCarried(out, s.Carried)
	for _, l := range s.Lines {
		printLine(out, l)
	}
	printHub(out, s.Hub)
	printPolicy(out, s.Policy)
	printFleet(out, s.Fleet)
	for _, srv := range s.Servers {
		last := "never reached"
		if !srv.LastOK.IsZero() {
			last = "last reached " + srv.LastOK.Local().Format("2006-01-02 15:04")
		}
		fmt.Fprintf(out, "  server %s: %s, %s to send", srv.Name, last, count(srv.Queued, "event", "events"))
		if srv.Left > 0 {
			fmt.Fprintf(out, " (%d left with the hub, which brings them; %d confirmed)", srv.Left, srv.Through)
		}
		if srv.Coming > 0 {
			fmt.Fprintf(out, ", about %d to come", srv.Coming)
		}
		if srv.Trouble != "" {
			fmt.Fprintf(out, "; %s", srv.Trouble)
		}
		fmt.Fprintln(out)
		for _, r := range srv.Rooms {
			fmt.Fprintf(out, "      %s: %d to send, about %d to come\n", r.Title(), r.Queued, r.Coming)
		}
	}
	for _, c := range admin.ConflictCounts(s.Conflicts) {
		fmt.Fprintf(out, "  after separations: %s: %d\n", strings.ToLower(c.En[:1])+c.En[1:], c.N)
	}
	for _, why := range slices.Sorted(maps.Keys(s.NotTaken)) {
		fmt.Fprintf(out, "  %s of other servers not taken in: %s\n", count(s.NotTaken[why], "event", "events"), strings.ReplaceAll(why, "_", " "))
	}
}

// printPolicy tells what the organisation says; nil: nothing.
func printPolicy(out io.Writer, p *admin.Policy) {
	if p == nil {
		return
	}
	if p.Serial > 0 {
		fmt.Fprintf(out, "  policy %d %s\n", p.Serial, p.Name)
	} else {
		fmt.Fprintln(out, "  policy: none has come yet")
	}
	for _, s := range p.Settings {
		fmt.Fprintf(out, "      %s: %s", s.Name, s.Value)
		if s.Own {
			fmt.Fprint(out, " (set otherwise here)")
		}
		fmt.Fprintln(out)
	}
	if p.Refused != "" {
		fmt.Fprintf(out, "      the last one was not taken: %s\n", p.Refused)
	}
}

// printFleet tells of the roster of the fleet; nil: the box belongs to none.
func printFleet(out io.Writer, f *admin.Fleet) {
	switch {
	case f == nil:
		return
	case f.Serial == 0:
		fmt.Fprint(out, "  fleet: no roster has come yet; bring one with: hallig fleet roster take FILE")
	default:
		fmt.Fprintf(out, "  fleet: roster %d of %s, %s, %d revoked", f.Serial, f.Issued.Local().Format("2006-01-02 15:04"), count(f.Boxes, "box", "boxes"), f.Revoked)
		if f.Lost != "" {
			fmt.Fprintf(out, "; THIS BOX WAS REVOKED: %s", f.Lost)
		} else if !f.Member {
			fmt.Fprint(out, "; this box is not listed: add its line (hallig fleet line) and sign again")
		}
	}
	if f.NotTaken > 0 {
		fmt.Fprintf(out, "; %s not taken: not signed by the root", count(int(f.NotTaken), "roster", "rosters"))
	}
	fmt.Fprintln(out)
}

// printHub tells of the hub; nil: the box has none.
func printHub(out io.Writer, h *admin.Hub) {
	if h == nil {
		return
	}
	switch {
	case !h.Paired:
		fmt.Fprintf(out, "  hub %s: not paired; call hallig-hub pair there, and here: hallig pair CODE --at ADDRESS\n", h.ServerName)
		if s := h.OtherName(); !s.Empty() {
			fmt.Fprintln(out, "      "+s.EN)
		}
		return
	case h.InReach:
		fmt.Fprintf(out, "  hub %s: in reach since %s", h.ServerName, h.Since.Local().Format("2006-01-02 15:04"))
	case h.Through != "":
		fmt.Fprintf(out, "  hub %s: out of reach itself; last heard through the box %s at %s", h.ServerName, h.Through, h.ThroughAt.Local().Format("2006-01-02 15:04"))
	case h.Since.IsZero():
		fmt.Fprintf(out, "  hub %s: not in reach since the box was started", h.ServerName)
	default:
		fmt.Fprintf(out, "  hub %s: out of reach since %s", h.ServerName, h.Since.Local().Format("2006-01-02 15:04"))
	}
	switch {
	case h.Mode == "sealed":
		fmt.Fprint(out, ", sealed (it has no key of this box)")
	case h.Key != "":
		fmt.Fprintf(out, ", %s (it can sign in the name of this box, with %s)", h.Mode, h.Key)
	default:
		fmt.Fprintf(out, ", %s (it holds no key yet)", h.Mode)
	}
	if !h.Heard.IsZero() {
		fmt.Fprintf(out, ", %d transactions waited there at %s", h.Waiting, h.Heard.Local().Format("15:04"))
	}
	fmt.Fprintln(out)
	for _, trouble := range []string{h.Trouble, h.ModeTrouble} {
		if trouble != "" {
			fmt.Fprintf(out, "      %s\n", trouble)
		}
	}
}
