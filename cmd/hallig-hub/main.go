// SPDX-License-Identifier: EUPL-1.2

// Command hallig-hub runs the post office beside the central server and speaks with the running one: `hallig-hub serve` answers under its boxes' names, every other verb
// asks it through the socket in its data directory. Flags, signals and words for people live here; decisions do not.
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

// version is set by the build.
var version = "unknown"

const help = `hallig-hub: the post office of Hallig boxes beside a central Matrix server

  hallig-hub serve  --data DIR          run the hub; all its state is in DIR
  hallig-hub status --data DIR [--json] how the hub does, and what waits for whom
  hallig-hub boxes  --data DIR [--json] its boxes: last contact, version, health, what waits
  hallig-hub pair   --data DIR          show a pairing code for a box: there, hallig pair CODE --at ADDRESS
  hallig-hub pair   --data DIR CODE [--at ADDRESS]   take the code that a box shows
  hallig-hub revoke BOX --data DIR --reason TEXT     turn a lost box away; what waits for it stays
  hallig-hub revoke BOX --data DIR --forget          delete a box with all that waits for it
  hallig-hub roster --data DIR          the roster of the fleet that the organisation has signed
  hallig-hub roster draft --data DIR    the boxes of this hub, to be signed: hallig fleet roster sign ROSTER --key FILE --boxes LINES
  hallig-hub roster import ROSTER --data DIR         take the signed one, hand it out, turn away whom it revokes
  hallig-hub update --data DIR [--json] the update files for boxes, and how far they are rolled out
  hallig-hub update add FILE --data DIR              lay one down; nobody is told of it yet
  hallig-hub update roll VERSION --data DIR --share PERCENT [--box BOX]   tell a share of the boxes, and these, of it
  hallig-hub update stop VERSION --data DIR --reason TEXT                 tell nobody any more
  hallig-hub update remove VERSION --data DIR
  hallig-hub policy [set FILE] --data DIR [--json]  the organisation's policy that boxes are told of, or another one
  hallig-hub courier export [--box BOX] PATH --data DIR   put what waits for boxes onto the stick that is mounted at PATH
  hallig-hub courier import PATH --data DIR          take in what boxes have put on it
  hallig-hub courier status PATH --data DIR          what lies on it, for whom
  hallig-hub token  --data DIR          make the token that opens the hub's pages; the one before is void
  hallig-hub restored --data DIR        say, before the hub starts, that its spool is an older copy which was put back
  hallig-hub version

Example, with the certificate of *.boxes.example.org:

  hallig-hub serve --data /var/lib/hallig-hub --name hub.example.org --cert /etc/hub/chain.pem --key /etc/hub/key.pem

--data is ./data, or $HALLIG_HUB_DATA, when it is left out. DIR/hub.json holds what has no flag; doc/hub.md explains it.

Exit status: 0 done, 1 failed (the text says the next step), 2 wrong usage.
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
		"serve": serve, "status": status, "boxes": boxes, "pair": pair, "revoke": revoke, "roster": rosterVerb, "token": token, "update": update, "policy": policyVerb, "courier": courierVerb, "restored": restored,
		"version": func(_ context.Context, _ []string, out, _ io.Writer) error {
			_, err := fmt.Fprintln(out, "hallig-hub", version)
			return err
		},
	}
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Fprint(out, help)
		return 0
	}
	verb, ok := verbs[args[0]]
	if !ok {
		fmt.Fprintf(errOut, "hallig-hub: %q is no verb; hallig-hub help lists them\n", args[0])
		return 2
	}
	switch err := verb(ctx, args[1:], out, errOut); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(errOut, "hallig-hub %s: %s\n", args[0], strings.TrimPrefix(err.Error(), errUsage.Error()+": "))
		return 2
	default:
		fmt.Fprintf(errOut, "hallig-hub %s: %v\n", args[0], err)
		return 1
	}
}

// flags makes the flag set of a verb, with the --data that all have.
func flags(verb string, errOut io.Writer) (*flag.FlagSet, *string) {
	f := flag.NewFlagSet("hallig-hub "+verb, flag.ContinueOnError)
	f.SetOutput(errOut)
	dir := os.Getenv("HALLIG_HUB_DATA")
	if dir == "" {
		dir = "data"
	}
	return f, f.String("data", dir, "directory that holds all state of the hub")
}

// parse gives the words between the flags, which may stand after them as well; at most so many.
func parse(f *flag.FlagSet, args []string, most int) ([]string, error) {
	var words []string
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %v", errUsage, err)
		}
		if f.NArg() == 0 {
			break
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
	if len(words) > most {
		return nil, fmt.Errorf("%w: %q is not expected; hallig-hub help shows examples", errUsage, words[most])
	}
	return words, nil
}
