// SPDX-License-Identifier: EUPL-1.2

// Command hallig runs a box and speaks with the running one: `hallig serve` is the homeserver, every other verb asks
// it through the socket in its data directory. Flags, signals and words for people live here; decisions do not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// version is set by the build, releasedAt by that of the image: the commit's time, RFC 3339.
var (
	version    = "unknown"
	releasedAt = ""
)

const help = `hallig: a Matrix homeserver that works with no Internet at all

  hallig serve  --data DIR            run the box; all its state is in DIR
  hallig status --data DIR [--json] [--check]   how the box does and what to do, its links and peers (German with LANG=de)
  hallig pair   --data DIR            show a pairing code for another box
  hallig pair   --data DIR CODE [--at ADDRESS]   take the code that another box shows
  hallig forget --data DIR BOX        end a pairing; BOX is its server name or id
  hallig token  --data DIR [--uses N] [--admin]   a registration token for new users
  hallig clock  --data DIR [--yes] [now|TIME]  how the box knows the time; now: the system's clock is right; TIME: 2026-11-26T14:05+01:00
  hallig key rotate --data DIR         a new signing key; what the old one signed stays valid; one that a hub holds is taken back
  hallig cert   --data DIR [--json]   the certificate that phones see; hallig cert csr: a request for an authority to sign;
                                      hallig cert install FILE: what it has signed (PEM, with the chain)
  hallig backup --data DIR --to FOLDER   an encrypted backup now; hallig backup key --out FILE: the key for it; hallig backup list FOLDER
  hallig backup export SERVER --data DIR --to FOLDER   the backup that this box keeps for another one, onto a stick
  hallig restore FOLDER --data DIR --identity KEYFILE   a spare box takes over from a backup
  hallig courier export FOLDER [--media MB] | import FOLDER | status FOLDER  --data DIR [--json]   carry messages to and from other boxes on a stick
  hallig courier qr --room ROOM --to BOX [--codes N] [--out FILE.html|FILE.png] --data DIR   the same on paper; hallig courier import-qr FILE|- reads it in
  hallig update FILE | start | status | from [BOX] | back   a new system for a box of the image; hallig update: all of it
  hallig fleet prepare --csv boxes.csv --out DIR [--lang de|en] [--lock]   files and sheets for many boxes; hallig fleet: columns, options
  hallig policy key --out FILE | sign --key FILE POLICY | check POLICY   settings for all boxes of an organisation, signed; hub.md
  hallig fleet stick DIR BOX STICK     put one prepared box's file on a mounted stick
  hallig fleet line --data DIR | roster sign|show|take FILE   which boxes belong together, signed by the organisation, and which were lost
  hallig watch  --data DIR [--json]   what travels to other boxes and servers, as it happens
  hallig version

Example, a box that phones on the same network can reach:

  hallig serve --data /var/lib/hallig --listen 0.0.0.0:8008 --name box1.feuerwehr.example

--data is ./data, or $HALLIG_DATA, when it is left out.

Exit status: 0 done, 1 failed (the text says the next step), 2 wrong usage. hallig status --check: 0 all is well, 3 somebody should look,
4 something does not work. hallig courier: 3 done, but the stick was full, write-protected or partly damaged.
`

// errUsage is answered with exit status 2.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	verbs := map[string]func(context.Context, []string, io.Writer, io.Writer) error{
		"serve": serve, "status": status, "pair": pair, "forget": forget, "token": token, "clock": clock, "key": key, "cert": certVerb, "watch": watch, "fleet": fleetVerb, "backup": backupVerb, "restore": restore, "courier": courierVerb, "update": updateVerb, "policy": policyVerb,
		"version": func(_ context.Context, _ []string, out, _ io.Writer) error {
			_, err := fmt.Fprintln(out, "hallig", version)
			return err
		},
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Fprint(out, help)
		return 0
	}
	verb, ok := verbs[args[0]]
	if !ok {
		fmt.Fprintf(errOut, "hallig: %q is no verb; hallig help lists them\n", args[0])
		return 2
	}
	var exit exitError
	switch err := verb(ctx, args[1:], out, errOut); {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(errOut, "hallig %s: %s\n", args[0], strings.TrimPrefix(err.Error(), errUsage.Error()+": "))
		return 2
	default:
		fmt.Fprintf(errOut, "hallig %s: %v\n", args[0], err)
		return 1
	}
}

// flags makes the flag set of a verb, with the --data that all have.
func flags(verb string, errOut io.Writer) (*flag.FlagSet, *string) {
	f := flag.NewFlagSet("hallig "+verb, flag.ContinueOnError)
	f.SetOutput(errOut)
	dir := os.Getenv("HALLIG_DATA")
	if dir == "" {
		dir = "data"
	}
	return f, f.String("data", dir, "directory that holds all state of the box")
}

func parse(f *flag.FlagSet, args []string) ([]string, error) {
	// Flags may stand after words as well: hallig pair CODE --data DIR.
	var words []string
	for {
		out := f.Output()
		f.SetOutput(io.Discard) // the list of flags is for who asks for it
		err := f.Parse(args)
		f.SetOutput(out)
		if errors.Is(err, flag.ErrHelp) {
			f.Usage()
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %v; %s --help lists the flags", errUsage, err, f.Name())
		}
		if f.NArg() == 0 {
			return words, nil
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
}

// noWords parses the flags of a verb that takes no words.
func noWords(f *flag.FlagSet, args []string) error {
	words, err := parse(f, args)
	if err == nil && len(words) > 0 {
		return fmt.Errorf("%w: %q is not expected; hallig help shows examples", errUsage, words[0])
	}
	return err
}
