// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"hallig/appliance/cert"
	"hallig/sync/hub"
)

func serve(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("serve", errOut)
	name := f.String("name", "", "the hub's own server name, such as hub.example.org; fixed at the first start")
	listen := f.String("listen", "", "ADDR:PORT of the Server-Server API, TLS (default :8448)")
	host := f.String("federation-host", "", "HOST[:PORT] to publish under the boxes' names in .well-known, when these do not lead to the hub by themselves")
	certFile := f.String("cert", "", "certificate with its chain, PEM; it must hold the names of the boxes")
	keyFile := f.String("key", "", "its key")
	ca := f.String("ca", "", "certificate of a CA of your own, to mint certificates from")
	caKey := f.String("ca-key", "", "its key")
	quiet := f.Bool("quiet", false, "log warnings and errors only")
	verbose := f.Bool("verbose", false, "log everything")
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	level := slog.LevelInfo
	if *quiet {
		level = slog.LevelWarn
	}
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}))
	slog.SetLogLoggerLevel(slog.LevelDebug) // what libraries print is for those who ask for everything
	slog.SetDefault(log)
	cfg, err := hub.LoadConfig(*dir)
	if err != nil {
		return err
	}
	cfg.Version = version
	for flag, field := range map[*string]*string{name: &cfg.Server, listen: &cfg.Listen, host: &cfg.Host} {
		if *flag != "" {
			*field = *flag
		}
	}
	if given := (cert.Files{Certificate: *certFile, Key: *keyFile, CACertificate: *ca, CAKey: *caKey}); given != (cert.Files{}) {
		cfg.TLS = []cert.Files{given}
	}
	if cfg.Spool, err = openSpool(ctx, cfg, log); err != nil {
		return err
	}
	h, err := hub.Open(ctx, cfg, log)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n  other servers reach it at %s\n", h.Name(), h.World())
	for _, a := range h.Addrs() {
		fmt.Fprintf(out, "  boxes reach it at %s\n", a)
	}
	if page := h.Page(); page != "" {
		fmt.Fprintf(out, "  its pages are at %s; hallig-hub token makes the token that opens them\n", page)
	}
	runErr := h.Run(ctx)
	if err := h.Close(); err != nil && runErr == nil {
		return err
	}
	return runErr
}

// asked gives the hub's status, or prints it as JSON.
func asked(ctx context.Context, verb string, args []string, out, errOut io.Writer) (*hub.Status, error) {
	f, dir := flags(verb, errOut)
	asJSON := f.Bool("json", false, "for scripts")
	if _, err := parse(f, args, 0); err != nil {
		return nil, err
	}
	var s hub.Status
	if err := hub.Ask(ctx, *dir, "GET", "/status", nil, &s); err != nil {
		return nil, err
	}
	if !*asJSON {
		return &s, nil
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if verb == "boxes" {
		return nil, enc.Encode(s.Boxes)
	}
	return nil, enc.Encode(s)
}

func status(ctx context.Context, args []string, out, errOut io.Writer) error {
	s, err := asked(ctx, "status", args, out, errOut)
	if s == nil {
		return err
	}
	connected, signs, waiting := 0, 0, int64(0)
	var oldest time.Time
	for _, b := range s.Boxes {
		if b.Connected {
			connected++
		}
		if b.Key != "" {
			signs++
		}
		for _, q := range b.Waiting {
			waiting += q.Count
			if oldest.IsZero() || q.Oldest.Before(oldest) {
				oldest = q.Oldest
			}
		}
	}
	fmt.Fprintf(out, "%s  (hub %s, version %s)\n  since %s; other servers reach it at %s\n", s.Hub.Server, s.Hub.ID, s.Hub.Version, s.Hub.Started.Local().Format("2006-01-02 15:04"), s.Hub.World)
	for _, a := range s.Hub.Addresses {
		fmt.Fprintf(out, "  boxes reach it at %s\n", a)
	}
	for _, t := range s.Hub.Troubles {
		fmt.Fprintf(out, "  %s %s\n", t.What.EN, t.Next.EN)
	}
	fmt.Fprintf(out, "  %d boxes, %d connected, %d in the mode delegate with a key here, %d transactions wait", len(s.Boxes), connected, signs, waiting)
	if waiting > 0 {
		fmt.Fprintf(out, ", the oldest since %s", oldest.Local().Format("2006-01-02 15:04"))
	}
	fmt.Fprintf(out, "\n  since the start: %d transactions taken, %d handed on, %d requests of boxes sent out, %d refused, %d could not be kept\n",
		s.Hub.Counts.Taken, s.Hub.Counts.Delivered, s.Hub.Counts.SentOut, s.Hub.Counts.Refused, s.Hub.Counts.Full)
	c := s.Hub.Copies
	fmt.Fprintf(out, "  copies of %d rooms of boxes, %d of them behind: %d events, %d MB; since the start %d questions about them answered, %d not\n", c.Rooms, c.Behind, c.Events, c.Bytes>>20, c.Answered, c.Unknown)
	if c.Full {
		fmt.Fprintln(out, "  no more is copied of the boxes' rooms, to leave the disk to what waits for boxes; give the hub more disk")
	}
	fmt.Fprintf(out, "  %d files of boxes are kept, %d MB\n", s.Hub.Files.Count, s.Hub.Files.Bytes>>20)
	if s.Hub.Files.Full {
		fmt.Fprintln(out, "  files of boxes are kept no more, to leave the disk to what waits for boxes; give the hub more disk")
	}
	printRoster(out, s.Hub.Roster)
	if s.Hub.Counts.Carried > 0 {
		fmt.Fprintf(out, "  %d MB carried between boxes that do not reach each other, %d connections now\n", (s.Hub.Counts.Carried+(1<<20)-1)>>20, s.Hub.Counts.Circuits)
	}
	if len(s.Boxes) == 0 {
		fmt.Fprintln(out, "  no box is paired; pair one with: hallig-hub pair")
	}
	return nil
}

func boxes(ctx context.Context, args []string, out, errOut io.Writer) error {
	s, err := asked(ctx, "boxes", args, out, errOut)
	if s == nil {
		return err
	}
	for _, b := range s.Boxes {
		printBox(out, b)
	}
	if len(s.Boxes) == 0 {
		fmt.Fprintln(out, "no box is paired; pair one with: hallig-hub pair")
	}
	return nil
}

// mode says what the hub may do in the name of a box.
func mode(b hub.BoxStatus) string {
	switch {
	case b.Key != "":
		return "delegate (this hub can sign in its name, with " + b.Key + ")"
	case b.Mode == "delegate":
		return "delegate (this hub holds no key that the box has listed)"
	}
	return b.Mode
}

// way says by which way a box is reached.
func way(name string) string {
	by, box, through := strings.Cut(name, ":")
	if !through {
		return name
	}
	if words, ok := map[string]string{"relay": "boxes in between, the last of them", "net": "a local network through"}[by]; ok {
		return words + " " + box
	}
	return by + " through " + box
}

func printBox(out io.Writer, b hub.BoxStatus) {
	state := "away"
	switch {
	case b.Revoked != "":
		state = "turned away: " + b.Revoked
	case b.Connected:
		state = "connected"
	case b.Through != "":
		state = "reached by " + way(b.Through)
	}
	fmt.Fprintf(out, "%s  %s, %s\n", b.Server, state, mode(b))
	if b.Seen.IsZero() {
		fmt.Fprintln(out, "    never in contact")
	} else {
		fmt.Fprintf(out, "    last contact %s by %s, version %s\n", b.Seen.Local().Format("2006-01-02 15:04"), way(b.Way), b.Version)
	}
	for _, t := range b.Troubles {
		fmt.Fprintf(out, "    %s: %s %s\n", t.State, t.What.EN, t.Next.EN)
	}
	for _, q := range b.Waiting {
		fmt.Fprintf(out, "    waits from %s: %s\n", q.Server, queued(q.Count, q.Bytes, q.Oldest))
	}
	for _, q := range b.Letters {
		fmt.Fprintf(out, "    waits for %s: %s\n", q.Server, queued(q.Count, q.Bytes, q.Oldest))
		if q.Why != "" {
			fmt.Fprintf(out, "        %s\n", q.Why)
		}
	}
}

func queued(count, bytes int64, oldest time.Time) string {
	return fmt.Sprintf("%d transactions, %d kB, since %s", count, (bytes+1023)>>10, oldest.Local().Format("2006-01-02 15:04"))
}

func token(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("token", errOut)
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	var t hub.Token
	if err := hub.Ask(ctx, *dir, "POST", "/token", struct{}{}, &t); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n", t.Token)
	if t.Page == "" {
		fmt.Fprintln(errOut, "The hub has no pages: \"page\" in hub.json gives them an address.")
		return nil
	}
	fmt.Fprintf(errOut, "It opens %s and the API there. It is shown this once; a token from before is void.\n", t.Page)
	if at, local := strings.CutPrefix(strings.TrimSuffix(t.Page, "/"), "http://"); local {
		fmt.Fprintf(errOut, "From another machine: ssh -L %s:%s THIS-MACHINE, then open the same address there.\n", at[strings.LastIndex(at, ":")+1:], at)
	}
	return nil
}

func pair(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("pair", errOut)
	at := f.String("at", "", "address of the box (multiaddress, or HOST:PORT)")
	words, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		var c hub.Code
		if err := hub.Ask(ctx, *dir, "POST", "/pair/show", struct{}{}, &c); err != nil {
			return err
		}
		var s hub.Status
		if err := hub.Ask(ctx, *dir, "GET", "/status", nil, &s); err != nil {
			return err
		}
		at := "ADDRESS-OF-THIS-HUB"
		if len(s.Hub.Addresses) > 0 {
			at = s.Hub.Addresses[0]
		}
		fmt.Fprintf(out, "On the box:\n\n    hallig pair %s --at %s\n\nor on its page \"Boxes\" with the code and, as address, what stands behind --at. The code works once, until %s.\n", c.Code, at, c.Expires.Local().Format(time.TimeOnly))
		return nil
	}
	var b hub.BoxStatus
	if err := hub.Ask(ctx, *dir, "POST", "/pair/take", hub.Order{Code: words[0], Address: *at}, &b); err != nil {
		return err
	}
	fmt.Fprintf(out, "Paired with %s (box %s).\n", b.Server, b.ID)
	return nil
}

func revoke(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("revoke", errOut)
	reason := f.String("reason", "", "why: stolen, broken, replaced")
	forget := f.Bool("forget", false, "delete the box with all that waits for it; its name is free again")
	words, err := parse(f, args, 1)
	if err != nil {
		return err
	}
	if len(words) != 1 || (*reason == "") != *forget {
		return fmt.Errorf("%w: name the box, and either --reason TEXT or --forget: hallig-hub revoke BOX --reason stolen", errUsage)
	}
	if err := hub.Ask(ctx, *dir, "POST", "/revoke", hub.Order{Box: words[0], Reason: *reason, Forget: *forget}, nil); err != nil {
		return err
	}
	if *forget {
		fmt.Fprintf(out, "%s is forgotten. Pair again with: hallig-hub pair\n", words[0])
	} else {
		fmt.Fprintf(out, "%s is turned away for good. What waits for it stays until: hallig-hub revoke %s --forget\n", words[0], words[0])
	}
	return nil
}
