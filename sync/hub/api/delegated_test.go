// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"strings"
	"testing"
)

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"server":"hub.test","mode":"delegate","time":1,"waiting":[],"delegated":{"id":"ed25519:hub_a1","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","document":{}}}`))
	f.Add([]byte(`{"delegated":{"id":"ed25519:","key":""}}`))
	f.Add([]byte(`{"delegated":{"id":"curve25519:a","key":"AAAA"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := ReadAnswer(raw)
		if err != nil {
			return
		}
		if d := a.Delegated; d != nil && (len(d.Key) != 32 || !strings.HasPrefix(d.ID, "ed25519:") || strings.ContainsAny(d.ID, " \n")) {
			t.Errorf("%s gives the key %q, %x", raw, d.ID, d.Key)
		}
	})
}
