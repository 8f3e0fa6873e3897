// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// component is one thing in the image, in the words of the bill of materials.
type component struct {
	kind          cdx.ComponentType
	name, version string
	purl          string
	sha512        string
	licence       licence
	note          string
	source        string // where its sources are, when no purl says it
	uses          []string
}

func (c component) ref() string {
	if c.purl != "" && c.kind == cdx.ComponentTypeLibrary {
		return c.purl
	}
	return c.name + "@" + c.version
}

// programs are where the image has its own programs.
var programs = []string{"gokrazy", "user"}

// makeBOM writes the bill of materials of the root and of the boot partition, CycloneDX 1.6 with a SHA-512 for each part, and the licences' texts.
func (j *job) makeBOM(tree string) (bom, licences []byte, err error) {
	parts, err := j.programParts(tree)
	if err != nil {
		return nil, nil, err
	}
	more, err := j.systemParts(tree)
	if err != nil {
		return nil, nil, err
	}
	parts = append(parts, more...)
	slices.SortStableFunc(parts, func(a, b component) int { return cmp.Compare(a.ref(), b.ref()) })
	parts = slices.CompactFunc(parts, func(a, b component) bool { return a.ref() == b.ref() })
	bom, err = j.encodeBOM(parts)
	return bom, licenceTexts(parts), err
}

// programParts lists the programs and, from what the linker has noted in them, every module in them.
func (j *job) programParts(tree string) (parts []component, err error) {
	own, err := os.ReadFile(filepath.Join(j.src.dir, "LICENSE"))
	if err != nil {
		return nil, err
	}
	modules := make(map[string]bool) // module@version
	for _, dir := range programs {
		names, err := filepath.Glob(filepath.Join(tree, dir, "*"))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			info, err := buildinfo.ReadFile(name)
			if err != nil {
				return nil, err
			}
			body, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			path := dir + "/" + filepath.Base(name)
			j.manifest.Programs = append(j.manifest.Programs, describe(path, body))
			p := component{kind: cdx.ComponentTypeApplication, name: path, version: j.src.Version, sha512: hash(body), licence: licence{"EUPL-1.2", []string{string(own)}}, note: info.Path,
				uses: []string{goRef(info.GoVersion)}}
			for _, m := range info.Deps {
				if m.Replace != nil {
					m = m.Replace
				}
				modules[m.Path+"@"+m.Version] = true
				p.uses = append(p.uses, modulePURL(m.Path, m.Version))
				if m.Path == sqliteModule {
					p.uses = append(p.uses, "sqlite")
				}
			}
			if slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "1"}) {
				p.uses = append(p.uses, "glibc")
			}
			parts = append(parts, p)
		}
	}
	list := make([]string, 0, len(modules))
	for m := range modules {
		list = append(list, m)
	}
	slices.Sort(list)
	mods, err := j.modules(j.src.dir, list)
	if err != nil {
		return nil, err
	}
	for _, m := range mods {
		l, err := moduleLicence(m.Dir)
		if err != nil {
			return nil, err
		}
		c, err := m.component(l)
		if err != nil {
			return nil, err
		}
		parts = append(parts, c)
		if m.Path == sqliteModule {
			c, err := sqlite(m.Dir)
			if err != nil {
				return nil, err
			}
			parts = append(parts, c)
		}
	}
	return parts, nil
}

func modulePURL(path, version string) string { return "pkg:golang/" + path + "@" + version }

func hash(body []byte) string {
	sum := sha512.Sum512(body)
	return hex.EncodeToString(sum[:])
}

// encodeBOM writes the parts in CycloneDX. Time and serial number follow from the commit, so that the same commit gives the same bytes.
func (j *job) encodeBOM(parts []component) ([]byte, error) {
	b := cdx.NewBOM()
	id := sha512.Sum512([]byte("hallig " + j.board.name + " " + j.src.Commit + " " + j.src.Version))
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // a version 8 UUID, RFC 9562
	b.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	image := "image@" + j.src.Version
	b.Metadata = &cdx.Metadata{
		Timestamp: j.src.Time.Format("2006-01-02T15:04:05Z"),
		Component: &cdx.Component{Type: cdx.ComponentTypeFirmware, BOMRef: image, Name: "hallig-" + j.board.name, Version: j.src.Version, Licenses: expression("EUPL-1.2")},
		Tools:     &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "hallig/tools/pack", Version: j.src.Version}}},
	}
	used := make(map[string]bool)
	var list []cdx.Component
	var deps []cdx.Dependency
	for _, p := range parts {
		c := cdx.Component{Type: p.kind, BOMRef: p.ref(), Name: p.name, Version: p.version, PackageURL: p.purl, Description: p.note,
			Licenses: expression(p.licence.expression), Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA512, Value: p.sha512}}}
		if p.source != "" {
			c.ExternalReferences = &[]cdx.ExternalReference{{Type: cdx.ERTypeSourceDistribution, URL: p.source}}
		}
		list = append(list, c)
		uses := make([]string, 0, len(p.uses))
		for _, u := range p.uses {
			if i := slices.IndexFunc(parts, func(q component) bool { return q.ref() == u || q.name == u }); i >= 0 {
				uses = append(uses, parts[i].ref())
				used[parts[i].ref()] = true
			} else {
				return nil, fmt.Errorf("%s uses %s, which is not listed", p.name, u)
			}
		}
		slices.Sort(uses)
		deps = append(deps, cdx.Dependency{Ref: p.ref(), Dependencies: &uses})
	}
	var top []string
	for _, p := range parts {
		if !used[p.ref()] {
			top = append(top, p.ref())
		}
	}
	deps = append(deps, cdx.Dependency{Ref: image, Dependencies: &top})
	b.Components, b.Dependencies = &list, &deps
	b.Compositions = &[]cdx.Composition{{Aggregate: cdx.CompositionAggregateComplete, Assemblies: &[]cdx.BOMReference{cdx.BOMReference(image)}}}
	var out bytes.Buffer
	err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(b, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

// expression puts an SPDX expression, or the id of one licence, into the form that the schema wants. LicenseRef is a text of our own naming.
func expression(spdx string) *cdx.Licenses {
	if strings.ContainsAny(spdx, " ") {
		return &cdx.Licenses{{Expression: spdx}}
	}
	if strings.HasPrefix(spdx, "LicenseRef-") {
		return &cdx.Licenses{{License: &cdx.License{Name: strings.TrimPrefix(spdx, "LicenseRef-")}}}
	}
	return &cdx.Licenses{{License: &cdx.License{ID: spdx}}}
}
