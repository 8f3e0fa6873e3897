// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/xeipuuv/gojsonschema"
)

// bomSchema is CycloneDX's own schema of the version that we write; it comes with the library.
func bomSchema(t *testing.T) *gojsonschema.Schema {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	from := func(name string) gojsonschema.JSONLoader {
		return gojsonschema.NewReferenceLoader("file://" + filepath.Join(strings.TrimSpace(string(out)), "schema", name))
	}
	loader := gojsonschema.NewSchemaLoader()
	for id, name := range map[string]string{"spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		if err := loader.AddSchema("http://cyclonedx.org/schema/"+id, from(name)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := loader.Compile(from("bom-1.6.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkBOM holds a bill of materials against the schema, and against what a schema cannot say: each part has a SHA-512 and a licence, and each
// reference leads somewhere.
func checkBOM(t *testing.T, bom []byte) (names []string) {
	t.Helper()
	result, err := bomSchema(t).Validate(gojsonschema.NewBytesLoader(bom))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range result.Errors() {
		t.Errorf("schema: %s", e)
	}
	var b struct {
		Components []struct {
			Ref      string `json:"bom-ref"`
			Name     string
			Version  string
			Hashes   []struct{ Alg, Content string }
			Licenses []json.RawMessage
		}
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
		Metadata struct {
			Component struct {
				Ref string `json:"bom-ref"`
			}
		}
	}
	if err := json.Unmarshal(bom, &b); err != nil {
		t.Fatal(err)
	}
	sum := regexp.MustCompile(`^[0-9a-f]{128}$`)
	known := map[string]bool{b.Metadata.Component.Ref: true}
	for _, c := range b.Components {
		names = append(names, c.Name)
		if known[c.Ref] {
			t.Errorf("%s is listed twice", c.Ref)
		}
		known[c.Ref] = true
		if len(c.Hashes) != 1 || c.Hashes[0].Alg != "SHA-512" || !sum.MatchString(c.Hashes[0].Content) {
			t.Errorf("%s has no SHA-512: %v", c.Ref, c.Hashes)
		}
		if len(c.Licenses) != 1 || c.Version == "" {
			t.Errorf("%s has %d licences and version %q", c.Ref, len(c.Licenses), c.Version)
		}
	}
	for _, d := range b.Dependencies {
		for _, ref := range append(d.DependsOn, d.Ref) {
			if !known[ref] {
				t.Errorf("%s depends on %s, which is not listed", d.Ref, ref)
			}
		}
	}
	return names
}

// testJob is a job of the sources that the test was built from.
func testJob(t *testing.T, boardName string) *job {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	src := source{dir: root, schema: 8, sourceFacts: sourceFacts{Version: "1.0", Release: 7, Commit: strings.Repeat("ab", 20), Time: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Files: []string{"LICENSE", "go.mod"}}}
	keys, err := loadKeys(t.TempDir(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return &job{ctx: t.Context(), src: src, board: boards[boardName], keys: keys, dir: t.TempDir(), manifest: newManifest(src, boards[boardName], keys)}
}

func TestBOMRefusesALooseEnd(t *testing.T) {
	j := testJob(t, "amd64")
	part := component{kind: "library", name: "a", version: "1", sha512: hash(nil), licence: licence{expression: "MIT"}, uses: []string{"pkg:golang/nobody@1"}}
	if _, err := j.encodeBOM([]component{part}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("a part that uses what is not listed: %v", err)
	}
}
