// SPDX-License-Identifier: EUPL-1.2

// Command mutate proves that the oracle can see: it puts one fault after the other into our law and wants each to be found. The product is
// not touched: the compiler lays a changed copy of one file over it (go build -overlay).
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// mutant is a fault: in a file of the product, this text becomes that text.
type mutant struct{ file, from, to string }

const (
	rulesDir = "../../appliance/rules/"
	eventDir = "../../appliance/event/"
)

var mutants = []mutant{
	// Authorisation.
	{rulesDir + "auth.go", `if len(e.Prev) > 0 {`, `if len(e.Prev) > 1 {`},
	{rulesDir + "auth.go", `if c.noCreator {`, `if false {`},
	{rulesDir + "auth.go", `!create.Create.Federate && e.Sender`, `false && e.Sender`},
	{rulesDir + "auth.go", `e.Type == typeAliases && e.Version.AliasesRule`, `e.Type == typeAliases`},
	{rulesDir + "auth.go", `if Membership(s, e.Sender) != "join" {`, `if Membership(s, e.Sender) == "ban" {`},
	{rulesDir + "auth.go", `need > power {`, `need >= power {`},
	{rulesDir + "auth.go", `if power < Levels(s).Invite {`, `if power < Levels(s).StateDefault {`},
	{rulesDir + "auth.go", `strings.HasPrefix(*e.StateKey, "@")`, `strings.HasPrefix(*e.StateKey, "?")`},
	{rulesDir + "auth.go", `if _, ok := now.Users[u]; ok {`, `if _, ok := now.Users[u]; ok && false {`},
	{rulesDir + "auth.go", `was > power || now.present&bit != 0 && is > power {`, `was > power {`},
	{rulesDir + "auth.go", `u != e.Sender && was >= power`, `u != e.Sender && was > power`},
	{rulesDir + "auth.go", `(!ok || is != was) && u != e.Sender && was >= power`, `(!ok || is != was) && was >= power`},
	{rulesDir + "auth.go", `if e.Version.NotifyLevels {`, `if false {`},
	{rulesDir + "thin.go", `if e.Version.NotifyLevels {`, `if true {`},
	{rulesDir + "auth.go", `case held[i] != nil:`, `case false:`},
	{rulesDir + "auth.go", `case a.Rejected:`, `case false:`},
	{rulesDir + "auth.go", `case a.Room != e.Room:`, `case false:`},
	{rulesDir + "auth.go", `case i < 0:`, `case i < 0 && a.Type == "x":`},
	{rulesDir + "member.go", `if now == "ban" {
		return deny(rule, "the user is banned")
	}
	v, joinRule`, `v, joinRule`},
	{rulesDir + "member.go", `joinRule == "restricted" && v.Restricted`, `joinRule == "restricted"`},
	{rulesDir + "member.go", `joinRule == "knock" && v.Knock`, `joinRule == "knock"`},
	{rulesDir + "member.go", `if UserLevel(s, by) < Levels(s).Invite {`, `if false {`},
	{rulesDir + "member.go", `if offer.Sender != e.Sender {`, `if false {`},
	{rulesDir + "member.go", `if !t.verify(offer.ThirdParty.Keys) {`, `if false {`},
	{rulesDir + "member.go", `Membership(s, target) == "ban" && power < levels.Ban`, `false`},
	{rulesDir + "member.go", `case UserLevel(s, target) >= power:
		return deny(rule, "the user has as much power as the sender")
	}
	return nil
}

func allowedKnock`, `case UserLevel(s, target) > power:
		return deny(rule, "the user has as much power as the sender")
	}
	return nil
}

func allowedKnock`},
	{rulesDir + "member.go", `case "ban", "invite", "join":`, `case "ban", "join":`},
	{rulesDir + "member.go", `e.Member.Authorised.Server() == ""`, `false`},
	{rulesDir + "levels.go", `create.Create.Creator == u {
		return 100`, `create.Create.Creator == u {
		return 50`},
	{rulesDir + "levels.go", `StateDefault: 50, Ban: 50, Redact: 50, Kick: 50}`, `StateDefault: 0, Ban: 50, Redact: 50, Kick: 50}`},
	{rulesDir + "thin.go", `!v.IntegerLevels`, `true`},
	{rulesDir + "thin.go", `strings.TrimSpace(s)`, `s`},
	{rulesDir + "thin.go", `if v.FloatLevels && `, `if false && `},
	// State resolution.
	{rulesDir + "conflict.go", `n.open && !n.common`, `n.open`},
	{rulesDir + "conflict.go", `!n.sub && in < len(apart)`, `!n.sub && in == 0`},
	{rulesDir + "conflict.go", `if from(id); left == 0 {
			return
		}`, `if from(id); true {
			return
		}`},
	{rulesDir + "conflict.go", `met[i] == len(s)`, `met[i] > 0`},
	{rulesDir + "conflict.go", `if r.v.StateRes == 21 {`, `if false {`},
	{rulesDir + "resolve.go", `ok && r.v.StateRes == 2 {`, `ok {`},
	{rulesDir + "resolve.go", `cmp.Or(cmp.Compare(b.power, a.power), byTime(a.e, b.e)) < 0`, `byTime(a.e, b.e) < 0`},
	{rulesDir + "resolve.go", `cmp.Or(cmp.Compare(a.TS, b.TS), cmp.Compare(a.ID, b.ID))`, `cmp.Compare(a.ID, b.ID)`},
	{rulesDir + "resolve.go", `cmp.Or(cmp.Compare(a.TS, b.TS), cmp.Compare(a.ID, b.ID))`, `cmp.Or(cmp.Compare(a.TS, b.TS), cmp.Compare(b.ID, a.ID))`},
	{rulesDir + "resolve.go", `place := math.MaxInt`, `place := 0 * math.MaxInt`},
	{rulesDir + "resolve.go", `&& string(e.Sender) != *e.StateKey
`, `
`},
	{rulesDir + "resolve.go", `case typePower, typeJoinRules:`, `case typePower:`},
	{rulesDir + "resolve.go", `!a.e.Rejected {`, `true {`},
	{rulesDir + "resolve.go", `; !ok { // what is agreed`, `; true || ok { // what is agreed`},
	{rulesDir + "resolve.go", `if a.full {
				add(a)`, `if a.conflict {
				add(a)`},
	// Events.
	{eventDir + "version.go", `v.Restricted, v.keepAllow = true, true`, `v.Restricted, v.keepAllow, v.keepAuthorised = true, true, true`},
	{eventDir + "version.go", `v.keepAuthorised = true`, ``},
	{eventDir + "version.go", `v.eventIDs = idURLSafe`, ``},
	{eventDir + "version.go", `v.keepCreate, v.keepInviteLevel, v.keepInviteSigned, v.keepRedactsTarget = true, true, true, true`, `v.keepCreate, v.keepInviteLevel, v.keepRedactsTarget = true, true, true`},
	{eventDir + "version.go", `v.ByteLimits, v.keepOrigin = false, true, true, false`, `v.ByteLimits, v.keepOrigin = false, true, true, true`},
	{eventDir + "redact.go", `case "origin", "membership", "prev_state":`, `case "origin", "membership":`},
	{eventDir + "redact.go", `case "ban", "events", "events_default", "kick"`, `case "ban", "events", "kick"`},
	{eventDir + "sign.go", `without(m, "hashes", "signatures", "unsigned")`, `without(m, "signatures", "unsigned")`},
	{eventDir + "sign.go", `if p.Version.Restricted && authorised != "" &&`, `if p.Version.Restricted && authorised == "?" &&`},
	{eventDir + "sign.go", `!ed25519.Verify(pub, msg, sig)`, `len(sig)+len(msg) == 0`},
	{eventDir + "canonical.go", `const hex = "0123456789abcdef"`, `const hex = "0123456789ABCDEF"`},
	{eventDir + "scan.go", `return bytes.Compare(unescape(a), unescape(b))`, `return bytes.Compare(a, b)`},
}

func main() {
	n := flag.Int("n", 20000, "rooms at most for each mutant: as many as make oracle plays")
	build := flag.Bool("build", false, "only compile the mutants")
	only := flag.String("only", "", "only mutants whose text matches this expression")
	flag.Parse()
	match := regexp.MustCompile(*only)
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		fail(err)
	}
	defer os.RemoveAll(dir)
	found, tried := 0, 0
	for i, m := range mutants {
		if !match.MatchString(m.file + " " + m.from) {
			continue
		}
		tried++
		what, err := try(dir, i, m, *n, *build)
		if err != nil {
			fail(fmt.Errorf("mutant %d, %s: %w", i, m.file, err))
		}
		name := strings.Join(strings.Fields(m.from), " ")
		if what == "" {
			fmt.Printf("NOT FOUND %s: %s\n", filepath.Base(m.file), name)
			continue
		}
		found++
		fmt.Printf("found %s: %.70s -> %s\n", filepath.Base(m.file), name, what)
	}
	fmt.Printf("mutate: %d mutants, %d found\n", tried, found)
	if found < tried {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "mutate:", err)
	os.Exit(2)
}

// try builds the oracle over a mutant and tells what it found first, "" if nothing.
func try(dir string, i int, m mutant, n int, build bool) (string, error) {
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if strings.Count(string(text), m.from) < 1 {
		return "", errors.New("its text is not in the file: change the table")
	}
	changed := filepath.Join(dir, fmt.Sprintf("%d.go", i))
	if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.from, m.to, 1)), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	if build {
		out, err := exec.Command("go", "build", "-overlay", list, "hallig/appliance/event", "hallig/appliance/rules").CombinedOutput()
		if err != nil {
			fmt.Printf("%s", out)
		}
		return "it compiles", nil
	}
	bin := filepath.Join(dir, "oracle")
	if out, err := exec.Command("go", "build", "-overlay", list, "-o", bin, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	cmd := exec.Command(bin, "-n", fmt.Sprint(n), "-show", "1", "-first")
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", runtime.NumCPU()))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case !errors.As(err, &exit):
		return "", err
	}
	line, _, _ := strings.Cut(string(out), ":  ")
	what := regexp.MustCompile(`version \d+, [a-z ]+ against [a-z]+`).FindString(line)
	if what == "" {
		what = "it crashes"
	}
	return what, nil
}
