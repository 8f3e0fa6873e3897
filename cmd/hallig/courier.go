// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
)

const courierUse = "hallig courier export FOLDER, import FOLDER or status FOLDER; hallig courier qr --room ROOM --to BOX; hallig courier import-qr FILE|-"

// courierVerb has the box put messages for other boxes on a stick, or take them from one.
func courierVerb(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("courier", errOut)
	asJSON := f.Bool("json", false, "for scripts: the whole report")
	media := f.Int64("media", 8, "with export: pictures and files up to so many MB go along; 0: none")
	room := f.String("room", "", "with qr: id of the room, or its name")
	to := f.String("to", "", "with qr: server name or id of the box")
	codes := f.Int("codes", 2, "with qr: at most so many codes, up to 16")
	plain := f.Bool("plain", false, "with qr: for a box with another version of the program; fewer messages fit")
	file := f.String("out", "", "with qr: file, .html (a page to print) or .png; otherwise to the terminal")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) == 1 && words[0] == "qr" && *room != "" && *to != "" {
		order := admin.CourierOrder{Do: "sheet", Box: *to, Room: *room, Codes: *codes, Plain: *plain}
		return makeSheet(ctx, *dir, order, *file, *asJSON, out, errOut)
	}
	if len(words) == 1 && words[0] == "qr" {
		return fmt.Errorf("%w: qr needs a room and a box: hallig courier qr --room ROOM --to BOX; hallig status lists the boxes", errUsage)
	}
	if len(words) > 1 && words[0] == "import-qr" {
		return readSheet(ctx, *dir, words[1:], *asJSON, out, errOut)
	}
	if len(words) != 2 || words[0] != "export" && words[0] != "import" && words[0] != "status" {
		return fmt.Errorf("%w: %s", errUsage, courierUse)
	}
	place, err := filepath.Abs(words[1])
	if err != nil {
		return fmt.Errorf("find the folder: %w", err)
	}
	r, err := askCourier(ctx, *dir, admin.CourierOrder{Do: words[0], Place: place, Media: *media << 20}, errOut)
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(out, r)
	} else {
		printCourier(out, words[0], r, language(os.Getenv))
	}
	if err == nil && (r.Full || r.ReadOnly || len(r.Bad) > 0) {
		err = exitError(exitLook) // done, but somebody should look
	}
	return err
}

// askCourier sends an order and shows how far it is when it takes longer than two seconds.
func askCourier(ctx context.Context, dir string, order admin.CourierOrder, errOut io.Writer) (admin.CourierReport, error) {
	var far atomic.Pointer[admin.CourierStep]
	far.Store(&admin.CourierStep{Step: order.Do})
	stop := working(errOut, "at work ...", func() string {
		s := far.Load()
		return fmt.Sprintf("%s %s, %s, %s,", s.Step, s.Box, count(s.Events, "message", "messages"), size(s.Bytes))
	})
	defer stop()
	return appliance.Courier(ctx, dir, order, func(s admin.CourierStep) { far.Store(&s) })
}

// count is a number with its word: "1 packet", "2 packets".
func count[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// printCourier says what was done, box by box, and then the rest.
func printCourier(out io.Writer, do string, r admin.CourierReport, lang string) {
	t := func(de, en string) string {
		if lang == "de" {
			return de
		}
		return en
	}
	n := func(n int, de, manyDE, en, manyEN string) string { return count(n, t(de, en), t(manyDE, manyEN)) }
	fmt.Fprintln(out, r.Sentence.In(lang))
	for _, b := range r.Boxes {
		small := n(b.EDUs, "Gerätenachricht oder Quittung", "Gerätenachrichten und Quittungen", "device message or receipt", "device messages and receipts")
		switch do {
		case "import":
			fmt.Fprintf(out, t("  von %s: %d neu, %d schon da, %d abgelehnt, %s", "  from %s: %d new, %d here already, %d refused, %s"), b.Server, b.Events, b.Again, b.Refused, small)
			if b.Receipt {
				fmt.Fprint(out, t("; sagt, was angekommen ist", "; tells what it has"))
			}
		case "export":
			fmt.Fprintf(out, t("  für %s: %d neu, %s", "  for %s: %d new, %s"), b.Server, b.Events, small)
			if b.Known > 0 {
				fmt.Fprintf(out, "; %s", n(b.Known, "Paket liegt schon dort", "Pakete liegen schon dort", "packet lies there already", "packets lie there already"))
			}
		default:
			fmt.Fprintf(out, t("  %s: %s in %s, davon schon übernommen: %d", "  %s: %s in %s, of those taken in already: %d"), b.Server,
				n(b.Events, "Nachricht", "Nachrichten", "message", "messages"), n(b.Segments, "Paket", "Paketen", "packet", "packets"), b.Known)
		}
		fmt.Fprintln(out)
	}
	if r.Foreign > 0 {
		fmt.Fprintf(out, "  %s\n", n(r.Foreign, "weitere Box hat dort etwas; mit dieser ist sie nicht gekoppelt", "weitere Boxen haben dort etwas; mit dieser sind sie nicht gekoppelt",
			"further box has left something there; it is not paired with this one", "further boxes have left something there; they are not paired with this one"))
	}
	for _, why := range slices.Sorted(maps.Keys(r.Bad)) {
		fmt.Fprintf(out, "  %s: %s\n", n(r.Bad[why], "Datei zählt nicht", "Dateien zählen nicht", "file does not count", "files do not count"), why)
	}
	fmt.Fprintf(out, "  %s, %s\n", size(r.Bytes), time.Now().Local().Format(time.TimeOnly))
}
