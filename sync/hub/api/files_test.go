// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestReadFiles(t *testing.T) {
	many := Files{Files: make([]File, MaxFiles+1)}
	for i := range many.Files {
		many.Files[i] = File{ID: fmt.Sprint(i)}
	}
	tooMany, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	for raw, ok := range map[string]bool{
		`{"files":[{"id":"aZ09-_","bytes":3,"at":1}]}`: true, `{}`: true, `{"files":[]}`: true,
		`{"files":[{"id":"","bytes":3}]}`: false, `{"files":[{"id":"../x","bytes":3}]}`: false, `{"files":[{"id":"a/32x32/true","bytes":3}]}`: false, `{"files":[{"id":"a","bytes":-1}]}`: false,
		`{"files":[{"id":"` + strings.Repeat("a", 256) + `"}]}`: false, `{"files":{}}`: false, ``: false, string(tooMany): false, strings.Repeat(" ", MaxFilesBytes) + `{}`: false,
	} {
		if _, err := ReadFiles([]byte(raw)); (err == nil) != ok {
			t.Errorf("%.60s: %v", raw, err)
		}
	}
}

func FuzzReadFiles(f *testing.F) {
	f.Add([]byte(`{"files":[{"id":"abc","bytes":3,"at":1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ReadFiles(raw)
		if err != nil {
			return
		}
		for _, file := range l.Files {
			if strings.ContainsAny(file.ID, "/.%?#") || file.ID == "" || file.Bytes < 0 {
				t.Fatalf("%q gives %+v", raw, file)
			}
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ReadFiles(again); err != nil || !reflect.DeepEqual(l, m) {
			t.Fatalf("%+v comes back as %+v, %v", l, m, err)
		}
	})
}
