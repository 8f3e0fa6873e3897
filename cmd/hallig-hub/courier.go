// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"hallig/sync/hub"
)

// courierVerb fills a stick for boxes, takes in what boxes have put on one, or says what lies there.
func courierVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("courier", errOut)
	asJSON := f.Bool("json", false, "for scripts: as JSON")
	var boxes []string
	f.Func("box", "export: for this box; may be said more than once. Without it: for all", func(s string) error { boxes = append(boxes, s); return nil })
	words, err := parse(f, args, 2)
	if err != nil {
		return err
	}
	if len(words) != 2 || len(boxes) > 0 && words[0] != "export" {
		return fmt.Errorf("%w: want hallig-hub courier export [--box BOX] | import | status, and where the stick is mounted: hallig-hub courier export /media/stick", errUsage)
	}
	place, err := filepath.Abs(words[1])
	if err != nil {
		return err
	}
	say := func(v any, text func()) error {
		if !*asJSON {
			text()
			return nil
		}
		return json.NewEncoder(out).Encode(v)
	}
	switch words[0] {
	case "export":
		return exportBags(ctx, *dir, place, boxes, say, out)
	case "import":
		return importBags(ctx, *dir, place, say, out)
	case "status":
		seen, err := hub.CourierStatus(ctx, *dir, place)
		if err != nil {
			return err
		}
		for _, b := range seen {
			if err := say(b, func() { printBag(out, b) }); err != nil {
				return err
			}
		}
		if len(seen) == 0 && !*asJSON {
			fmt.Fprintln(out, "nothing of or for a hub is on the stick")
		}
		return nil
	}
	return fmt.Errorf("%w: want export, import or status, not %q", errUsage, words[0])
}

func exportBags(ctx context.Context, dir, place string, boxes []string, say func(any, func()) error, out io.Writer) error {
	var said error
	total := int64(0)
	err := hub.CourierExport(ctx, dir, place, boxes, func(s hub.BagSent) {
		total++
		said = errors.Join(said, say(s, func() {
			count, left := s.Count()
			fmt.Fprintf(out, "%s: %d transactions, %d kB", s.Box, count, (s.Bytes+1023)>>10)
			if left > 0 {
				fmt.Fprintf(out, "; %d more had no room on the stick and go with the next one", left)
			}
			if s.Connected {
				fmt.Fprint(out, "; the box is connected now and gets them by itself")
			}
			fmt.Fprintln(out)
		}))
	})
	if err != nil || said != nil {
		return errors.Join(err, said)
	}
	return say(struct{ Boxes int64 }{total}, func() {
		fmt.Fprintln(out, "The stick can be pulled out (unmount it first). Plug it into the box, wait until the box says that it can be pulled out, and bring it back: hallig-hub courier import", place)
	})
}

func importBags(ctx context.Context, dir, place string, say func(any, func()) error, out io.Writer) error {
	var said error
	bad := 0
	err := hub.CourierImport(ctx, dir, place, func(name string, t hub.BagTaken, err error) {
		if err != nil {
			bad++
			said = errors.Join(said, say(struct{ File, Error string }{name, err.Error()}, func() { fmt.Fprintf(out, "%s: %v\n", name, err) }))
			return
		}
		said = errors.Join(said, say(t, func() { printTaken(out, t) }))
	})
	if err == nil && bad > 0 {
		err = fmt.Errorf("%d of what is on the stick was not taken", bad)
	}
	return errors.Join(err, said)
}

func printTaken(out io.Writer, t hub.BagTaken) {
	fmt.Fprintf(out, "%s, written %s: %d transactions have reached the box, %d letters of it taken", t.Box, t.Written.Local().Format("2006-01-02 15:04"), t.Dealt, t.Letters)
	if t.Users > 0 {
		fmt.Fprintf(out, ", keys of %d people", t.Users)
	}
	if t.Known {
		fmt.Fprint(out, "; this stick, or a newer one, was here before")
	}
	fmt.Fprintln(out)
	if t.Left > 0 {
		fmt.Fprintf(out, "    %d letters had no room on the stick and come with the next one\n", t.Left)
	}
	for _, text := range t.Troubles {
		fmt.Fprintf(out, "    %s\n", text)
	}
}

func printBag(out io.Writer, b hub.BagSeen) {
	who := func(name string) string {
		if name == "" {
			return "somebody whom this hub does not know"
		}
		return name
	}
	fmt.Fprintf(out, "from %s for %s, written %s, %d kB\n", who(b.From), who(b.For), b.Written.Local().Format("2006-01-02 15:04"), (b.Bytes+1023)>>10)
	for _, q := range b.Queues {
		fmt.Fprintf(out, "    from %s: %d transactions\n", q.From, q.Count)
	}
	if b.Letters > 0 {
		fmt.Fprintf(out, "    %d letters for other servers\n", b.Letters)
	}
	if b.Left > 0 {
		fmt.Fprintf(out, "    %d had no room on the stick\n", b.Left)
	}
	if b.Trouble != "" {
		fmt.Fprintf(out, "    %s\n", b.Trouble)
	}
}
