// SPDX-License-Identifier: EUPL-1.2

package layers

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "hallig"

// pkg is what `go list -json` tells of one package.
type pkg struct {
	ImportPath, Name, Dir, Doc string
	GoFiles, Imports           []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Dir,Doc,GoFiles,Imports", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return pkgs
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		pkgs = append(pkgs, p)
	}
}

// covers says whether one of the patterns names the room.
func covers(patterns []string, room string) bool {
	for _, p := range patterns {
		if p == "..." || p == room {
			return true
		}
		if below, ok := strings.CutSuffix(p, "/..."); ok && strings.HasPrefix(room, below+"/") {
			return true
		}
	}
	return false
}

// giantOf gives the module of the table that an import path belongs to.
func giantOf(imp string) (string, bool) {
	for mod := range Giants {
		if imp == mod || strings.HasPrefix(imp, mod+"/") {
			return mod, true
		}
	}
	return "", false
}

func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".") && first != module
}

// TestRooms holds every package of the module against the table.
func TestRooms(t *testing.T) {
	badNames := []string{"util", "utils", "common", "types", "helpers", "base", "shared", "misc", "manager"}
	pkgs := list(t)
	if len(pkgs) < 10 {
		t.Fatalf("go list found %d packages: the test looks at the wrong place", len(pkgs))
	}
	std := standardPackages(t)
	for _, p := range pkgs {
		room := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		top, _, _ := strings.Cut(room, "/")
		if !slices.Contains([]string{"appliance", "sync", "radio", "cmd", "tools"}, top) {
			t.Errorf("%s: no Go package may live here", p.ImportPath)
			continue
		}
		if room == "sync" || room == "image" {
			t.Errorf("%s: this folder carries the name of a standard package and holds no Go file", room)
		}
		rule, listed := Rooms[room]
		if !listed && top != "tools" {
			t.Errorf("%s: not in the table of rooms; add it to tools/layers with its duty", room)
			continue
		}
		if p.Name != "main" && p.Name != path.Base(room) {
			t.Errorf("%s: package is called %s; package name = folder name", room, p.Name)
		}
		if p.Name != "main" && (slices.Contains(badNames, p.Name) || slices.Contains(std, p.Name) && top != "tools") {
			t.Errorf("%s: %q is no name for a room", room, p.Name)
		}
		if strings.TrimSpace(p.Doc) == "" {
			t.Errorf("%s: no package comment; it is the room's charter", room)
		}
		for _, imp := range p.Imports {
			checkImport(t, room, top, rule, imp)
		}
		if rule.Pure {
			checkPure(t, room, p)
		}
	}
}

func checkImport(t *testing.T, room, top string, rule Room, imp string) {
	t.Helper()
	switch {
	case imp == module || strings.HasPrefix(imp, module+"/"):
		other := strings.TrimPrefix(imp, module+"/")
		if strings.HasPrefix(room, other+"/") {
			t.Errorf("%s imports its parent %s", room, other)
		}
		if top != "tools" && !covers(rule.Uses, other) {
			t.Errorf("%s imports %s: not in its row of the table", room, other)
		}
	case imp == "C" || standard(imp):
		if imp == "database/sql" && room != "appliance/store" && room != "sync/hub/spool" {
			t.Errorf("%s imports database/sql: SQL lives in appliance/store and sync/hub/spool", room)
		}
	default:
		mod, known := giantOf(imp)
		if !known {
			t.Errorf("%s imports %s: no reason for it in tools/layers", room, imp)
		} else if top != "tools" && !slices.Contains(Giants[mod].In, room) {
			t.Errorf("%s imports %s: that library lives in %s", room, imp, strings.Join(Giants[mod].In, ", "))
		}
	}
}

var impureImports = []string{"os", "net", "net/http", "database/sql", "sync", "log", "log/slog", "crypto/rand"}
var impureTime = []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}

// checkPure looks for clocks, files, locks and logs in a room that promised to have none.
func checkPure(t *testing.T, room string, p pkg) {
	t.Helper()
	for _, imp := range p.Imports {
		if slices.Contains(impureImports, imp) {
			t.Errorf("%s is pure and imports %s", room, imp)
		}
	}
	for _, name := range p.GoFiles {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Fatalf("parse %s/%s: %v", room, name, err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && x.Obj == nil && slices.Contains(impureTime, sel.Sel.Name) {
				t.Errorf("%s: %s is pure and calls time.%s", fset.Position(sel.Pos()), room, sel.Sel.Name)
			}
			return true
		})
	}
}

// standardPackages gives the last elements of the standard library's import paths, less those that the
// architecture grants (sync and image, as folders).
func standardPackages(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "std").Output()
	if err != nil {
		t.Fatalf("go list std: %v", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if !strings.Contains(line, "internal") && !strings.Contains(line, "vendor") {
			names = append(names, path.Base(line))
		}
	}
	return names
}

// TestHeaders wants the licence line at the head of each source file.
func TestHeaders(t *testing.T) {
	for _, p := range list(t) {
		names, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("list %s: %v", p.Dir, err)
		}
		for _, name := range names {
			head, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(head, []byte("// SPDX-License-Identifier: EUPL-1.2\n")) {
				t.Errorf("%s/%s: no licence line", p.ImportPath, filepath.Base(name))
			}
		}
	}
}

// TestOutsiders: programs and libraries that tests only compare with live in modules of their own and are never linked into the box.
func TestOutsiders(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}", "all").Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		for _, outsider := range Outsiders {
			if mod := strings.TrimSpace(line); mod == outsider || strings.HasPrefix(mod, outsider+"/") {
				t.Errorf("%s is a dependency of the box; it belongs in a module under tools only", mod)
			}
		}
	}
}

// TestNotLinked looks at everything that a program links.
func TestNotLinked(t *testing.T) {
	for program, mods := range NotLinked {
		out, err := exec.Command("go", "list", "-deps", module+"/"+program).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", program, err)
		}
		if !strings.Contains(string(out), "\nruntime\n") {
			t.Fatalf("%s links no runtime: the test looks at the wrong place", program)
		}
		for line := range strings.Lines(string(out)) {
			for _, mod := range mods {
				if dep := strings.TrimSpace(line); dep == mod || strings.HasPrefix(dep, mod+"/") {
					t.Errorf("%s links %s", program, dep)
				}
			}
		}
	}
}

// TestGiantsAreUsed keeps the list of reasons as short as the list of dependencies.
func TestGiantsAreUsed(t *testing.T) {
	used := map[string]bool{}
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			if mod, ok := giantOf(imp); ok {
				used[mod] = true
			}
		}
	}
	for mod := range Giants {
		if !used[mod] {
			t.Errorf("%s: in the table of dependencies, but nothing imports it", mod)
		}
	}
}
