// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	room := f.String("room", "", "with qr: id of the room")
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
		return fmt.Sprintf("%s %s, %d messages, %s,", s.Step, s.Box, s.Events, size(s.Bytes))
	})
	defer stop()
	return appliance.Courier(ctx, dir, order, func(s admin.CourierStep) { far.Store(&s) })
}

// printCourier says what was done, box by box, and then the rest.
func printCourier(out io.Writer, do string, r admin.CourierReport, lang string) {
	t := func(de, en string) string {
		if lang == "de" {
			return de
		}
		return en
	}
	fmt.Fprintln(out, r.Sentence.In(lang))
	for _, b := range r.Boxes {
		switch do {
		case "import":
			fmt.Fprintf(out, t("  von %s: %d neu, %d schon da, %d abgelehnt, %d Gerätenachrichten und Quittungen", "  from %s: %d new, %d here already, %d refused, %d device messages and receipts"),
				b.Server, b.Events, b.Again, b.Refused, b.EDUs)
			if b.Receipt {
				fmt.Fprint(out, t("; sagt, was angekommen ist", "; tells what it has"))
			}
		case "export":
			fmt.Fprintf(out, t("  für %s: %d neu, %d Gerätenachrichten und Quittungen", "  for %s: %d new, %d device messages and receipts"), b.Server, b.Events, b.EDUs)
			if b.Known > 0 {
				fmt.Fprintf(out, t("; %d Pakete liegen schon dort", "; %d packets lie there already"), b.Known)
			}
		default:
			fmt.Fprintf(out, t("  %s: %d Nachrichten in %d Paketen, %d davon schon übernommen", "  %s: %d messages in %d packets, %d of those taken in already"), b.Server, b.Events, b.Segments, b.Known)
		}
		fmt.Fprintln(out)
	}
	if r.Foreign > 0 {
		fmt.Fprintf(out, t("  %d weitere Boxen haben dort etwas; mit dieser sind sie nicht gekoppelt\n", "  %d further boxes have left something there; they are not paired with this one\n"), r.Foreign)
	}
	for why, n := range r.Bad {
		fmt.Fprintf(out, t("  %d Dateien zählen nicht: %s\n", "  %d files do not count: %s\n"), n, why)
	}
	fmt.Fprintf(out, "  %s, %s\n", size(r.Bytes), time.Now().Local().Format(time.TimeOnly))
}
