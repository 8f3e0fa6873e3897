// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// licenceFile is the names under which modules keep the texts of their licences.
var licenceFile = regexp.MustCompile(`(?i)^(li[cs]en[cs]e|copying|unlicense|notice)([-._].*)?$`)

// minCovered is how much of a text must be known to be that licence, in per cent. Lists of authors and dates make the rest.
const minCovered = 60

// barred are licences that may not be linked into a box.
var barred = regexp.MustCompile(`^(A?GPL|SSPL|BUSL|CC-BY-NC)`)

// licence is what a component is under, with the texts that have to go along.
type licence struct {
	expression string // SPDX
	texts      []string
}

// said is what a text itself says it means, in SPDX's words.
var said = regexp.MustCompile(`SPDX-License-Identifier: ([A-Za-z0-9.+-]+(?: (?:OR|AND|WITH) [A-Za-z0-9.+-]+)*)`)

// moduleLicence reads the licence of a Go module from the texts in its directory. What a text says of itself in SPDX's words counts; failing
// that, every licence that is recognised applies.
func moduleLicence(dir string) (licence, error) {
	var l licence
	var ids []string
	var declared string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return l, err
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return l, err
		}
		l.texts = append(l.texts, string(text))
		if strings.HasPrefix(strings.ToLower(e.Name()), "notice") {
			continue
		}
		if m := said.FindSubmatch(text); m != nil {
			declared = string(m[1])
		}
		found := recognise(text)
		for _, id := range found {
			if barred.MatchString(id) {
				return l, fmt.Errorf("%s is %s, which may not be linked into a box", filepath.Join(dir, e.Name()), id)
			}
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	if declared != "" {
		l.expression = declared
		return l, nil
	}
	if len(ids) == 0 {
		return l, fmt.Errorf("no licence is recognised in %s; look at it before it goes into a box, and teach tools/pack/licences.go to read it", dir)
	}
	slices.Sort(ids)
	l.expression = strings.Join(ids, " AND ")
	return l, nil
}

// recognise gives the SPDX ids of the licences in a text.
func recognise(text []byte) (ids []string) {
	c := licensecheck.Scan(text)
	if c.Percent < minCovered {
		return nil
	}
	for _, m := range c.Match {
		if id := m.ID; !m.IsURL && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// licenceTexts is the file that goes along with the programs: each text once, with those it applies to.
func licenceTexts(parts []component) []byte {
	const line = "================================================================================\n"
	var b bytes.Buffer
	b.WriteString("Licences of what is in this image / Lizenzen der Bestandteile dieses Abbilds\n\n")
	for _, p := range parts {
		fmt.Fprintf(&b, "%s %s: %s\n", p.name, p.version, p.licence.expression)
	}
	b.WriteString("\nSources of Hallig itself are on the box (/source). Where the sources of the other parts are is said in sbom.cdx.json.\n")
	var texts []string
	users := make(map[string][]string)
	for _, p := range parts {
		for _, text := range p.licence.texts {
			text = strings.ReplaceAll(strings.TrimSpace(text), "\r\n", "\n") + "\n"
			if users[text] == nil {
				texts = append(texts, text)
			}
			if who := p.name + " " + p.version; !slices.Contains(users[text], who) {
				users[text] = append(users[text], who)
			}
		}
	}
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s%s\n%s\n%s", line, strings.Join(users[text], "\n"), line, text)
	}
	return b.Bytes()
}
