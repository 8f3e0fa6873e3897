// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"testing"
)

func FuzzContact(f *testing.F) {
	f.Add([]byte(`{"version":"1","mode":"sealed","statement":"AA==","key_document":{},"clock":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ReadContact(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= MaxContact {
			if _, err := ReadContact(again); err != nil {
				t.Errorf("%s reads, %s does not: %v", raw, again, err)
			}
		}
	})
}

func FuzzUser(f *testing.F) {
	f.Add([]byte(`{"profile":{},"one_time":{"D":{"signed_curve25519:A":{}}},"fallback":{"D":{"a:b":1}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := ReadUser(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= MaxUser {
			if _, err := ReadUser(again); err != nil {
				t.Errorf("%s reads, %s does not: %v", raw, again, err)
			}
		}
	})
}
